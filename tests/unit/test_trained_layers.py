"""Real trainings of a model with inserted, removed and frozen layers (`train.layers`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from components.contracts.recipe import LayerStructure
from components.modeling.blocks import depth_of, inserted_layers
from components.modeling.load import load_model
from tests.unit.tiny import save_tiny
from tests.unit.trainings import carry_out, make_job, paired, reversal, train

pytestmark = pytest.mark.process


def layered(folder: Path, layers: LayerStructure, **settings: Any) -> dict[str, Any]:
    """A training with a structure, of a base with two layers."""
    job = make_job(folder, **settings)
    return carry_out(job.model_copy(update={"layers": layers, "base_layers": 2}))


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Weights as any user of transformers reads them."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def changed(
    folder: Path, base: Path, renamed: dict[str, str] | None = None
) -> set[str]:
    """Names of a trained model's weights that are not the base's, of which some have new names."""
    old_names = renamed or {}
    base_weights = weights_of(base)
    names = set()
    for name, weight in weights_of(folder).items():
        old_name = name
        for new, old in old_names.items():
            old_name = old_name.replace(new, old)
        if not torch.equal(weight, base_weights[old_name]):
            names.add(name)
    return names


def test_a_training_with_inserted_layers_begins_where_one_without_does(
    tmp_path: Path,
) -> None:
    base = save_tiny(tmp_path / "base", "llama")
    plain = train(tmp_path / "plain", init=base, key="a" * 32)
    deeper = layered(
        tmp_path / "deeper", LayerStructure(extra=2), init=base, key="b" * 32
    )
    assert deeper["losses"][0] == plain["losses"][0]
    assert deeper["losses"][-1] != plain["losses"][-1]
    assert (
        "the model gets 4 decoder layers: identities are inserted behind 0, 1"
        in deeper["said"]
    )
    assert deeper["final_loss"] < deeper["first_loss"]
    assert depth_of(deeper["folder"] / "config.json") == 4
    assert inserted_layers(load_model(deeper["folder"]).config) == (1, 3)
    # Everything is trained.
    old_names = {f"layers.{layer}.": f"layers.{layer // 2}." for layer in range(1, 4)}
    names = changed(deeper["folder"], base, old_names)
    weights = [
        "embed_tokens.weight",
        *(f"layers.{layer}.mlp.up_proj.weight" for layer in range(4)),
    ]
    assert {f"model.{name}" for name in weights} <= names


@pytest.mark.parametrize("zero", [{"zero": 0}, {"zero": 3, "num_processes": 2}])
def test_inserted_layers_alone_are_trained_and_the_base_stays_bit_by_bit(
    tmp_path: Path, zero: dict[str, Any]
) -> None:
    base = save_tiny(tmp_path / "base", "gpt2")
    structure = LayerStructure(extra=1, trained="inserted")
    done = layered(tmp_path / "run", structure, init=base, steps=30, **zero)
    assert done["final_loss"] < done["first_loss"]
    # Layer 2 is the copy of layer 1.
    names = changed(done["folder"], base, {"h.2.": "h.1."})
    assert names
    assert all(".h.2." in name for name in names)
    assert "transformer.h.2.attn.c_proj.weight" in names


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "lstm"])
def test_the_last_layers_alone_are_trained(tmp_path: Path, architecture: str) -> None:
    base = save_tiny(tmp_path / "base", architecture)
    done = layered(tmp_path / "run", LayerStructure(trained=1), init=base, steps=30)
    assert done["final_loss"] < done["first_loss"]
    marks = {"llama": ".layers.1.", "gpt2": ".h.1.", "lstm": "_l1"}
    names = changed(done["folder"], base)
    last_layer = {name for name in weights_of(base) if marks[architecture] in name}
    assert names <= last_layer
    assert len(names) > len(last_layer) / 2
    everything = layered(
        tmp_path / "all", LayerStructure(trained=9), init=base, steps=2, key="b" * 32
    )
    assert any(
        mark in name
        for name in changed(everything["folder"], base)
        for mark in (".0.", "_l0")
    )


def test_layers_are_taken_out_and_the_rest_learns(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "llama", num_layers=2)
    done = layered(tmp_path / "run", LayerStructure(extra=-1), init=base, steps=30)
    assert "the model gets 1 decoder layers: left are" in done["said"]
    assert depth_of(done["folder"] / "config.json") == 1
    assert len(load_model(done["folder"]).model.layers) == 1
    assert done["final_loss"] < done["first_loss"]


def test_a_champions_depth_is_brought_to_the_planned_one(tmp_path: Path) -> None:
    """Grown by one more, left alone, and back to the base's."""
    structure = LayerStructure(extra=1, trained="inserted")
    base = save_tiny(tmp_path / "base", "llama")
    champion = layered(tmp_path / "first", structure, init=base, key="a" * 32)["folder"]
    same = layered(tmp_path / "same", structure, init=champion, key="b" * 32)
    assert "decoder layers:" not in same["said"]
    assert all(".layers.2." in name for name in changed(same["folder"], champion))
    grown = structure.model_copy(update={"extra": 2})
    more = layered(tmp_path / "more", grown, init=champion, key="c" * 32)
    assert depth_of(more["folder"] / "config.json") == 4
    # 0, its copy or that of 1, …: both inserted layers are known.
    assert len(inserted_layers(load_model(more["folder"]).config)) == 2
    back = layered(tmp_path / "back", LayerStructure(), init=champion, key="d" * 32)
    assert depth_of(back["folder"] / "config.json") == 2


def test_a_deeper_model_begins_as_near_to_the_base_as_can_be(tmp_path: Path) -> None:
    """A reference of another depth computes the same at first: no preference, no divergence."""
    base = save_tiny(tmp_path / "base", "llama")
    structure = LayerStructure(extra=1)
    preferring = layered(
        tmp_path / "dpo",
        structure,
        init=base,
        reference=base,
        rows=paired(reversal(60, 0)),
        method="dpo",
        key="a" * 32,
    )
    assert preferring["losses"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert preferring["losses"][-1] < preferring["losses"][0]
    near = layered(
        tmp_path / "kl", structure, init=base, base=base, kl_beta=5.0, key="b" * 32
    )
    free = layered(tmp_path / "free", structure, init=base, key="c" * 32)
    assert near["losses"][0] == pytest.approx(free["losses"][0], abs=1e-5)
    assert near["losses"][-1] > free["losses"][-1]


def test_a_killed_training_of_inserted_layers_goes_on(tmp_path: Path) -> None:
    """The second training finds the checkpoints of the first, whose result was lost."""
    base = save_tiny(tmp_path / "base", "llama")
    structure = LayerStructure(extra=1, trained="inserted")
    settings: dict[str, Any] = {"init": base, "checkpoint_minutes": 0, "zero": 1}
    whole = layered(tmp_path / "whole", structure, **settings)
    again = layered(tmp_path / "again", structure, **settings)
    assert "going on from the checkpoint of step" in again["said"]
    np.testing.assert_array_equal(again["losses"], whole["losses"])
    mine, theirs = weights_of(again["folder"]), weights_of(whole["folder"])
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_more_layers_than_there_are_cannot_go(tmp_path: Path) -> None:
    done = layered(tmp_path / "run", LayerStructure(extra=-2))
    assert done["status"] == 2
    assert (
        "the base has 2 decoder layers, and one has to stay"
        in done["failure"]["message"]
    )
    lstm = layered(
        tmp_path / "lstm", LayerStructure(extra=1), architecture="lstm", key="b" * 32
    )
    assert lstm["status"] == 2
    assert "LstmForCausalLM has no list of decoder layers" in lstm["failure"]["message"]
