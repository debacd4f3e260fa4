"""What the options of the train section do to a real training: stages, packing, regularisers,
adapters, checks."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.contracts.recipe import LoraStructure
from components.contracts.rows import TrainingRow
from components.modeling.likelihood import CompletionLoss, EncodedRow, mean_loss
from components.modeling.load import load_model
from components.train.process.job import Stage
from tests.unit.tiny import save_tiny, tiny_model
from tests.unit.trainings import reversal, train

pytestmark = pytest.mark.process

TEXTS = ["(+)-*" * 10, "+-+-+-+-+-+-", "(*)", "(+) (-) (*) (+)"]
"""Of characters that no row to reverse has."""


def raw_text(count: int = 60) -> list[TrainingRow]:
    return [
        TrainingRow(
            id=f"text-{n}",
            prompt="",
            completion=TEXTS[n % 4],
            source="labelled",
            round=0,
        )
        for n in range(count)
    ]


def text_loss(folder: Path) -> float:
    """Mean loss per token on the raw text."""
    model, codec = load_model(folder), tiny_model()[1]
    rows = [EncodedRow(*codec.row_ids("", text)) for text in TEXTS]
    return mean_loss(CompletionLoss(model), rows, codec.pad_id, 4)


def distance(folder: Path, other: Path) -> float:
    """Euclidean distance between two models' weights."""
    mine, theirs = load_model(folder).state_dict(), load_model(other).state_dict()
    return math.sqrt(
        sum(float((mine[name] - theirs[name]).square().sum()) for name in theirs)
    )


def divergence(folder: Path, other: Path) -> float:
    """Mean KL divergence of a model's next tokens from another's."""
    codec, (model, base) = tiny_model()[1], (load_model(one) for one in (folder, other))
    total = 0.0
    for row in reversal(10, 5):
        ids = torch.tensor([codec.row_ids(row.prompt, row.completion)[0]])
        with torch.inference_mode():
            mine, theirs = (
                one(input_ids=ids).logits.log_softmax(-1) for one in (model, base)
            )
        total += float((mine.exp() * (mine - theirs)).sum(-1).mean()) / 10
    return total


def test_pretraining_comes_first_and_teaches_the_raw_text(tmp_path: Path) -> None:
    before = Stage(name="pretrain", steps=40, learning_rate=3e-3)
    after = Stage(name="sft", steps=10, learning_rate=3e-3)
    rows = [*raw_text(), *reversal(60, 0)]
    pretrain = {"pretrain": {"steps": 40}, "max_length": 16}
    # Labels get no likelier while raw text is learned: were they looked at, that would end it.
    done = train(
        tmp_path / "both",
        rows=rows,
        dev=reversal(40, 1),
        stages=(before, after),
        early_stopping_patience=1,
        evaluate_every=2,
        **pretrain,
    )
    assert [entry["stage"] for entry in done["log"]] == ["pretrain"] * 40 + ["sft"] * 10
    assert {
        entry["stage"] for entry in done["log"] if entry["dev_loss"] is not None
    } == {"sft"}
    assert (
        "stage pretrain: the dev split has no raw text, so it takes all of its steps"
        in done["said"]
    )
    assert done["best_step"] > 40
    assert done["first_loss"] == done["losses"][40]
    # A schedule of its own: the second stage warms up again.
    rates = [entry["learning_rate"] for entry in done["log"]]
    assert rates[39] < 1e-3 < rates[41]
    alone = train(tmp_path / "alone", rows=rows, stages=(before,), dev=[], **pretrain)
    assert alone["losses"][:40] == done["losses"][:40]
    assert text_loss(alone["folder"]) < 0.7 * text_loss(tmp_path / "alone" / "base")


def test_a_stage_that_ends_early_is_followed_by_the_next_one(tmp_path: Path) -> None:
    """Raw text that is learned soon ends its own stage, by raw text, and not the training."""
    rows = [*raw_text(), *reversal(60, 0)]
    other = "9876543210" * 2
    texts = [row.model_copy(update={"completion": other}) for row in raw_text(8)]
    done = train(
        tmp_path / "run",
        rows=rows,
        dev=[*texts, *reversal(40, 1)],
        stages=(
            Stage(name="pretrain", steps=40, learning_rate=3e-2),
            Stage(name="sft", steps=12, learning_rate=3e-3),
        ),
        pretrain={"steps": 40},
        max_length=32,
        early_stopping_patience=2,
        evaluate_every=2,
    )
    stages = [entry["stage"] for entry in done["log"]]
    first_stage = stages.count("pretrain")
    assert first_stage < 40
    assert stages == ["pretrain"] * first_stage + ["sft"] * 12
    assert f"stage pretrain ended early, at step {first_stage}" in done["said"]
    assert not done["stopped_early"]
    assert done["best_step"] > first_stage
    assert done["first_dev_loss"] == next(
        entry["dev_loss"]
        for entry in done["log"][first_stage:]
        if entry["dev_loss"] is not None
    )


def test_a_round_after_pretraining_goes_on_with_the_raw_text(tmp_path: Path) -> None:
    rows = [*raw_text(), *reversal(60, 0)]
    later = (Stage(name="sft", steps=30, learning_rate=3e-3),)
    done = train(
        tmp_path / "round",
        rows=rows,
        stages=later,
        pretrain={"steps": 40},
        max_length=16,
        dev=[],
    )
    assert text_loss(done["folder"]) < 0.9 * text_loss(tmp_path / "round" / "base")


def test_a_stage_without_rows_of_its_kind_says_what_it_needs(tmp_path: Path) -> None:
    stages = (Stage(name="pretrain", steps=2, learning_rate=1e-3),)
    done = train(tmp_path / "run", stages=stages, pretrain={"steps": 2})
    assert done["failure"]["kind"] == "UserError"
    assert "the pretrain stage learns from raw text" in done["failure"]["message"]


@pytest.mark.parametrize("architecture", ["llama", "llama-nope", "gpt2"])
def test_packing_changes_the_work_and_not_the_curve(
    architecture: str, tmp_path: Path
) -> None:
    common: dict[str, Any] = {
        "architecture": architecture,
        "steps": 8,
        "max_length": 48,
        "group_by_length": False,
    }
    padded = train(tmp_path / "padded", zero=0, **common)
    packed = train(tmp_path / "packed", zero=0, packing=True, **common)
    np.testing.assert_allclose(packed["losses"], padded["losses"], rtol=1e-4)
    assert padded["padding_share"] > 0.2
    assert packed["padding_share"] < 0.6 * padded["padding_share"]


def test_packing_leaves_every_process_equally_many_turns(tmp_path: Path) -> None:
    """ZeRO-3 would hang otherwise."""
    common: dict[str, Any] = {"architecture": "llama", "steps": 8, "max_length": 48}
    padded = train(tmp_path / "padded", zero=0, **common)
    shared = train(
        tmp_path / "shared",
        zero=3,
        packing=True,
        num_processes=2,
        micro_batch_size=2,
        **common,
    )
    np.testing.assert_allclose(shared["losses"], padded["losses"], rtol=1e-3)


def test_a_model_that_cannot_keep_rows_apart_is_not_packed(tmp_path: Path) -> None:
    common: dict[str, Any] = {"architecture": "lstm", "steps": 3, "max_length": 48}
    packed, padded = (
        train(tmp_path / "packed", packing=True, **common),
        train(tmp_path / "padded", **common),
    )
    assert (
        "train.packing is not used: LstmForCausalLM would let packed rows see each other"
        in packed["said"]
    )
    assert packed["losses"] == padded["losses"]


def test_weights_count_in_the_loss_if_asked_to(tmp_path: Path) -> None:
    """Rows of weight zero teach nothing, in either way."""
    kept, other = (
        reversal(100, 0),
        [row.model_copy(update={"weight": 0.0}) for row in raw_text(20)],
    )
    for weighting in ("loss", "sampling"):
        done = train(
            tmp_path / weighting,
            rows=[*kept, *other],
            steps=30,
            weighting=weighting,
            max_length=64,
        )
        untaught = text_loss(done["folder"]) - text_loss(tmp_path / weighting / "base")
        assert untaught > -0.15, weighting
    taught = train(
        tmp_path / "taught",
        rows=[*kept, *raw_text(20)],
        steps=30,
        weighting="loss",
        max_length=64,
    )
    assert text_loss(taught["folder"]) < text_loss(tmp_path / "taught" / "base") - 0.15


def test_regularisers_hold_the_model_near_its_base(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base-model")
    common: dict[str, Any] = {"init": base, "base": base, "steps": 25}
    free = train(tmp_path / "free", **common)
    held = train(tmp_path / "held", kl_beta=2.0, **common)
    assert divergence(held["folder"], base) < 0.5 * divergence(free["folder"], base)
    assert held["losses"][0] == pytest.approx(free["losses"][0], abs=1e-5), (
        "at the base itself there is no divergence"
    )
    between = train(tmp_path / "between", interpolate=True, **common)
    assert between["interpolation_share"] in (0.25, 0.5, 0.75, 1.0)
    losses = between["interpolation_losses"]
    assert losses[str(between["interpolation_share"])] == min(losses.values())
    assert distance(between["folder"], base) == pytest.approx(
        between["interpolation_share"] * distance(free["folder"], base), rel=1e-3
    )


def test_dropout_and_noise_are_for_training_alone(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", architecture="gpt2", steps=4)
    for name, options in (
        ("dropout", {"dropout": 0.3}),
        ("noise", {"neftune_alpha": 10.0}),
    ):
        done = train(tmp_path / name, architecture="gpt2", steps=4, **options)
        assert done["losses"] != plain["losses"], name
        config = (done["folder"] / "config.json").read_text()
        assert '"resid_pdrop": 0.0' in config, "the exported model has none"


def test_activation_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", architecture="llama", steps=4)
    saving = train(
        tmp_path / "saving",
        architecture="llama",
        steps=4,
        activation_checkpointing=True,
    )
    np.testing.assert_allclose(saving["losses"], plain["losses"], rtol=1e-5)


def test_adapters_train_beside_a_frozen_base_grow_and_are_merged(
    tmp_path: Path,
) -> None:
    base = save_tiny(tmp_path / "base-model", "llama")
    small = LoraStructure(rank=2, targets=("q_proj", "v_proj"))
    first = train(tmp_path / "first", init=base, lora=small, steps=20)
    assert first["final_loss"] < first["first_loss"]
    assert {path.name for path in (first["output"] / "adapter").iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "structure.json",
    }
    trained, before = (
        load_model(first["folder"]).state_dict(),
        load_model(base).state_dict(),
    )
    changed = {name for name in before if not torch.equal(trained[name], before[name])}
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)
    # Grown, it goes on where it was: the first loss is that of the exported model.
    grown = LoraStructure(
        rank=4, targets=("q_proj", "v_proj", "o_proj"), unfrozen_layers=1
    )
    adapter = first["output"] / "adapter"
    more = train(
        tmp_path / "more",
        init=base,
        adapter=adapter,
        lora=grown,
        steps=6,
        evaluate_every=1,
    )
    full = train(tmp_path / "full", init=first["folder"], steps=6, evaluate_every=1)
    assert more["losses"][0] == pytest.approx(full["losses"][0], rel=1e-5)
    assert more["best_dev_loss"] < more["first_dev_loss"]


def test_adapters_follow_one_curve_at_every_stage(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base-model", "llama")
    lora = LoraStructure(rank=2, unfrozen_layers=1)
    plain = train(tmp_path / "plain", init=base, lora=lora, zero=0)
    for name, options in (
        ("two", {"zero": 2, "num_processes": 2}),
        ("three", {"zero": 3}),
    ):
        done = train(tmp_path / name, init=base, lora=lora, **options)
        np.testing.assert_allclose(
            done["losses"], plain["losses"], atol=1e-3, err_msg=name
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": {"max_length": 8}},
            "the longest row has .* tokens, the model sees 8: lower train.max_length",
        ),
        (
            {
                "rows": [
                    TrainingRow(
                        id="a",
                        prompt="1" * 600,
                        completion="1",
                        source="labelled",
                        round=0,
                    )
                ]
            },
            "1 of 1 rows are longer than train.max_length 512",
        ),
        (
            {
                "rows": [
                    TrainingRow(
                        id="a", prompt="", completion="12", source="labelled", round=0
                    )
                ],
                "pretrain": {"steps": 1},
                "stages": (
                    Stage(name="pretrain", steps=1, learning_rate=1e-3),
                    Stage(name="sft", steps=1, learning_rate=1e-3),
                ),
            },
            "the sft stage learns from rows with a prompt",
        ),
    ],
)
def test_what_cannot_be_taught_is_refused_before_the_first_step(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    done = train(tmp_path / "run", **settings)
    assert (done["status"], done["failure"]["kind"]) == (2, "UserError")
    assert re.search(message, done["failure"]["message"])


def test_a_training_tells_its_layout_its_cost_and_how_answers_end(
    tmp_path: Path,
) -> None:
    done = train(
        tmp_path / "run",
        steps=120,
        zero="auto",
        micro_batch_size="auto",
        precision="auto",
    )
    assert (
        "ZeRO 0, micro-batch 16, fp32: about 0.00 GiB for weights, gradients and moments"
        in done["said"]
    )
    assert "minutes of training" in done["said"]
    assert done["layout"] == {
        "zero_stage": 0,
        "offload": False,
        "micro_batch_size": 16,
        "precision": "fp32",
        "state_bytes": done["layout"]["state_bytes"],
        "activation_bytes": done["layout"]["activation_bytes"],
    }
    assert done["end_of_text_share"] > 0.5
    entry = done["log"][3]
    assert entry["gradient_norm"] > 0
    assert 0 <= entry["padding_share"] < 1
    assert entry["dev_loss"] is not None
