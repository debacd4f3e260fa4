"""The parent of a step in its container: real processes that end in every way a cluster ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.cli.package.package_file import Package
from components.runtime.log_lines import message_of
from components.runtime.supervisor import (
    LONGEST_PAUSE_SECONDS,
    MAX_DEATHS,
    PATIENCE_SECONDS,
    RetryRule,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.process

STEP = """
import os, pathlib, signal, sys, time
tries = pathlib.Path(sys.argv[1])
number = len(tries.read_text().split()) if tries.exists() else 0
tries.open("a").write(f"{os.getpid()}\\n")
ending = sys.argv[2:][min(number, len(sys.argv) - 3)]
if ending.startswith("orphan-"):
    import subprocess
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path(f"{tries}.orphan").write_text(str(sleeper.pid))
    ending = ending.removeprefix("orphan-")
if ending == "save":
    def saved(*_):
        time.sleep(0.5)
        pathlib.Path(f"{tries}.saved").touch()
        sys.exit(75)
    signal.signal(signal.SIGTERM, saved)
    pathlib.Path(f"{tries}.ready").touch()
    while True:  # A signal just before a long sleep would wait for its end.
        time.sleep(0.05)
if ending.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, ending))
    time.sleep(600)
sys.exit(int(ending))
"""


def command(
    folder: Path, *endings: str, first_pause: float = 0.01, hours: float = 1
) -> list[str]:
    """Return the supervisor over a step whose tries end as said, started by a shell as KFP does."""
    script = folder / "step.py"
    script.write_text(STEP)
    step = [sys.executable, str(script), str(folder / "tries"), *endings]
    return [
        *(sys.executable, "-m", "components.runtime.supervisor"),
        *("--hours", str(hours), "--first-pause", str(first_pause), "--"),
        *("sh", "-ec", 'STARTED_BY=kfp "$0" "$@"\n', *step),
    ]


def supervised(
    folder: Path, *endings: str, **options: float
) -> subprocess.CompletedProcess[str]:
    """Run the supervisor to its end."""
    return subprocess.run(
        command(folder, *endings, **options),
        capture_output=True,
        text=True,
        timeout=120,
    )


def num_tries(folder: Path) -> int:
    """Return how often the step was started."""
    return len((folder / "tries").read_text().split())


@pytest.mark.parametrize(
    "ending", ["75", "SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "orphan-SIGKILL"]
)
def test_a_failure_that_may_pass_is_tried_again(tmp_path: Path, ending: str) -> None:
    done = supervised(tmp_path, ending, ending, "0")
    assert done.returncode == 0, done.stderr
    assert num_tries(tmp_path) == 3
    assert "try 1 ended with" in done.stderr
    assert "the next one begins in" in done.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_other_endings_are_final(tmp_path: Path, status: int) -> None:
    done = supervised(tmp_path, str(status))
    assert (done.returncode, num_tries(tmp_path)) == (status, 1)
    assert done.stderr == ""


def test_a_step_that_dies_every_time_is_given_up(tmp_path: Path) -> None:
    done = supervised(tmp_path, "SIGKILL")
    assert done.returncode == 128 + signal.SIGKILL
    assert num_tries(tmp_path) == 1 + MAX_DEATHS
    assert "SIGKILL (out of memory?)" in done.stderr
    assert "there is no further one" in done.stderr


def test_no_try_begins_after_the_hours_of_the_step(tmp_path: Path) -> None:
    done = supervised(tmp_path, "75", hours=0.0001, first_pause=10)
    assert (done.returncode, num_tries(tmp_path)) == (75, 1)


def test_what_a_killed_step_leaves_running_is_ended_before_the_next_try(
    tmp_path: Path,
) -> None:
    done = supervised(tmp_path, "orphan-SIGKILL", "0")
    assert done.returncode == 0
    orphan = int((tmp_path / "tries.orphan").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(orphan, 0)


def test_a_step_that_is_told_to_end_saves_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(command(tmp_path, "save"))
    try:
        wait_until((tmp_path / "tries.ready").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        process.kill()
    assert (tmp_path / "tries.saved").exists()
    assert num_tries(tmp_path) == 1


def test_it_ends_at_once_when_it_is_told_to_end_in_a_pause(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "75", first_pause=300), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "begins in 300 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert num_tries(tmp_path) == 1


def test_pauses_grow_and_short_failures_end_after_half_an_hour() -> None:
    patience, now, pauses = RetryRule(deadline=1e9), 0.0, []
    while (pause := patience.pause_after(75, 2.0, now)) is not None:
        pauses.append(pause)
        now += pause + 2.0
    assert pauses[:6] == [10, 20, 40, 80, 160, LONGEST_PAUSE_SECONDS]
    assert PATIENCE_SECONDS - LONGEST_PAUSE_SECONDS <= now <= PATIENCE_SECONDS


def test_a_store_that_is_away_for_five_minutes_costs_about_five_minutes() -> None:
    patience, now = RetryRule(deadline=1e9), 0.0
    while now < 300:
        pause = patience.pause_after(75, 2.0, now)
        assert pause is not None
        now += pause + 2.0
    assert now < 2 * 300


def test_a_try_that_worked_for_a_while_makes_the_pauses_short_again() -> None:
    patience, now = RetryRule(deadline=1e9), 0.0
    for _ in range(100):
        now += 3600
        assert patience.pause_after(75, 3600, now) == 10


def test_deaths_in_a_row_are_few_however_long_the_tries_were() -> None:
    patience = RetryRule(deadline=1e9)
    pauses = [
        patience.pause_after(137, 3600, 3600.0 * number)
        for number in range(MAX_DEATHS + 1)
    ]
    assert pauses == [10, 10, 10, None]


QUIET_STEP = """
import logging
def decide(state: str):
    print("our line", state)
    logging.getLogger("a library").info("a word that nobody asked for")
    logging.getLogger("a library").warning("a reason")
"""


@pytest.mark.parametrize("log_format", ["json", "text", ""])
def test_the_log_of_a_steps_pod_begins_and_ends_with_our_lines(
    package: Package, tmp_path: Path, log_format: str
) -> None:
    """By the very command of the compiled package, with another step in its component."""
    *command, _ = package.executors["exec-decide-r0"]["container"]["command"]
    inputs = {"inputs": {"parameterValues": {"state": "s"}}}
    outputs = {"outputs": {"outputFile": str(tmp_path / "output.json")}}
    arguments = ["--executor_input", json.dumps({**inputs, **outputs})]
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        [*command, QUIET_STEP, *arguments, "--function_to_execute", "decide"],
        env={
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path),
            "RATCHET_LOG_FORMAT": log_format,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert sorted(map(message_of, lines)) == [
        "WARNING a library: a reason",
        "our line s",
    ]
    if log_format != "text":
        assert {json.loads(line)["step"] for line in lines} == {"decide"}
