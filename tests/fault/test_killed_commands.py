"""A command that is killed with SIGKILL can end nobody any more: all that it started ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.commanding import TINY, command, environment
from tests.waiting import wait_until

pytestmark = pytest.mark.process


def parents() -> dict[int, int]:
    """Process → its parent, of all that live."""
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        # A process may end while it is looked at.
        with suppress(OSError):
            state, parent, *_ = entry.read_text().rpartition(")")[2].split()
            # Nobody may have asked for the status of an orphan that has ended.
            if state != "Z":
                parent_of[int(entry.parent.name)] = int(parent)
    return parent_of


def descendants(pid: int) -> set[int]:
    """Ids of all processes that a process started, and of those that they started."""
    parent_of = parents()
    generation = {pid}
    found: set[int] = set()
    while generation:
        generation = {
            child for child, parent in parent_of.items() if parent in generation
        }
        found |= generation
    return found


@pytest.mark.parametrize(
    ("verb", "num_processes"),
    [
        # The trial, which still imports.
        (("estimate", "recipe.yaml", "--trial"), 1),
        # The trial and a part of it.
        (("estimate", "recipe.yaml", "--trial"), 2),
        # The campaign, the server of its tasks, a monitor and a task.
        (("run", "recipe.yaml", "--rounds", "0"), 4),
        (("sweep", "recipe.yaml", "--rounds", "0", "--over", "seed=1,2"), 4),
    ],
)
def test_nothing_that_a_killed_command_started_goes_on(
    tmp_path: Path, verb: tuple[str, ...], num_processes: int
) -> None:
    (tmp_path / "recipe.yaml").write_text(TINY)
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        command(*verb),
        cwd=tmp_path,
        env={
            **environment(),
            "TMPDIR": str(tmp_path / "temporary"),
            "RATCHET_WARM": "0",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with killed(process) as started:
        wait_until(lambda: len(descendants(process.pid)) >= num_processes, process)
        started |= descendants(process.pid)
        if num_processes == 2:
            # So that the trial, which has a part already, comes to no end of its own.
            [trial] = [
                pid for pid, parent in parents().items() if parent == process.pid
            ]
            os.kill(trial, signal.SIGSTOP)


@contextmanager
def killed(process: subprocess.Popen[bytes]) -> Iterator[set[int]]:
    """Kill a process behind the block, and wait for the end of those that the block adds."""
    started: set[int] = set()
    try:
        yield started
        process.kill()
        process.wait()
        wait_until(lambda: not started & parents().keys())
    finally:
        process.kill()
        process.wait()
        # What lives still, after a test that failed.
        for pid in started & parents().keys():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


PART = """
import os, signal
from components.cli.estimate.forks import forked
forked(lambda: os.kill(os.getpid(), signal.SIGSTOP))
"""


def test_a_part_of_a_trial_has_no_end_of_its_own_to_wait_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", PART], env=environment())
    with killed(process) as started:
        wait_until(
            lambda: any(state_of(pid) == "T" for pid in descendants(process.pid)),
            process,
        )
        started |= descendants(process.pid)


def state_of(pid: int) -> str:
    """Letter of /proc for what a process does; empty once it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    script = (
        "from components.cli.local.parent_death import end_with_parent; import os;"
        " end_with_parent(os.getppid()); end_with_parent(1 if os.getppid() != 1 else 2);"
        " print('goes on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
