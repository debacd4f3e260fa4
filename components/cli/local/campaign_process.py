"""Carries out one campaign by kfp.local. A process of its own: `kfp.local.init` is global and
cannot be undone."""

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
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from components.cli.builder import Builder
from components.cli.local.docker_runner import Containers, stop_containers, use_containers
from components.cli.local.task_handler import serve_tasks
from components.cli.local.task_server import task_server, warm_is_possible
from components.contracts.recipe import Recipe

_EXECUTING = re.compile(r"Executing task (?:\x1b\[\d+m)?'([^']+)'")
_FINISHED = re.compile(
    r"Task (?:\x1b\[\d+m)?'([^']+)'(?:\x1b\[0m)? finished with status (?:\x1b\[\d+m)?(\w+)"
)
_COLOUR = re.compile(r"\x1b\[\d+m")


def executed_tasks(log_text: str) -> list[str]:
    """Names of the tasks that kfp.local carried out, in order, shards repeated. Tests assert on
    this list: a guard that is wrongly false skips its round and the run still succeeds."""
    return _EXECUTING.findall(log_text)


class TaskLog(logging.Filter):
    """Sees every log record of kfp.local once: kfp swaps handlers between its threads, which loses
    or doubles lines.

    Writes {"task", "event": "started" | SUCCESS | FAILURE, "time"} per event to a file, and the
    record itself, without colours, to `log`; handlers get nothing.
    """

    def __init__(self, events: TextIO, log: TextIO) -> None:
        super().__init__()
        self._events, self._log = events, log

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the record; always False."""
        message = _COLOUR.sub("", record.getMessage())
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        self._log.write(f"{stamp} {record.levelname} {message}\n")
        self._log.flush()
        for name in _EXECUTING.findall(message):
            self._emit(name, "started", record.created)
        for name, status in _FINISHED.findall(message):
            self._emit(name, status, record.created)
        return False

    def _emit(self, task: str, event: str, when: float) -> None:
        self._events.write(json.dumps({"task": task, "event": event, "time": when}) + "\n")
        self._events.flush()


def run_locally(
    build: Builder,
    recipe: Recipe,
    store: str,
    rounds: int,
    resume_from: str,
    folder: Path,
    events: TextIO,
    containers: Containers | None = None,
) -> None:
    """Build the pipeline and run it, one subprocess or container a task. Raises RuntimeError, as
    kfp does, if a task failed."""
    from kfp import local

    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    logger.addFilter(TaskLog(events, sys.stdout))
    # kfp warns that our images are not named python.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
    if containers is None:
        runner = local.SubprocessRunner(use_venv=False)
    else:
        runner = use_containers(recipe.run_id, containers, os.environ, folder)
    local.init(runner, pipeline_root=str(folder), raise_on_error=True)
    build(recipe, rounds)(store=store, resume_from=resume_from)


@contextmanager
def _task_processes(containers: Containers | None) -> Iterator[None]:
    """Have tasks that are no containers started by a server of their own."""
    if containers is not None:
        yield
        return
    with task_server(warm=warm_is_possible()) as server:
        serve_tasks(server)
        yield


def _end_with_parent(parent: int) -> None:
    """If the command that started this process group is killed, end the group: nobody would follow
    or stop it. The parent is named because it may be gone before this process can look."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _stop_containers_at_the_end(run_id: str) -> None:
    """On SIGTERM: containers are no children of this process and would go on."""

    def stop(number: int, _: FrameType | None) -> None:
        stop_containers(run_id)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def carry_out(
    build: Builder,
    recipe_file: Path,
    store: str,
    rounds: int,
    resume_from: str,
    folder: Path,
    tasks_file: Path,
    containers: Containers | None,
    parent: int,
) -> int:
    """Exit status 0 if every task succeeded, 1 if one failed; which and why is in the attempt
    records.

    `recipe_file` is the resolved recipe as JSON, `folder` where kfp.local keeps its pointer
    artifacts; `tasks_file` gets one JSON line per started or ended task. Tasks run in containers if
    `containers` says how. `parent` is the process that started this one and its group, and without
    which both end.
    """
    _end_with_parent(parent)
    recipe = Recipe.model_validate_json(recipe_file.read_bytes())
    if containers is not None:
        _stop_containers_at_the_end(recipe.run_id)
    with tasks_file.open("a", encoding="utf-8") as events:
        try:
            with _task_processes(containers):
                run_locally(build, recipe, store, rounds, resume_from, folder, events, containers)
        except RuntimeError as error:
            # kfp.local's only way to say that a task failed.
            print(_COLOUR.sub("", str(error)), flush=True)
            return 1
    return 0
