"""Adapters on tiny real models, trained for a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.contracts.recipe import LoraStructure
from components.train.process.adapters import attach, save_adapter
from tests.unit.tiny import tiny_model

IDS = torch.tensor([[3, 9, 4, 11, 5, 7], [8, 2, 6, 6, 1, 10]])
SMALL = LoraStructure(rank=2, scale=1.5)
CLOSE = {"rtol": 0.0, "atol": 2e-6}  # of logits around 1


def made(architecture: str) -> Any:
    return tiny_model(architecture)[0]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.clone()


def trained(model: Any, steps: int = 2) -> Any:
    """Some steps of plain torch on what may be trained."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.05)
    for _ in range(steps):
        scores = model(input_ids=IDS).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            scores.reshape(-1, scores.shape[-1]), IDS[:, 1:].reshape(-1)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def adapter(
    folder: Path, architecture: str, structure: LoraStructure = SMALL
) -> tuple[Path, Tensor]:
    """The folder of a trained adapter, and what its model computes."""
    model = trained(attach(made(architecture), structure))
    save_adapter(model, structure, folder)
    return folder, logits(model)
