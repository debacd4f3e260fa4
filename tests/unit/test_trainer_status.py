"""A training in a TrainJob reports its progress to the Trainer, and no trouble there ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.runtime.context import Context
from components.runtime.progress import Progress
from components.train.process.trainer_status import (
    PAUSE_AFTER_FAILURE_SECONDS,
    TrainerStatus,
)
from tests.doubles.trainer_status import TrainerStatusServer


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[TrainerStatusServer]:
    """The Trainer's status server."""
    server = TrainerStatusServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def seconds() -> list[float]:
    """The time, which a test sets."""
    return [1_000.0]


@pytest.fixture
def in_job(
    context: Context, trainer: TrainerStatusServer, seconds: list[float], tmp_path: Path
) -> Context:
    """The surroundings of process 0 in a pod of a TrainJob."""
    return replace(
        context,
        environment={**context.environment, **trainer.environment},
        clock=lambda: seconds[0],
        progress=Progress(file=tmp_path / "progress.jsonl"),
    )


def notes(context: Context) -> str:
    file = context.progress.file
    return file.read_text() if file is not None and file.exists() else ""


def test_progress_pace_and_numbers_are_reported_as_the_trainers_models_have_them(
    in_job: Context, trainer: TrainerStatusServer, seconds: list[float]
) -> None:
    status = TrainerStatus(in_job)
    status.report(1, 101, {"loss": 2.5})
    seconds[0] += 20
    status.report(11, 101, {"loss": 1.25, "learning_rate": 1e-5})
    # Within the Trainer's five seconds nothing is sent, but the end always is.
    seconds[0] += 2
    status.report(12, 101, {"loss": 1.2})
    status.report(101, 101, {"loss": 0.5})
    reports = [
        report.trainer_status for report in trainer.reports if report.trainer_status
    ]
    first, second, last = reports
    assert (first.progress_percentage, first.estimated_remaining_seconds) == (0, None)
    assert (second.progress_percentage, second.estimated_remaining_seconds) == (10, 180)
    numbers = {metric.name: metric.value for metric in second.metrics or ()}
    assert numbers == {"loss": "1.25", "learning_rate": "1e-05"}
    assert second.last_updated_time is not None
    assert second.last_updated_time.timestamp() == 1_020.0
    assert (last.progress_percentage, last.estimated_remaining_seconds) == (100, 0)
    assert notes(in_job) == ""


def test_a_token_that_was_replaced_is_read_anew(
    in_job: Context, trainer: TrainerStatusServer, seconds: list[float]
) -> None:
    status = TrainerStatus(in_job)
    status.report(1, 10, {})
    trainer.token = "second"
    trainer.token_file.write_text("second\n")
    seconds[0] += 10
    status.report(2, 10, {})
    assert len(trainer.reports) == 2


@pytest.mark.parametrize(
    "trouble", ["refused", "broken", "no token", "no trust", "gone"]
)
def test_a_server_in_trouble_is_named_once_and_asked_again_later(
    in_job: Context, trainer: TrainerStatusServer, seconds: list[float], trouble: str
) -> None:
    environment = dict(in_job.environment)
    if trouble == "refused":
        trainer.token = "another"
    if trouble == "broken":
        trainer.status = 500
    if trouble == "no token":
        trainer.token_file.unlink()
    if trouble == "no trust":
        del environment["KUBEFLOW_TRAINER_SERVER_CA_CERT"]
    if trouble == "gone":
        environment["KUBEFLOW_TRAINER_SERVER_URL"] = "https://127.0.0.1:9/status"
    status = TrainerStatus(replace(in_job, environment=environment))
    status.report(1, 100, {"loss": 1.0})
    asked = trainer.requests
    seconds[0] += PAUSE_AFTER_FAILURE_SECONDS - 1
    status.report(2, 100, {"loss": 1.0})
    assert trainer.requests == asked
    trainer.status = 200
    trainer.token = "first"
    trainer.token_file.write_text("first")
    seconds[0] += 2
    status.report(3, 100, {"loss": 1.0})
    assert notes(in_job).count("the TrainJob's status is not updated") == 1
    assert len(trainer.reports) == (trouble in ("refused", "broken", "no token"))


def test_outside_a_trainjob_nothing_is_reported(
    context: Context, trainer: TrainerStatusServer
) -> None:
    TrainerStatus(context).report(1, 10, {"loss": 1.0})
    assert trainer.requests == 0
