"""Training on one CUDA device: the same worker, DeepSpeed's bf16 with master weights, ZeRO 2 and 3,
offload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.trainings import train

VARIANTS: list[dict[str, Any]] = [
    {"zero": 1},
    {"zero": 2},
    {"zero": 3},
    {"zero": 2, "offload": True},
    {"zero": 3, "offload": True},
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The curve in fp32 at ZeRO stage 0."""
    return train(tmp_path_factory.mktemp("reference") / "plain", zero=0, steps=30)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 3e-2)])
def test_every_layout_follows_one_loss_curve(
    variant: dict[str, Any],
    precision: str,
    tolerance: float,
    reference: dict[str, Any],
    tmp_path: Path,
) -> None:
    done = train(tmp_path / "run", steps=30, precision=precision, **variant)
    np.testing.assert_allclose(done["losses"], reference["losses"], atol=tolerance)


def test_auto_picks_bf16_and_says_what_it_expects(tmp_path: Path) -> None:
    done = train(
        tmp_path / "run", zero="auto", precision="auto", micro_batch_size="auto"
    )
    assert done["layout"]["precision"] == "bf16"
    assert "ZeRO 1, micro-batch 16, bf16: about" in done["said"]
