"""Live numbers of a training: TensorBoard events in the store, MLflow, the status of a TrainJob.

None of it is a source of truth, and none of it may end a training: a failure is noted once.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.tensorboard import SummaryWriter

from components.contracts.summaries import LogEntry
from components.errors import RatchetError, first_line
from components.runtime.context import Context
from components.storage import keys
from components.train.process.trainer_status import TrainerStatus

if TYPE_CHECKING:
    from mlflow import MlflowClient

FLUSH_SECONDS = 30
"""Longest time that an event stays in memory."""


class Recorder:
    """Per-step numbers of one training, in process 0. Call `close` also after a failure."""

    def __init__(self, context: Context, run_id: str, task: str, folder: Path) -> None:
        self.context = context
        self.folder = folder
        self.key_parts = run_id, "tensorboard", task
        self.events = SummaryWriter(str(folder), flush_secs=FLUSH_SECONDS)
        self.mlflow = _open_mlflow(context, run_id, task)
        self.trainer_status = TrainerStatus(context)

    def step(self, entry: LogEntry, tokens_per_second: float, num_steps: int) -> None:
        """Record an entry of the training log, with speed and memory, which no receipt may hold."""
        numbers = {
            name: float(value)
            for name, value in entry
            if name != "step" and isinstance(value, int | float)
        }
        numbers |= {
            "tokens_per_second": tokens_per_second,
            "memory_gib": _memory_bytes() / 2**30,
        }
        # A receipt is the same for the same work on any machine: speed and memory are shown here
        # alone.
        for name, value in numbers.items():
            self.events.add_scalar(f"train/{name}", value, entry.step)
        if self.mlflow is not None:
            self.mlflow.log(numbers, entry.step)
        self.trainer_status.report(entry.step, num_steps, numbers)

    def save(self) -> None:
        """Copy the events to the store, below runs/<run>/tensorboard/<task>/."""
        self.events.flush()
        try:
            for path in sorted(self.folder.iterdir()):
                key = keys.run_key(*self.key_parts, path.name)
                self.context.store.put_bytes(key, path.read_bytes())
        except (RatchetError, OSError) as error:
            self.context.progress.note(f"TensorBoard events were not saved: {error}")

    def close(self) -> None:
        """Save the events for the last time, and end the MLflow run if it was begun here."""
        self.events.close()
        self.save()
        if self.mlflow is not None:
            self.mlflow.close()


class _MlflowRun:
    """A run in the tracking server of MLFLOW_TRACKING_URI, silent after its first failure.

    It is that of MLFLOW_RUN_ID where the variable is set, else a new one.
    """

    def __init__(self, context: Context, run_id: str, task: str) -> None:
        import mlflow

        self.context = context
        # None after the first failure.
        self.client: MlflowClient | None = mlflow.MlflowClient()
        # Kubeflow Pipelines begins a run for each task, and ends it.
        injected_run_id = context.environment.get("MLFLOW_RUN_ID", "")
        self.is_injected = bool(injected_run_id)
        if self.is_injected:
            self.mlflow_run_id = injected_run_id
            self.client.set_tag(injected_run_id, "ratchet.run", run_id)
        else:
            self.mlflow_run_id = self._begin(self.client, run_id, task)

    def _begin(self, client: MlflowClient, run_id: str, task: str) -> str:
        """Begin a run in the experiment, and return its id."""
        name = self.context.environment.get("MLFLOW_EXPERIMENT_NAME", "ratchet")
        experiment = client.get_experiment_by_name(name)
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            else client.create_experiment(name)
        )
        run = client.create_run(
            experiment_id, run_name=f"{run_id} {task}", tags={"ratchet.run": run_id}
        )
        return str(run.info.run_id)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        milliseconds = int(self.context.clock() * 1000)
        metrics = [
            Metric(name, value, milliseconds, step) for name, value in numbers.items()
        ]
        self._call(lambda client: client.log_batch(self.mlflow_run_id, metrics=metrics))

    def close(self) -> None:
        if not self.is_injected:
            self._call(lambda client: client.set_terminated(self.mlflow_run_id))

    def _call(self, request: Callable[[MlflowClient], object]) -> None:
        if self.client is None:
            return
        try:
            request(self.client)
        except _mlflow_errors() as error:
            self.client = None
            self.context.progress.note(
                f"MLflow does not answer ({first_line(error)}); nothing more is sent there"
            )


def _open_mlflow(context: Context, run_id: str, task: str) -> _MlflowRun | None:
    if not context.environment.get("MLFLOW_TRACKING_URI"):
        return None
    # MLflow's own patience (7 tries, 2 minutes each) would hold up a training. It reads the
    # process's own environment.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    try:
        return _MlflowRun(context, run_id, task)
    except ImportError:
        context.progress.note(
            "MLFLOW_TRACKING_URI is set, but mlflow is not installed here; nothing is sent there"
        )
    except _mlflow_errors() as error:
        context.progress.note(
            f"MLflow does not answer ({first_line(error)}); nothing is sent there"
        )
    return None


def _mlflow_errors() -> tuple[type[Exception], ...]:
    import requests
    from mlflow.exceptions import MlflowException

    return MlflowException, requests.RequestException, OSError


def _memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
