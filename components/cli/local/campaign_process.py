"""The process that carries out one campaign by kfp.local.

A process of its own, because `kfp.local.init` is global and cannot be undone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from components.cli.builder import Builder
from components.cli.local.docker_runner import ContainerTasks
from components.cli.local.local_campaign import LocalCampaign
from components.cli.local.task_handler import serve_tasks
from components.cli.local.task_server import inherited_or_new_server
from components.runtime.log_lines import LineStamper, LogSubject, format_from
from components.runtime.stamped_output import stamped_output

if TYPE_CHECKING:
    from kfp.local import DockerRunner, SubprocessRunner


# kfp.local tells of its tasks by log records alone, with names in colour.
_EXECUTING = re.compile(r"Executing task (?:\x1b\[\d+m)?'([^']+)'")
_FINISHED = re.compile(
    r"Task (?:\x1b\[\d+m)?'([^']+)'(?:\x1b\[0m)? finished with status (?:\x1b\[\d+m)?(\w+)"
)
_COLOUR = re.compile(r"\x1b\[\d+m")


def executed_tasks(log_text: str) -> list[str]:
    """Return the names of the tasks that kfp.local carried out, in order, shards repeated.

    Tests assert on this list: a guard that is wrongly false skips its round and the run still
    succeeds.
    """
    return _EXECUTING.findall(log_text)


class TaskLog(logging.Filter):
    """Writes the log records of kfp.local to a log, and those about tasks to a file of events.

    An event is {"task", "event": "started" | SUCCESS | FAILURE, "time": seconds since the epoch}.
    """

    # A filter, not a handler: kfp swaps handlers between its threads, which loses or doubles lines.
    # A filter of the logger sees every record once.

    def __init__(self, events: TextIO, log: TextIO) -> None:
        super().__init__()
        self._events = events
        self._log = log

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the record; always False, so that handlers get nothing."""
        message = _COLOUR.sub("", record.getMessage())
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        self._log.write(f"{stamp} {record.levelname} {message}\n")
        self._log.flush()
        for name in _EXECUTING.findall(message):
            self._emit(name, "started", record.created)
        for name, status in _FINISHED.findall(message):
            self._emit(name, status, record.created)
        return False

    def _emit(self, task: str, event: str, seconds: float) -> None:
        line = json.dumps({"task": task, "event": event, "time": seconds})
        self._events.write(f"{line}\n")
        self._events.flush()


def carry_out(
    build: Builder, campaign: LocalCampaign, folder: Path, tasks_file: Path, parent: int
) -> int:
    """Return exit status 0 if every task succeeded, 1 if one failed.

    Name and reason of a failed task are in the attempt records.

    Args:
        build: Makes the pipeline.
        campaign: The campaign.
        folder: kfp.local keeps its pointer artifacts here.
        tasks_file: Gets a JSON line for each task that started or ended.
        parent: Id of the process that started this one and its group; without it both end.
    """
    _end_with_parent(parent)
    is_json = format_from(os.environ) == "json"
    log = json_log(campaign.recipe.run_id) if is_json else nullcontext()
    with log, tasks_file.open("a", encoding="utf-8") as events:
        try:
            with _runner(campaign, folder) as runner:
                _run_pipeline(build, campaign, runner, folder, events)
        except RuntimeError as error:
            # kfp.local's only way to say that a task failed.
            print(_COLOUR.sub("", str(error)), flush=True)
            return 1
    return 0


@contextmanager
def json_log(run_id: str) -> Iterator[None]:
    """Give all that this process and its children write in the block the form of JSON lines."""
    # The descriptors: kfp.local prints, and the server of tasks is a process.
    stamper = LineStamper(LogSubject(run=run_id), follows=False)
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as log, stamped_output(stamper, log, log) as output:
        os.dup2(output.stdout, 1)
        os.dup2(output.stderr, 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)


def _run_pipeline(
    build: Builder,
    campaign: LocalCampaign,
    runner: DockerRunner | SubprocessRunner,
    folder: Path,
    events: TextIO,
) -> None:
    """Build the pipeline and run it. Raises RuntimeError, as kfp does, if a task failed."""
    from kfp import local

    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    logger.addFilter(TaskLog(events, sys.stdout))
    # kfp warns that our images are not named python.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
    local.init(runner, pipeline_root=str(folder), raise_on_error=True)
    pipeline = build(campaign.recipe, campaign.rounds)
    pipeline(store=campaign.store, resume_from=campaign.resume_from)


@contextmanager
def _runner(
    campaign: LocalCampaign, folder: Path
) -> Iterator[DockerRunner | SubprocessRunner]:
    """Yield what carries out the tasks: containers, or processes that a server starts."""
    from kfp import local

    if campaign.containers is not None:
        tasks = ContainerTasks(campaign.recipe.run_id, campaign.containers, os.environ)
        _stop_at_the_end(tasks)
        yield tasks.runner(folder)
        return
    with task_processes():
        # A virtual environment for each task would install kfp anew each time.
        yield local.SubprocessRunner(use_venv=False)


@contextmanager
def task_processes() -> Iterator[None]:
    """Have tasks that are no containers started by a server: an inherited one, or a new one."""
    with inherited_or_new_server() as server:
        serve_tasks(server)
        yield


def _end_with_parent(parent: int) -> None:
    """End this process group once the command that started it is gone.

    If it is killed, nobody follows or stops the group.
    """

    # The parent is named because it may be gone before this process can look.
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _stop_at_the_end(tasks: ContainerTasks) -> None:
    """Stop the run's containers on SIGTERM: they are no children of this process."""

    def stop(number: int, _: FrameType | None) -> None:
        tasks.stop()
        # kfp's threads would keep an ordinary exit waiting for their tasks.
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
