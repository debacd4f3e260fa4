"""Packing: the loss and gradients of rows on their own, and nothing of one row in another."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from components.modeling.likelihood import (
    Batch,
    CompletionLoss,
    EncodedRow,
    collate,
    split_head,
    states_of,
)
from components.modeling.lstm import LstmConfig, LstmForCausalLM
from components.train.process.packing import bins, collate_packed, keeps_rows_apart
from tests.unit.tiny import tiny_model

CASES = [
    (name, attention)
    for name in ("llama", "llama-nope", "gpt2")
    for attention in ("eager", "sdpa")
]


def model_of(architecture: str, attention: str) -> Any:
    model, _ = tiny_model(
        architecture, seed=3, max_length=16
    )  # the packed sequences below are longer than this
    model.set_attn_implementation(attention)
    return model


def some_rows(count: int = 9, longest: int = 14) -> list[EncodedRow]:
    rng = random.Random(1)
    lengths = [1, 2, *(rng.randint(3, longest) for _ in range(count - 2))]
    rows = [[rng.randint(4, 13) for _ in range(length)] for length in lengths]
    return [
        EncodedRow(ids, rng.randint(0, len(ids) - 1), rng.choice([0.5, 1.0, 2.0]))
        for ids in rows
    ]


def packed(rows: list[EncodedRow], capacity: int) -> Any:
    return collate_packed(
        [
            [rows[i] for i in group]
            for group in bins([len(row.ids) for row in rows], capacity)
        ],
        0,
    )


def loss_and_gradients(
    model: Any, batch: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = CompletionLoss(model)(batch)
    return loss.detach(), list(
        torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    )


@pytest.mark.parametrize(("architecture", "attention"), CASES)
def test_packed_rows_have_the_loss_and_gradients_of_rows_alone(
    architecture: str, attention: str
) -> None:
    model, rows = model_of(architecture, attention), some_rows()
    loss, gradients = loss_and_gradients(model, packed(rows, 32))
    expected = [loss_and_gradients(model, collate([row], 0)) for row in rows]
    torch.testing.assert_close(
        loss, torch.stack([one for one, _ in expected]).sum(), rtol=1e-5, atol=1e-5
    )
    for own, alone in zip(
        gradients, zip(*(each for _, each in expected), strict=True), strict=True
    ):
        torch.testing.assert_close(own, torch.stack(alone).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "attention"), CASES)
def test_no_logit_depends_on_another_row_of_the_sequence(
    architecture: str, attention: str
) -> None:
    model = model_of(architecture, attention)
    rows = [
        EncodedRow([5, 6, 7, 8], 1),
        EncodedRow([4, 9, 9], 1),
        EncodedRow([7, 7, 10, 11, 12], 1),
    ]
    batch = collate_packed([rows, rows[:1]], 0)
    body, head = split_head(model)
    own = {0: slice(0, 4), 1: slice(4, 7), 2: slice(7, 12)}
    with torch.inference_mode():
        before = head(states_of(body, batch))
        for changed, place in own.items():
            inputs = batch.input_ids.clone()
            inputs[0, place] = 13
            after = head(
                states_of(body, Batch(inputs, batch.labels, batch.position_ids))
            )
            for other, kept in own.items():
                assert torch.equal(before[0, kept], after[0, kept]) == (
                    other != changed
                )
            assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_stands_alone_in_its_sequence_and_what_is_padded_are_right_too(
    attention: str,
) -> None:
    model, rows = model_of("llama-nope", attention), some_rows(4)
    loss = CompletionLoss(model)
    with torch.inference_mode():
        expected = sum(float(loss(collate([row], 0))) for row in rows)
        for groups in ([[row] for row in rows], [rows[:3], rows[3:]], [rows]):
            assert float(loss(collate_packed(groups, 0))) == pytest.approx(
                expected, rel=1e-5
            )


def test_the_first_token_of_a_row_is_never_a_target() -> None:
    rows = [
        EncodedRow([5, 6], 0),
        EncodedRow([7, 8, 9], 0, weight=2.0),
        EncodedRow([10], 0),
    ]
    batch = collate_packed([rows], 0)
    assert batch.labels.tolist() == [[-100, 6, -100, 8, 9, -100]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 0]]
    assert batch.weights is not None
    assert batch.weights.tolist() == [[1.0, 1.0, 2.0, 2.0, 2.0, 1.0]]
    assert collate_packed([rows[:1]], 0).weights is None


def test_a_model_that_cannot_keep_packed_rows_apart_is_known_by_trying() -> None:
    for architecture, attention in CASES:
        assert keeps_rows_apart(model_of(architecture, attention)), (
            architecture,
            attention,
        )
    torch.manual_seed(0)
    recurrent = LstmForCausalLM(LstmConfig(vocab_size=16, hidden_size=32))
    assert not keeps_rows_apart(recurrent.train())
    assert recurrent.training


def test_rounding_of_large_outputs_is_not_taken_for_rows_that_see_each_other() -> None:
    model, _ = tiny_model("llama", seed=2)
    model.model.norm.weight.data.mul_(3000)
    assert keeps_rows_apart(model)


def test_every_row_is_in_one_bin_and_bins_are_nearly_full() -> None:
    rng = random.Random(0)
    lengths = [min(128, 1 + int(rng.expovariate(1 / 30))) for _ in range(1000)]
    groups = bins(lengths, 128)
    assert sorted(index for group in groups for index in group) == list(range(1000))
    assert all(sum(lengths[index] for index in group) <= 128 for group in groups)
    assert sum(lengths) / (128 * len(groups)) > 0.99
    assert groups == bins(lengths, 128)
    assert bins([], 8) == []
    assert bins([8, 8], 8) == [[0], [1]]


def test_a_row_longer_than_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens does not fit into 8"):
        bins([3, 9], 8)
