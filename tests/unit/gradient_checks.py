"""Rows to learn, and gradients of a loss held against those of its formula."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from components.modeling.likelihood import EncodedRow

PAD = 0


def some_rows(weights: tuple[float, ...] = (1.0,)) -> list[EncodedRow]:
    rng = random.Random(2)
    rows = [[rng.randint(4, 13) for _ in range(rng.randint(3, 12))] for _ in range(6)]
    return [
        EncodedRow(ids, rng.randint(1, len(ids) - 1), weights[index % len(weights)])
        for index, ids in enumerate(rows)
    ]


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return list(torch.autograd.grad(loss, trained, materialize_grads=True))


def assert_same(own: Tensor, expected: Tensor, model: Any) -> None:
    """The same value and the same gradient of every weight."""
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5, check_dtype=False)
    for mine, other in zip(
        gradients(own, model), gradients(expected, model), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
