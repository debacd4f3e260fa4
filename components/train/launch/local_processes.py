"""Training processes on this node: one, several by torchrun, or several trainings side by side."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from components.contracts.summaries.train import TrainingLayout
from components.errors import Corrupt, RatchetError, Transient, UserError
from components.runtime.context import Context
from components.train.process.job import Job, OutOfMemory

_SLICE_SECONDS = 1.0


def carry_out(context: Context, jobs: list[Job]) -> None:
    """Train one job in this process, or several jobs in processes side by side.

    If memory was short, train once more with half the micro-batch. Raises UserError if memory is
    short again.
    """
    try:
        _train(context, jobs, own_process=True)
    except OutOfMemory as error:
        halved = [_with_half_the_micro_batch(job, error) for job in jobs]
        size = halved[0].section.micro_batch_size
        context.progress.note(
            f"{error}; trying again with micro-batches of {size} rows"
        )
        try:
            # A process can start DeepSpeed only once, so this try gets processes of its own.
            _train(context, halved, own_process=False)
        except OutOfMemory as second_error:
            raise UserError(
                f"{second_error}, after one halving: lower train.micro_batch_size or "
                "train.max_length, set train.activation_checkpointing, use train.lora, or give the "
                "step more memory"
            ) from None


def _with_half_the_micro_batch(job: Job, error: OutOfMemory) -> Job:
    layout = job.output / "layout.json"
    failed_size = TrainingLayout.model_validate_json(
        layout.read_bytes()
    ).micro_batch_size
    if failed_size == 1:
        raise UserError(
            f"{error}, which cannot be halved: lower train.max_length, set "
            "train.activation_checkpointing, use train.lora, or give the step more memory"
        )
    section = job.section.model_copy(update={"micro_batch_size": failed_size // 2})
    return job.model_copy(update={"section": section})


def _train(context: Context, jobs: list[Job], *, own_process: bool) -> None:
    """Carry out the jobs; `own_process`: a single one may run in this process."""
    # A GPU's memory comes back for sure only when a process ends. Its device file is looked for:
    # this process must not start CUDA.
    has_gpu = Path("/dev/nvidiactl").exists()
    is_single = len(jobs) == 1 and jobs[0].section.num_processes == 1
    if own_process and is_single and not has_gpu:
        from components.train.process.worker import train

        train(jobs[0], context)
        return
    children = Children()
    with (
        children.sigterm_passed_on(),
        ThreadPoolExecutor(min(len(jobs), context.threads)) as pool,
    ):
        list(pool.map(lambda job: _launch(context, job, children), jobs))


@dataclass
class Children:
    """Running processes, which get the SIGTERM of this process, so that they can save and end."""

    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @contextmanager
    def sigterm_passed_on(self) -> Iterator[None]:
        """Pass SIGTERM on to the children within the block, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def pass_on(number: int, frame: FrameType | None) -> None:
            for child in list(self.running):
                child.send_signal(number)

        previous_handler = signal.signal(signal.SIGTERM, pass_on)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous_handler)

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Run a command and return its exit status."""
        child = subprocess.Popen(command, env=environment)
        self.running.append(child)
        try:
            while True:
                # In slices: a signal that arrives just before a long wait would come after it.
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(_SLICE_SECONDS)
        finally:
            self.running.remove(child)


def _launch(context: Context, job: Job, children: Children) -> None:
    """Run one training process, or `num_processes` of them by torchrun."""
    spec = job.output / "job.json"
    spec.write_text(job.model_dump_json(), encoding="utf-8")
    num_processes = job.section.num_processes
    command = [sys.executable]
    if num_processes > 1:
        # torchrun; --standalone picks a free port, so trainings side by side do not meet.
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nnodes=1", f"--nproc_per_node={num_processes}"]
    command += ["-m", "components.train.process.worker", str(spec)]
    # One thread pool a process: without this the pools of two ranks spin against each other, ten
    # times slower.
    environment = {
        **context.environment,
        "OMP_NUM_THREADS": str(job.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONFAULTHANDLER": "1",
    }
    status = children.run(command, environment)
    failure = job.output / "failure.json"
    if failure.exists():
        account = json.loads(failure.read_text())
        failure.unlink()
        kinds = {
            kind.__name__: kind for kind in (UserError, Transient, Corrupt, OutOfMemory)
        }
        raise kinds.get(account["kind"], RatchetError)(account["message"])
    if status:
        raise RatchetError(
            f"{job.task}: training ended with status {status}; the log above names the process "
            "that failed"
        )
