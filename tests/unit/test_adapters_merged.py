"""A merged model computes what its adapters do, and one that differs in a tensor is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.contracts.recipe import LoraStructure
from components.errors import RatchetError
from components.modeling.load import load_model, save_checkpoint
from components.train.process.adapter_merge import (
    merged_state,
    plain_state,
    verify_merge,
)
from components.train.process.adapters import attach, save_adapter
from tests.unit.adapting import CLOSE, SMALL, logits, made, trained
from tests.unit.tiny import ARCHITECTURES, save_tiny, tiny_model

STRUCTURES = [
    LoraStructure(rank=3, scale=0.7),
    LoraStructure(rank=2, unfrozen_layers=1),
    LoraStructure(rank=2, unfrozen_layers=2),
]


@pytest.mark.parametrize(
    "structure", STRUCTURES, ids=["adapters", "some in full", "all in full"]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_merged_model_is_exported_verified_and_computes_the_same(
    tmp_path: Path, architecture: str, structure: LoraStructure
) -> None:
    base = save_tiny(tmp_path / "base", architecture)
    model = trained(attach(load_model(base), structure))
    save_adapter(model, structure, tmp_path / "adapter")
    merged = merged_state(model)
    clean = load_model(base)
    clean.load_state_dict(merged, strict=False)
    save_checkpoint(clean, tiny_model(architecture)[1].tokenizer, tmp_path / "merged")
    exported = load_file(tmp_path / "merged" / "model.safetensors")
    assert (
        exported.keys() == load_file(base / "model.safetensors").keys() == merged.keys()
    )
    verify_merge(plain_state(load_model(base)), tmp_path / "adapter", exported)
    torch.testing.assert_close(
        logits(load_model(tmp_path / "merged")), logits(model), **CLOSE
    )


def nudged(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(merged: dict[str, Tensor]) -> None:
        merged[name] = merged[name].clone()
        merged[name].view(-1)[-1] *= 1 + 3e-5

    return change


ADAPTED, UNTOUCHED, IN_FULL = (
    f"model.{place}.weight"
    for place in ("layers.0.mlp.up_proj", "embed_tokens", "layers.1.mlp.up_proj")
)


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (nudged(ADAPTED), ADAPTED),
        (nudged(UNTOUCHED), UNTOUCHED),
        (nudged(IN_FULL), IN_FULL),
        (
            lambda merged: merged.pop(UNTOUCHED),
            f"{UNTOUCHED} is missing from the merged model",
        ),
        (
            lambda merged: merged.update({"surplus.weight": torch.zeros(2)}),
            "surplus.weight is unknown to the base",
        ),
        (
            lambda merged: merged.update(
                {ADAPTED: made("llama").get_parameter(ADAPTED).detach()}
            ),
            ADAPTED,
        ),
        (lambda merged: merged.update({ADAPTED: merged[ADAPTED].T}), ADAPTED),
        (
            lambda merged: merged.update({ADAPTED: merged[ADAPTED] * float("nan")}),
            ADAPTED,
        ),
    ],
    ids=[
        "adapted",
        "untouched",
        "in full",
        "missing",
        "surplus",
        "not merged",
        "turned",
        "nan",
    ],
)
def test_a_merged_model_that_differs_in_one_tensor_is_refused(
    tmp_path: Path, tamper: Callable[[dict[str, Tensor]], Any], named: str
) -> None:
    structure = SMALL.model_copy(update={"unfrozen_layers": 1})
    model = trained(attach(made("llama"), structure))
    save_adapter(model, structure, tmp_path)
    base, merged = plain_state(made("llama")), dict(merged_state(model))
    verify_merge(base, tmp_path, merged)
    tamper(merged)
    with pytest.raises(RatchetError, match=named):
        verify_merge(base, tmp_path, merged)


def test_a_merged_model_in_half_precision_is_within_its_rounding(
    tmp_path: Path,
) -> None:
    model = trained(attach(made("llama"), SMALL))
    save_adapter(model, SMALL, tmp_path)
    half = {name: one.to(torch.bfloat16) for name, one in merged_state(model).items()}
    verify_merge(plain_state(made("llama")), tmp_path, half)
