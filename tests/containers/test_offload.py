"""Optimizer offload in the image `train`: DeepSpeed's own AdamW, compiled with the image, on the
curve of torch's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.cli.local.docker_runner import UID, Containers, settings
from components.train.process.job import Job
from tests.containers.island import Island
from tests.fault.test_training_resumes import STEPS, again, receipts, stopped_after
from tests.unit.trainings import ENVIRONMENT, command_of, make_job, outcome, train

CLOSE = 2e-5
"""Nats between the losses of one step; rounding was seen to make less than 1e-6."""


def carry_out_confined(engine: Any, island: Island, job: Job) -> dict[str, Any]:
    """Train in a container that has nothing but the folder of the test."""
    command, place = ["python", *command_of(job)[1:]], job.output.parents[1]
    if os.getuid() == 0:  # else the container runs as who calls
        for path in (place, *place.rglob("*")):
            os.chown(path, UID, UID)
    confined = settings("offload", Containers("2g", island.network), {})
    container = engine.containers.create(
        "ratchet/train:dev",
        command,
        volumes={str(place): {"bind": str(place), "mode": "rw"}},
        **{
            **confined,
            "environment": {
                **ENVIRONMENT,
                "RATCHET_CACHE": str(job.output.parent / "cache"),
            },
        },
    )
    try:
        container.start()
        status = int(container.wait(timeout=300)["StatusCode"])
        return outcome(job, status, container.logs().decode())
    finally:
        container.remove(force=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same steps by torch's AdamW, in a process of this machine."""
    return train(tmp_path_factory.mktemp("torch") / "run", steps=STEPS, zero=0)


def test_offload_takes_the_compiled_optimizer_and_follows_the_curve_of_torchs(
    engine: Any, island: Island, reference: dict[str, Any], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run", steps=STEPS, zero=2, offload=True, num_processes=2)
    done = carry_out_confined(engine, island, job)
    assert (
        "offload: weights and moments are updated by the AdamW of deepspeed"
        in done["said"]
    )
    assert (done["optimizer"], reference["optimizer"]) == ("deepspeed", "torch")
    np.testing.assert_allclose(done["losses"], reference["losses"], atol=CLOSE)


def test_a_checkpoint_of_either_optimizer_goes_on_with_the_other(
    engine: Any, island: Island, reference: dict[str, Any], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    stopped_after(here, "torch", 5, zero=2, num_processes=2)
    left = receipts(here)[-1]["step"]
    shutil.copytree(here / "store", there / "store")
    job = make_job(
        there / "run", steps=STEPS, zero=3, offload=True, checkpoint_minutes=0
    )
    onwards = carry_out_confined(engine, island, job)
    assert f"going on from the checkpoint of step {left}" in onwards["said"]
    assert onwards["optimizer"] == "deepspeed"
    np.testing.assert_allclose(onwards["losses"], reference["losses"], atol=CLOSE)
    later = receipts(there)[-1]["step"]
    assert left < later < STEPS, "one more checkpoint, by the other optimizer"
    back = again(there, "back", zero=1, num_processes=2)
    assert f"going on from the checkpoint of step {later}" in back["said"]
    np.testing.assert_allclose(back["losses"], reference["losses"], atol=CLOSE)
