"""Trainings that meet broken numbers, too little memory, no room, or a tracking server that is not
there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.contracts.rows import TrainingRow
from components.modeling.load import load_model
from components.train.process.job import Job, Stage
from tests.mounts import with_small
from tests.unit.tiny import save_tiny, tiny_model
from tests.unit.trainings import carry_out, environment_of, make_job, reversal, train

POISON = "*"
"""A character whose embedding is infinite in the poisoned model."""


def poisoned(folder: Path) -> Path:
    """A model that is fine but for one vocabulary entry."""
    save_tiny(folder, "llama")
    token = tiny_model()[1].tokenizer.convert_tokens_to_ids(POISON)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_poison(row: TrainingRow) -> TrainingRow:
    return row.model_copy(update={"prompt": f"{POISON}{row.prompt}"})


@pytest.mark.parametrize(
    "options",
    [
        {"zero": 0},
        {"zero": 1},
        {"zero": 2},
        {"zero": 3},
        {"zero": 1, "precision": "bf16"},
        {"zero": 0, "num_processes": 2},
        {"zero": 2, "num_processes": 2},
        {"zero": 3, "num_processes": 2, "precision": "bf16"},
    ],
    ids=str,
)
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """One row of 64 is bad, so with two processes one of them alone meets it."""
    init, rows = poisoned(tmp_path / "base-model"), reversal(64, 0)
    rows[3] = with_poison(rows[3])
    done = train(
        tmp_path / "run",
        init=init,
        rows=rows,
        steps=8,
        batch_size=16,
        evaluate_every=99,
        **options,
    )
    dropped = [entry for entry in done["log"] if entry["dropped"] is not None]
    assert [entry["dropped"] for entry in dropped] == [["3"]] * len(dropped)
    assert done["skipped_steps"] == len(dropped) >= 1
    assert "dropped, weights unchanged" in done["said"]
    assert all(
        np.isfinite(entry["loss"]) for entry in done["log"] if entry["dropped"] is None
    )
    trained, before = (
        load_model(done["folder"]).state_dict(),
        load_model(init).state_dict(),
    )
    for name, value in trained.items():
        if name == "model.embed_tokens.weight":
            token = tiny_model()[1].tokenizer.convert_tokens_to_ids(POISON)
            value, before[name] = (
                torch.cat([one[:token], one[token + 1 :]])
                for one in (value, before[name])
            )
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, before[name]), name


def test_nothing_but_broken_gradients_ends_the_training_with_the_rows_named(
    tmp_path: Path,
) -> None:
    """Raw text is what the first look sees; the second stage meets broken rows alone."""
    text = [
        TrainingRow(id="text", prompt="", completion="1234", source="labelled", round=0)
    ]
    stages = tuple(
        Stage(name=name, steps=4, learning_rate=1e-3) for name in ("pretrain", "sft")
    )
    done = train(
        tmp_path / "run",
        init=poisoned(tmp_path / "base-model"),
        rows=[*text, *map(with_poison, reversal(8, 0))],
        stages=stages,
        pretrain={"steps": 4},
        dev=[],
    )
    assert done["failure"]["kind"] == "RatchetError"
    said = done["failure"]["message"]
    assert (
        "3 steps in a row up to step 7 had gradients that are not finite and were dropped"
        in said
    )
    assert re.search(r"\(rows [0-7](, [0-7])* have no finite loss\)", said)


def test_a_model_that_is_broken_before_the_first_step_is_refused(
    tmp_path: Path,
) -> None:
    folder = save_tiny(tmp_path / "base-model", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = train(tmp_path / "run", init=folder)
    assert done["failure"]["kind"] == "UserError"
    assert "the loss is nan before the first step" in done["failure"]["message"]


LONG_ROWS = [
    TrainingRow(
        id=str(number),
        prompt="1" * 100 + "=",
        completion="23" * 60,
        source="labelled",
        round=0,
    )
    for number in range(64)
]
WIDE: dict[str, Any] = {
    "rows": LONG_ROWS,
    "dev": [],
    "steps": 2,
    "batch_size": 64,
    "architecture": "llama",
    "checkpoint_minutes": 99,
    "model": {
        "hidden_size": 128,
        "num_layers": 2,
        "intermediate_size": 1024,
        "max_length": 256,
    },
}


def train_with(room_mib: int, job: Job) -> subprocess.CompletedProcess[str]:
    """Train with this much memory beyond what a process has mapped at its start."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fault.short_of_memory",
            str(write(job)),
            str(room_mib),
        ],
        env=environment_of(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_out_of_memory_halves_the_micro_batch_once_and_keeps_the_curve(
    tmp_path: Path,
) -> None:
    """There is room for half of the rows, not for all: 64 rows need some 1,350 to 1,600 MiB, 32
    rows less than 1,200."""
    plain = train(tmp_path / "plain", micro_batch_size=16, **WIDE)
    job = make_job(tmp_path / "short", micro_batch_size=64, **WIDE)
    done = train_with(1250, job)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "out of memory at step 1 with a micro-batch of 64 rows (64 × 223 positions)"
        in done.stderr
    )
    assert "trying again with micro-batches of 32 rows" in done.stderr
    losses = [json.loads(line)["loss"] for line in (job.output / "log.jsonl").open()]
    np.testing.assert_allclose(losses, plain["losses"], rtol=1e-4)


def test_out_of_memory_twice_ends_with_what_to_do(tmp_path: Path) -> None:
    done = train_with(700, make_job(tmp_path / "short", micro_batch_size=64, **WIDE))
    assert done.returncode != 0
    told = done.stderr.splitlines()[-1]
    assert (
        "out of memory at step 1 with a micro-batch of 32 rows (32 × 223 positions), after one halving"
        in told
    )
    assert "lower train.micro_batch_size" in told


def write(job: Job) -> Path:
    path: Path = job.output / "job.json"
    path.write_text(job.model_dump_json())
    return path


def test_too_little_room_for_checkpoints_is_told_before_the_first_step(
    tmp_path: Path,
) -> None:
    """A disk of 4 MiB."""
    job = make_job(
        tmp_path / "run", steps=4, model={"hidden_size": 256, "intermediate_size": 1024}
    )
    small = tmp_path / "small"
    worker = [sys.executable, "-m", "components.train.process.worker", str(write(job))]
    done = subprocess.run(
        with_small(small, "size=4m", ["env", f"RATCHET_CACHE={small}", *worker]),
        env=environment_of(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    failure = json.loads((job.output / "failure.json").read_text())
    assert "checkpoints and the exported model need" in failure["message"]
    assert (
        "are free: set RATCHET_CACHE to a folder on a larger disk" in failure["message"]
    )


def test_a_tracking_server_that_is_not_there_costs_a_line(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", steps=3)
    done = carry_out(job, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done["status"] == 0
    assert "MLflow does not answer" in done["said"]
    assert len(done["losses"]) == 3
