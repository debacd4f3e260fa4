"""The server of a local run's tasks: a task in a forked copy of a warm Python, or in a fresh one, has
the streams, environment, exit status and end that a process of its own would have."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.cli.local.task_server import ServerEnded, TaskRequest, TaskServer, task_server

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = """
def task(what: str) -> str:
    import os, subprocess, sys, time
    if what == "exit":
        raise SystemExit(75)
    if what == "raise":
        raise ValueError("a bug of mine")
    if what == "die":
        os.kill(os.getpid(), 9)
    if what in ("sleep", "stubborn"):
        if what == "stubborn":
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        mark = os.environ["MARK"]
        open(mark + ".part", "w").write(f"{os.getpid()} {child.pid}")
        os.rename(mark + ".part", mark)
        time.sleep(600)
    if what == "leave":
        subprocess.Popen(["sleep", "600"])
        open(os.path.join(os.environ["TMPDIR"], "left"), "w")
    print("to stdout", os.environ["MARK"], os.getcwd())
    print("to stderr", file=sys.stderr)
    print("scratch", os.environ["TMPDIR"])
    print("pid", os.getpid())
    print("seen", open("/proc/self/cmdline").read().replace(chr(0), " "))
    return "torch" if "torch" in sys.modules else "cold"
"""


@pytest.fixture(scope="module", params=[True, False], ids=["warm", "fresh"])
def warm(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def server(warm: bool) -> Iterator[TaskServer]:
    with task_server(warm=warm) as made:
        yield made


def request(folder: Path, what: str) -> TaskRequest:
    executor_input = {
        "inputs": {"parameterValues": {"what": what}},
        "outputs": {
            "parameters": {"Output": {"outputFile": str(folder / "result")}},
            "outputFile": str(folder / "all.json"),
        },
    }
    return TaskRequest(
        source=COMPONENT,
        arguments=(
            "--executor_input",
            json.dumps(executor_input),
            "--function_to_execute",
            "task",
        ),
        environment={**os.environ, "MARK": str(folder / "mark"), "PYTHONPATH": str(ROOT)},
        folder=str(folder),
    )


def run(server: TaskServer, folder: Path, what: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    return server.run(request(folder, what), lines.append), lines


def said(lines: list[str], word: str) -> str:
    return next(line for line in lines if line.startswith(word)).removeprefix(word).strip()


def test_a_task_has_the_streams_environment_and_folder_of_who_started_it(
    server: TaskServer, tmp_path: Path, warm: bool
) -> None:
    status, lines = run(server, tmp_path, "work")
    assert status == 0, lines
    assert f"to stdout {tmp_path / 'mark'} {tmp_path}" in lines
    assert "to stderr" in lines
    assert ("torch" if warm else "cold") in (tmp_path / "all.json").read_text()


@pytest.mark.parametrize(
    ("what", "expected"), [("exit", 75), ("raise", 1), ("die", 128 + signal.SIGKILL)]
)
def test_the_exit_status_of_a_task_comes_through(
    server: TaskServer, tmp_path: Path, what: str, expected: int
) -> None:
    status, lines = run(server, tmp_path, what)
    assert status == expected
    assert any("a bug of mine" in line for line in lines) == (what == "raise")


def test_what_a_task_is_to_do_is_not_in_the_arguments_of_a_process(
    server: TaskServer, tmp_path: Path
) -> None:
    _, lines = run(server, tmp_path, "work")
    assert "components.cli.local.task_monitor" in said(lines, "seen")
    assert "executor_input" not in said(lines, "seen")


def test_a_tasks_temporary_folder_and_what_it_left_running_end_with_it(
    server: TaskServer, tmp_path: Path
) -> None:
    status, lines = run(server, tmp_path, "leave")
    assert status == 0, lines
    assert not Path(said(lines, "scratch")).exists()
    until(lambda: group_of(int(said(lines, "pid"))) == [])


def test_a_connection_that_says_nothing_delays_no_task(
    server: TaskServer, tmp_path: Path, warm: bool
) -> None:
    reading, writing = os.pipe()
    with server.connect(writing) as silent:
        assert run(server, tmp_path, "work")[0] == 0
        closed, _, _ = select.select([silent], [], [], 0)
        assert not closed, "the task waited until the server gave the silent connection up"
        silent.sendall(b'{"half a request')
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(run, server, tmp_path, what) for what in ("work", "exit")]
            assert [one.result()[0] for one in both] == [0, 75]
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_connection_that_says_nothing_for_too_long_is_closed(tmp_path: Path) -> None:
    program = (
        "import os, time\n"
        "from components.cli.local import task_monitor as module\n"
        "from components.cli.local.task_server import TaskServer\n"
        "module.REQUEST_SECONDS = 0.2\n"
        "import socket, threading\n"
        "near, far = socket.socketpair()\n"
        "if os.fork() == 0:\n"
        "    near.close()\n"
        "    module.serve(far, warm=False)\n"
        "    os._exit(0)\n"
        "far.close()\n"
        "silent = TaskServer(near).connect(os.open(os.devnull, os.O_WRONLY))\n"
        "silent.settimeout(30)\n"
        "print(silent.recv(1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=120
    )
    assert done.stdout == "b''\n", done.stderr


CAMPAIGN = """
import json, sys
from components.cli.local.task_server import TaskRequest, task_server
with task_server(warm=sys.argv[1] == "True") as server:
    fields = json.loads(sys.stdin.readline())
    server.run(TaskRequest(**fields), lambda line: None)
"""


def test_no_process_outlives_a_campaign_that_is_killed(tmp_path: Path, warm: bool) -> None:
    with campaign(tmp_path, warm, "stubborn") as (process, everybody):
        process.kill()
        process.wait()
        until(lambda: [pid for pid in everybody if alive(pid)] == [])
    assert list(tmp_path.glob("ratchet-task-*")) == []


def test_a_task_that_ignores_a_request_to_end_is_ended(tmp_path: Path, warm: bool) -> None:
    with campaign(tmp_path, warm, "stubborn") as (process, everybody):
        monitor = parent_of(int((tmp_path / "mark").read_text().split()[0]))
        os.kill(monitor, signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        until(lambda: [pid for pid in everybody if alive(pid)] == [])


def test_a_task_ends_with_its_monitor(tmp_path: Path, warm: bool) -> None:
    with campaign(tmp_path, warm, "sleep") as (process, everybody):
        task = int((tmp_path / "mark").read_text().split()[0])
        os.kill(parent_of(task), signal.SIGKILL)
        until(lambda: not alive(task))
        assert process.wait(timeout=60) != 0  # ServerEnded
        os.kill(everybody[-1], signal.SIGKILL)  # what the task had started


@contextmanager
def campaign(
    folder: Path, warm: bool, what: str
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with a server and one task that has begun, and the ids of all of them."""
    wanted = request(folder, what)
    process = subprocess.Popen(
        [sys.executable, "-c", CAMPAIGN, str(warm)],
        cwd=folder,
        env={**wanted.environment, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    everybody = [process.pid]
    assert process.stdin is not None
    process.stdin.write(json.dumps(vars(wanted)) + "\n")
    process.stdin.close()
    try:
        until((folder / "mark").exists)
        task, child = map(int, (folder / "mark").read_text().split())
        monitor = parent_of(task)
        everybody += [parent_of(monitor), monitor, task, child]
        yield process, everybody
    finally:
        for pid in filter(alive, everybody):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def test_a_server_that_is_gone_is_an_error_not_a_wait(tmp_path: Path) -> None:
    with task_server(warm=False) as server:
        assert run(server, tmp_path, "exit")[0] == 75
    with pytest.raises(ServerEnded, match="RATCHET_WARM=0"):
        run(server, tmp_path, "exit")


def until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return state_of(pid)[0] not in "ZX"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(state_of(pid)[1])


def group_of(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, own, *_ = state_of(int(entry.name))
        except OSError:
            continue
        if int(own) == group and state not in "ZX":
            found.append(int(entry.name))
    return found


def state_of(pid: int) -> list[str]:
    """State, parent and group of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
