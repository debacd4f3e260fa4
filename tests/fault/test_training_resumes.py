"""A training that is killed, asked to stop, given other processes or damaged checkpoints goes on
where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.contracts.recipe import Augmentation
from components.storage.store import open_store
from components.train.process.job import Stage
from tests.unit.trainings import begin, carry_out, make_job, reversal, said_by, train

KEY = "k" * 32
STEPS = 30


def receipts(folder: Path) -> list[dict[str, Any]]:
    """The progress receipts in the store, oldest first."""
    found = []
    for path in sorted(
        (folder / "store" / "progress" / "train" / KEY).glob("step-*.json")
    ):
        # A training that is running lets go of old ones while this looks.
        with contextlib.suppress(FileNotFoundError):
            found.append({"name": path.stem, **json.loads(path.read_text())})
    return found


def files_of(folder: Path, name: str) -> list[Path]:
    return sorted(
        (folder / "store" / "progress" / "train" / KEY / name).glob(
            "rank-*.safetensors"
        )
    )


def stored_bytes(folder: Path) -> int:
    """What the checkpoints take in the store now."""
    total = 0
    for path in (folder / "store" / "progress").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def stopped_after(
    folder: Path, name: str, step: int, number: int = signal.SIGKILL, **settings: Any
) -> int:
    """Start a training, send it a signal once a checkpoint of at least `step` is committed, and
    return its exit status."""
    job = make_job(folder / name, steps=STEPS, checkpoint_minutes=0, **settings)
    processes = begin(job)
    while not any(one["step"] >= step for one in receipts(folder)):
        assert all(process.is_alive() for process in processes), said_by(job)[-3000:]
        # Whenever one looks, there are never more than the two that stay and the one on its way.
        assert len(receipts(folder)) <= 3
        # Each has the weights, two moments, and at most the best weights so far.
        assert (
            stored_bytes(folder)
            < 3 * 4 * 1.1 * (job.init / "model.safetensors").stat().st_size
        )
        time.sleep(0.002)
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, number)
    for process in processes:
        process.join(60)
    status = processes[0].exitcode
    assert status is not None, said_by(job)[-3000:]
    return status


def again(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """The same work in a fresh process, on a fresh disk."""
    return carry_out(make_job(folder / name, steps=STEPS, **settings))


HARD: dict[str, Any] = {
    "zero": 1,
    "dropout": 0.1,
    "neftune_alpha": 5.0,
    "architecture": "gpt2",
    "rows": reversal(200, 0),
    "wrong": [
        row.model_copy(update={"completion": row.prompt[:-1], "wrong": True})
        for row in reversal(50, 2)
    ],
    "method": "kto",
}
"""With random numbers in every step, and rows that the first model measured: both have to come back
too."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The training without interruption."""
    return train(tmp_path_factory.mktemp("whole") / "run", steps=STEPS, **HARD)


def test_a_killed_training_ends_with_the_same_bits(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    stopped_after(tmp_path, "first", 7, **HARD)
    left = receipts(tmp_path)[-1]["step"]
    done = again(tmp_path, "second", **HARD)
    assert f"going on from the checkpoint of step {left}" in done["said"]
    assert done["losses"] == whole["losses"]
    assert done["log"] == whole["log"]
    assert (done["folder"] / "model.safetensors").read_bytes() == (
        whole["folder"] / "model.safetensors"
    ).read_bytes()
    assert done["best_step"] == whole["best_step"]


def test_a_killed_training_sees_the_noise_that_it_would_have_seen(
    tmp_path: Path,
) -> None:
    noise = Augmentation(word_dropout=0.3, word_deletion=0.2)
    stage = Stage(name="sft", steps=STEPS, learning_rate=3e-3, augmentation=noise)
    whole = train(tmp_path / "whole", stages=(stage,), key="w" * 32)
    stopped_after(tmp_path, "first", 7, stages=(stage,))
    done = again(tmp_path, "second", stages=(stage,))
    assert "going on from the checkpoint of step" in done["said"]
    assert done["losses"] == whole["losses"]


def test_a_twin_that_is_done_first_and_deletes_all_checkpoints_ends_no_training(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    """As the step does at its end, while another process still trains the same."""
    job = make_job(tmp_path / "second", steps=STEPS, checkpoint_minutes=0, **HARD)
    store = open_store(job.store, {})
    store.put_bytes(f"progress/train/{KEY}/notes.txt", b"a stray file")
    (process,) = begin(job)
    num_deleted = 0
    while process.is_alive():
        for address in list(store.list(f"progress/train/{KEY}/")):
            store.delete(address)
            num_deleted += 1
        time.sleep(0.05)
    assert process.exitcode == 0, said_by(job)[-3000:]
    assert num_deleted > 10
    log_lines = (job.output / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in log_lines] == whole["losses"]


def test_sigterm_shortens_the_way_to_the_same_place(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    assert stopped_after(tmp_path, "first", 3, signal.SIGTERM, **HARD) == 75
    failure = json.loads((tmp_path / "first" / "out" / "failure.json").read_text())
    assert failure["kind"] == "Transient"
    step = receipts(tmp_path)[-1]["step"]
    assert f"stopped by SIGTERM after step {step}, which is saved" in failure["message"]
    assert again(tmp_path, "second", **HARD)["losses"] == whole["losses"]


def test_other_numbers_of_processes_and_zero_stages_go_on_with_the_same_curve(
    tmp_path: Path,
) -> None:
    whole = train(tmp_path / "whole", steps=STEPS, zero=0, key="w" * 32)
    stopped_after(tmp_path, "two", 5, zero=2, num_processes=2)
    assert receipts(tmp_path)[-1]["world_size"] == 2
    shutil.copytree(tmp_path / "store" / "progress", tmp_path / "kept")
    for name, processes, zero_stage in (("one", 1, 0), ("four", 4, 3), ("same", 2, 1)):
        shutil.rmtree(tmp_path / "store" / "progress")
        shutil.copytree(tmp_path / "kept", tmp_path / "store" / "progress")
        done = again(tmp_path, name, zero=zero_stage, num_processes=processes)
        told = "" if processes == 2 else f", with {processes} processes instead of 2"
        assert told in done["said"]
        np.testing.assert_allclose(
            done["losses"], whole["losses"], atol=1e-3, err_msg=name
        )


@pytest.mark.parametrize(
    "damage",
    ["missing", "empty", "cut off", "changed", "of another step", "no receipt at all"],
)
def test_damaged_checkpoints_are_named_and_the_one_before_is_used(
    damage: str, two: Path, tmp_path: Path
) -> None:
    shutil.copytree(two, tmp_path / "store" / "progress")
    older, newer = receipts(tmp_path)[-2:]
    file = files_of(tmp_path, newer["name"])[0]
    file.chmod(0o644)
    match damage:
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut off":
            file.write_bytes(file.read_bytes()[:-100])
        case "changed":
            content = bytearray(file.read_bytes())
            content[-5] ^= 1
            file.write_bytes(content)
        case "of another step":
            shutil.copyfile(files_of(tmp_path, older["name"])[0], file)
        case _:
            receipt = file.parent.parent / f"{newer['name']}.json"
            receipt.chmod(0o644)
            receipt.write_text('{"step": 9}')
    done = again(tmp_path, "again", zero=0)
    assert f"checkpoint {newer['name']} is not used: " in done["said"]
    named = f"{newer['name']}.json" if damage == "no receipt at all" else file.name
    assert named in done["said"].split("is not used: ")[1].splitlines()[0]
    assert f"going on from the checkpoint of step {older['step']}" in done["said"]
    assert len(done["losses"]) == STEPS


def test_with_no_usable_checkpoint_training_begins_anew_and_says_so(
    two: Path, tmp_path: Path
) -> None:
    shutil.copytree(two, tmp_path / "store" / "progress")
    for one in receipts(tmp_path):
        files_of(tmp_path, one["name"])[0].unlink()
    done = again(tmp_path, "again", zero=0)
    assert "no checkpoint of this training is whole: it begins anew" in done["said"]
    assert len(done["losses"]) == STEPS


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The progress of a killed training with two committed checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    stopped_after(folder, "first", 6, zero=0)
    assert len(receipts(folder)) >= 2
    return folder / "store" / "progress"
