"""The `run` verb: a whole campaign on this machine, in a child process that can be stopped and
started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import unquote

from rich.console import Console

from components.cli.local.docker_runner import Containers, check_engine
from components.cli.local.follow import Follower
from components.contracts.recipe import Recipe
from components.errors import Corrupt, Missing, OlderReceipt, RatchetError, Transient, UserError
from components.report.runs import load_run
from components.report.views import RunView, TaskView
from components.runtime.context import Context, make_context
from components.storage import keys
from components.storage.store import open_store, probe

REPOSITORY = Path(__file__).resolve().parents[3]
STOP_PATIENCE_SECONDS = 10.0

_EXIT_CODES = {
    kind.__name__: kind.exit_code for kind in (UserError, OlderReceipt, Corrupt, Missing, Transient)
}
_SHELL_ERROR = re.compile(r"^\s*error(?: \((\w+)\))?: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """How a run on this machine ended."""

    view: RunView
    exit_code: int
    error: str
    """One line about the task that failed; empty if none did."""
    log: Path
    report: str
    """Path or URI of the report; empty if none was written."""
    executed: tuple[str, ...]
    """Tasks in the order they were started, shards repeated."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; `status` is the conventional exit status."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


def run_recipe(
    recipe: Recipe,
    store_uri: str,
    rounds: int,
    resume_from: str,
    environment: Mapping[str, str],
    console: Console,
    containers: Containers | None = None,
) -> Outcome:
    """Carry a campaign out and follow it on `console`; each task is a container if `containers`
    says how.

    Finished steps are found in the store and re-used. Raises UserError or Transient before anything
    runs if the store cannot be used, Stopped after the child was stopped by a signal.
    """
    root = keys.canonical_root(store_uri)
    if containers is not None:
        if ":" in os.getcwd():
            raise UserError(
                f"--runner docker: Docker cannot mount {os.getcwd()}, whose name holds a colon; run elsewhere"
            )
        check_engine(root, containers, environment)
    probe(open_store(root, environment))
    if resume_from and keys.split_receipt_uri(resume_from)[0] != root:
        raise UserError(
            f"--resume-from {resume_from} is not in the store {root}; pass --store with the store it is in"
        )
    folder = _work_folder(recipe.run_id)
    (folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
    # The folder of pointer artifacts is all of this machine that a container sees.
    progress = folder / ("kfp" if containers else "") / "progress.jsonl"
    child_environment = surroundings(root, environment) | {
        # `python -m` puts the working folder first on the path, and a project may have a components/
        # of its own.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(REPOSITORY), environment.get("PYTHONPATH", "")])
        ),
        "PYTHONUNBUFFERED": "1",
        "RATCHET_PROGRESS": str(progress),
        "RATCHET_SIDE_BY_SIDE": str(min(2, recipe.generate.shards)),  # kfp.local runs two at a time
        "OMP_WAIT_POLICY": environment.get(
            "OMP_WAIT_POLICY", "PASSIVE"
        ),  # spinning threads starve the other shard
    }
    command = [
        sys.executable,
        str(REPOSITORY / "pipeline.py"),
        "carry-out",
        "--recipe",
        str(folder / "recipe.json"),
        "--store",
        root,
        "--rounds",
        str(rounds),
        "--resume-from",
        resume_from,
        "--folder",
        str(folder / "kfp"),
        "--tasks-file",
        str(folder / "tasks.jsonl"),
        "--parent",
        str(os.getpid()),
    ]
    if containers is not None:
        command += ["--containers", json.dumps(asdict(containers))]
    began = time.time()
    status = _follow(command, child_environment, folder, progress, console)
    context = make_context(root, surroundings(root, environment))
    return _outcome(context, load_run(context, recipe.run_id), status, folder, began)


def surroundings(root: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with a cache beside a `file://` store: on one file system files are linked,
    not copied."""
    if root.startswith("file://") and not environment.get("RATCHET_CACHE"):
        return {**environment, "RATCHET_CACHE": f"{unquote(root.removeprefix('file://'))}-cache"}
    return dict(environment)


def _work_folder(run_id: str) -> Path:
    folder = (
        Path.cwd()
        / ".ratchet"
        / "logs"
        / f"{run_id}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    )
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{folder}: no log can be written ({error.strerror}); run in a folder of your own"
        ) from None
    return folder


def _follow(
    command: list[str], environment: dict[str, str], folder: Path, progress: Path, console: Console
) -> int:
    """Run the child in a process group of its own and show its progress; no process of it is left
    behind."""
    with (folder / "log.txt").open("wb") as log, _signals_as_exceptions():
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            with Follower(console, folder / "tasks.jsonl", progress) as follower:
                while child.poll() is None:
                    follower.poll()
                    time.sleep(0.2)
                follower.poll()
            return child.returncode
        finally:
            _end_group(child)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Ask the child and all it started to end, and insist after a while."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        child.poll()
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(context: Context, view: RunView, status: int, folder: Path, began: float) -> Outcome:
    from components.cli.local.follow import Tail

    failed = [
        task for task in view.failed if task.last.started >= began - 2.0
    ]  # process starts are known to a second
    log = folder / "log.txt"
    error, code = (
        _failure(failed, log) if status else ("", 0 if view.target_met and view.published else 1)
    )
    key = keys.run_key(view.run_id, "report.html")
    report = f"{view.store}/{key}" if context.store.size(key) is not None else ""
    executed = [
        str(row["task"])
        for row in Tail(folder / "tasks.jsonl").read()
        if row.get("event") == "started"
    ]
    return Outcome(view, code, error, log, unquote(report.removeprefix("file://")), tuple(executed))


def _failure(failed: list[TaskView], log: Path) -> tuple[str, int]:
    """(one line, exit code) from the failed attempt, or from the log where a step failed before it
    could record one."""
    if failed:
        first = failed[0]
        return f"{first.name}: {first.last.error}", _EXIT_CODES.get(
            first.last.error_kind, RatchetError.exit_code
        )
    said: list[Any] = _SHELL_ERROR.findall(log.read_text(encoding="utf-8", errors="replace"))
    if said:
        kind, message = said[0]
        return message, _EXIT_CODES.get(kind, RatchetError.exit_code)
    return "a task failed without saying why", RatchetError.exit_code
