"""Weight interpolation: the formula, in float32, and the lowest dev loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from components.modeling.likelihood import (
    CompletionLoss,
    EncodedRow,
    collate,
    mean_loss,
)
from components.train.process.interpolate import choose_share, interpolate
from tests.unit.tiny import tiny_model

SHARES = (0.25, 0.5, 0.75, 1.0)


def test_of_weights_tuned_too_far_those_on_the_way_are_chosen() -> None:
    model, codec = tiny_model("llama", seed=1)
    rows = [
        EncodedRow(*codec.row_ids(f"{text}=", text[::-1]))
        for text in ("12", "345", "6789", "01")
    ]
    loss = CompletionLoss(model)

    def loss_of(weights: Mapping[str, Tensor]) -> float:
        model.load_state_dict(dict(weights))
        return mean_loss(loss, rows, codec.pad_id, 4)

    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    from_training = loss_of(base)
    batch_loss = loss(collate(rows, codec.pad_id)) / sum(
        row.num_targets for row in rows
    )
    batch_loss.backward()
    optimizer.step()
    tuned = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    chosen = choose_share(base, tuned, loss_of)
    expected = {
        share: loss_of(
            {name: (1 - share) * base[name] + share * tuned[name] for name in base}
        )
        for share in SHARES
    }
    assert chosen.losses == pytest.approx(expected)
    assert chosen.share == min(expected, key=expected.__getitem__) < 1.0
    assert loss_of(chosen.weights) == pytest.approx(chosen.losses[chosen.share])
    assert chosen.losses[chosen.share] < min(from_training, chosen.losses[1.0])
    assert choose_share(base, tuned, loss_of, shares=(1.0,)).share == 1.0


def test_weights_are_mixed_in_float32_whatever_they_are_kept_in() -> None:
    base, tuned = (
        dict(tiny_model(seed=seed)[0].bfloat16().state_dict()) for seed in (0, 1)
    )
    mixed = interpolate(base, tuned, 0.3)
    for name, tensor in mixed.items():
        assert tensor.dtype == torch.float32
        exact = 0.7 * base[name].double() + 0.3 * tuned[name].double()
        torch.testing.assert_close(tensor.double(), exact, rtol=1e-6, atol=1e-7)
    whole = interpolate(base, tuned, 1.0)
    assert all(torch.equal(whole[name], tuned[name].float()) for name in tuned)


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ({0.25: 1.0, 0.5: 1.0, 0.75: 1.0, 1.0: 1.0}, 1.0),
        ({0.25: 0.9, 0.5: 0.9, 0.75: 1.0, 1.0: 1.0}, 0.5),
        ({0.25: 1.0, 0.5: 2.0, 0.75: math.inf, 1.0: math.nan}, 0.25),
        (dict.fromkeys(SHARES, math.nan), 1.0),
    ],
)
def test_of_equal_losses_the_one_that_changes_least_is_chosen(
    losses: dict[float, float], share: float
) -> None:
    chosen = choose_share(
        {"w": torch.zeros(1)},
        {"w": torch.ones(1)},
        lambda weights: losses[float(weights["w"])],
    )
    assert chosen.share == share
    assert chosen.weights["w"].item() == share


def test_weights_of_different_models_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="differ in name or shape: b"):
        interpolate(
            {"a": torch.zeros(2), "b": torch.zeros(2)},
            {"a": torch.zeros(2), "b": torch.zeros(3)},
            0.5,
        )
