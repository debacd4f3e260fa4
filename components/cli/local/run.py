"""The `run` verb: a whole campaign on this machine.

It is carried out in a child process that can be stopped and started again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import unquote

from rich.console import Console

from components.cli.local.docker_runner import check_engine, end_containers
from components.cli.local.follow import Follower, Tail
from components.cli.local.local_campaign import LocalCampaign
from components.cli.local.task_handler import ERROR_LINE, signal_name
from components.cli.local.task_server import inherited_descriptors
from components.cli.source_tree import PIPELINE_FILE, SOURCE_TREE
from components.errors import (
    Corrupt,
    Missing,
    OlderReceipt,
    RatchetError,
    Transient,
    UserError,
    one_line,
)
from components.prepare.first_state import resumed_campaign
from components.report.runs import load_run
from components.report.views import RunView, TaskView
from components.runtime.attempts import next_sequence
from components.runtime.context import Context, make_context
from components.runtime.log_lines import format_from, message_of
from components.storage import keys
from components.storage.folder import free_room, has_no_room
from components.storage.store import open_store, probe

# Longer than what a task or container, and what started them all, are given to end.
STOP_PATIENCE_SECONDS = 20.0

# kfp.local carries out two shards at a time.
LOCAL_PARALLELISM = 2

WAITS_FOR_APPROVAL = 4
"""Exit status of a run that has ended with a champion that nobody has approved yet."""
_EXIT_CODES = {
    kind.__name__: kind.exit_code
    for kind in (UserError, OlderReceipt, Corrupt, Missing, Transient)
}


@dataclass(frozen=True)
class Outcome:
    """The end of a run on this machine."""

    view: RunView
    exit_code: int
    error: str
    """One line about the task that failed; empty if none did."""
    log: Path
    report: str
    """Path or URI of the report; empty if none was written."""
    executed: tuple[str, ...]
    """Tasks in the order they were started, shards repeated."""


@dataclass(frozen=True)
class WorkFolder:
    """Files of one try of a run."""

    path: Path
    progress: Path
    """Steps write their progress here, a JSON line each."""

    @property
    def recipe(self) -> Path:
        """The resolved recipe, as JSON."""
        return self.path / "recipe.json"

    @property
    def pointers(self) -> Path:
        """Folder of kfp.local's pointer artifacts."""
        return self.path / "kfp"

    @property
    def tasks(self) -> Path:
        """A JSON line for each task that started or ended."""
        return self.path / "tasks.jsonl"

    @property
    def log(self) -> Path:
        """All output of the child process."""
        return self.path / "log.txt"


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; `status` is the conventional exit status."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


def run_campaign(
    campaign: LocalCampaign, environment: Mapping[str, str], console: Console
) -> Outcome:
    """Carry a campaign out and follow it on `console`.

    Finished steps are found in the store and re-used.

    Raises:
        UserError: The store, engine or state cannot be used; nothing has run.
        Transient: The store does not answer; nothing has run.
        Stopped: The child was stopped by a signal.
    """
    format_from(environment)  # One that is unknown ends every task.
    root = keys.canonical_root(campaign.store)
    campaign = dataclasses.replace(campaign, store=root)
    _check_surroundings(campaign, environment)
    context = make_context(root, with_cache_beside_store(root, environment))
    if campaign.resume_from:
        # As `prepare` does: here no task has begun, and no run is named.
        resumed_campaign(context, campaign.resume_from, campaign.recipe)
    folder = _make_work_folder(campaign)
    first_sequence = next_sequence(context, campaign.recipe.run_id)
    try:
        status = _follow(
            _child_command(campaign, folder),
            _child_environment(campaign, environment, folder.progress),
            folder,
            console,
        )
    finally:
        if campaign.containers is not None:
            _end_containers(campaign.recipe.run_id, console)
    view = load_run(context, campaign.recipe.run_id)
    return _outcome(context, view, status, folder, first_sequence)


def _check_surroundings(
    campaign: LocalCampaign, environment: Mapping[str, str]
) -> None:
    if campaign.containers is not None:
        # Docker's syntax for mounts separates the folders by colons.
        if ":" in os.getcwd():
            raise UserError(
                f"--runner docker: Docker cannot mount {os.getcwd()}, whose name holds a colon; "
                "run elsewhere"
            )
        check_engine(campaign.store, campaign.containers, environment)
    probe(open_store(campaign.store, environment))
    resume_from = campaign.resume_from
    if resume_from and keys.split_receipt_uri(resume_from)[0] != campaign.store:
        raise UserError(
            f"--resume-from {resume_from} is not in the store {campaign.store}; pass --store with "
            "the store it is in"
        )


def _make_work_folder(campaign: LocalCampaign) -> WorkFolder:
    stamp = time.strftime("%Y%m%dT%H%M%S")
    name = f"{campaign.recipe.run_id}-{stamp}-{os.getpid()}"
    path = Path.cwd() / ".ratchet" / "logs" / name
    # The folder of pointer artifacts is all of this machine that a container sees.
    progress_folder = path if campaign.containers is None else path / "kfp"
    folder = WorkFolder(path, progress_folder / "progress.jsonl")
    try:
        path.mkdir(parents=True)
        folder.recipe.write_text(campaign.recipe.model_dump_json(), encoding="utf-8")
        folder.log.touch()
    except OSError as error:
        raise UserError(
            f"{path}: no log can be written ({error.strerror}); run in a folder of your own, with "
            "room"
        ) from None
    return folder


def _child_command(campaign: LocalCampaign, folder: WorkFolder) -> list[str]:
    command = [
        sys.executable,
        str(PIPELINE_FILE),
        "carry-out",
        f"--recipe={folder.recipe}",
        f"--store={campaign.store}",
        f"--rounds={campaign.rounds}",
        f"--resume-from={campaign.resume_from}",
        f"--folder={folder.pointers}",
        f"--tasks-file={folder.tasks}",
        f"--parent={os.getpid()}",
    ]
    if campaign.containers is not None:
        containers = json.dumps(asdict(campaign.containers))
        command.append(f"--containers={containers}")
    return command


def _child_environment(
    campaign: LocalCampaign, environment: Mapping[str, str], progress: Path
) -> dict[str, str]:
    import_path = [str(SOURCE_TREE), environment.get("PYTHONPATH", "")]
    return {
        # Spinning threads of OpenMP starve the other shard.
        "OMP_WAIT_POLICY": "PASSIVE",
        **with_cache_beside_store(campaign.store, environment),
        # `python -m` puts the working folder first on the path, and a project may have a
        # components/ of its own.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, import_path)),
        "PYTHONUNBUFFERED": "1",
        "RATCHET_PROGRESS": str(progress),
        "RATCHET_SIDE_BY_SIDE": str(
            min(LOCAL_PARALLELISM, campaign.recipe.generate.shards)
        ),
    }


def with_cache_beside_store(
    root: str, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment, with a cache beside a `file://` store unless it names one."""
    # On one file system files are linked, not copied.
    if root.startswith("file://") and not environment.get("RATCHET_CACHE"):
        return {
            **environment,
            "RATCHET_CACHE": f"{unquote(root.removeprefix('file://'))}-cache",
        }
    return dict(environment)


def _follow(
    command: list[str],
    environment: dict[str, str],
    folder: WorkFolder,
    console: Console,
) -> int:
    """Run the child, show its progress, and return its exit status."""
    with folder.log.open("wb") as log, _signals_as_exceptions():
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=inherited_descriptors(environment),
            # A process group of its own: Ctrl-C comes to us alone, and all of it can be ended.
            start_new_session=True,
        )
        try:
            with Follower(console, folder.tasks, folder.progress) as follower:
                while child.poll() is None:
                    follower.poll()
                    time.sleep(0.2)
                follower.poll()
            return child.returncode
        finally:
            _end_group(child)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Ask the child and all it started to end, and kill them after a while."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        child.poll()
        try:
            os.killpg(child.pid, 0)  # signal 0 only asks whether there is anybody
        except ProcessLookupError:
            return
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _end_containers(run_id: str, console: Console) -> None:
    """End the containers that the child left: it may have been killed before it could."""
    from requests.exceptions import RequestException

    import docker

    try:
        # They were asked to end, and given their time, by the child.
        end_containers(run_id, patience=0)
    except (docker.errors.DockerException, RequestException) as error:
        console.print(
            f"the engine was not asked for containers that are left ({one_line(error)}); the next "
            "run of the same name ends them"
        )


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier_handlers = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)


def _outcome(
    context: Context,
    view: RunView,
    status: int,
    folder: WorkFolder,
    first_sequence: int,
) -> Outcome:
    # The store also has failures of earlier tries.
    failed_now = [task for task in view.failed if task.last.sequence >= first_sequence]
    error = ""
    exit_code = exit_code_of(view)
    if status:
        error, exit_code = _failure(failed_now, folder.log, status)
    report = ""
    report_key = keys.run_key(view.run_id, "report.html")
    if context.store.size(report_key) is not None:
        report = unquote(f"{view.store}/{report_key}".removeprefix("file://"))
    events = Tail(folder.tasks).read()
    executed = [
        str(event["task"]) for event in events if event.get("event") == "started"
    ]
    return Outcome(view, exit_code, error, folder.log, report, tuple(executed))


def exit_code_of(view: RunView) -> int:
    """Return the exit status of a run that has ended without failing, else that of its failure."""
    if view.failed:
        return _EXIT_CODES.get(view.failed[0].last.error_kind, RatchetError.exit_code)
    if view.waits_for_approval:
        return WAITS_FOR_APPROVAL
    return 0 if view.target_met and view.published else 1


def _failure(failed: list[TaskView], log: Path, status: int) -> tuple[str, int]:
    """Return (one line, exit code) of the first failure.

    Args:
        failed: Tasks whose last attempt failed.
        log: Output of the child process.
        status: Its exit status.
    """
    log_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    log_text = "\n".join(map(message_of, log_lines))
    kind, reason = "", ""
    if failed:
        kind = failed[0].last.error_kind
        reason = f"{failed[0].name}: {failed[0].last.error}"
    elif (match := ERROR_LINE.search(log_text)) is not None:
        # A step can fail before it is able to record an attempt: then only the log has the reason.
        kind, reason = match.groups(default="")
    # The last words of a process are lost, or are about a file of its own, where the disk with the
    # log and KFP's pointers is full.
    if kind not in _EXIT_CODES and has_no_room(log):
        return (
            f"{log.parent}: no room for logs ({free_room(log)}): free some space there, or run in "
            "another folder",
            UserError.exit_code,
        )
    if not reason:
        last_line = next(
            (line for line in reversed(log_text.splitlines()) if line.strip()), ""
        )
        ending = signal_name(-status) if status < 0 else f"status {status}"
        reason = (
            f"the process that carries out the campaign ended with {ending}; its "
            f"last line: {one_line(last_line) or '(none)'}"
        )
    return reason, _EXIT_CODES.get(kind, RatchetError.exit_code)
