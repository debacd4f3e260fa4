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
from dataclasses import asdict
from pathlib import Path

import pytest

from components.cli.local.task_server import (
    HANDED_ON,
    ServerEnded,
    TaskRequest,
    TaskServer,
    inherited_descriptors,
    task_server,
)
from components.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = """
def task(what: str) -> str:
    import atexit, os, subprocess, sys, threading, time
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
    if what == "parents":
        parent = os.getppid()
        for _ in range(2):
            parent = int(open(f"/proc/{parent}/stat").read().split()[3])
        print("grandparent's parent", parent)
    if what == "ends":
        atexit.register(print, "handler")
        threading.Timer(0.1, print, ["thread"]).start()
        class Remains:
            def __del__(self):
                os.write(1, b"torn down\\n")
        import __main__
        __main__.remains = Remains()
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
        environment={
            **os.environ,
            "MARK": str(folder / "mark"),
            "PYTHONPATH": str(ROOT),
        },
        folder=str(folder),
    )


def run(server: TaskServer, folder: Path, what: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    return server.run(request(folder, what), lines.append), lines


def said(lines: list[str], word: str) -> str:
    return (
        next(line for line in lines if line.startswith(word)).removeprefix(word).strip()
    )


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


def test_a_task_ends_in_good_order_and_only_a_fresh_python_is_taken_apart(
    server: TaskServer, tmp_path: Path, warm: bool
) -> None:
    status, lines = run(server, tmp_path, "ends")
    assert status == 0, lines
    assert lines.index("thread") < lines.index("handler")
    assert ("torn down" in lines) != warm


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
        assert not closed, (
            "the task waited until the server gave the silent connection up"
        )
        silent.sendall(b'{"half a request')
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(run, server, tmp_path, what) for what in ("work", "exit")
            ]
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
        [sys.executable, "-c", program],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.stdout == "b''\n", done.stderr


HEIR = """
import sys
from components.cli.local.task_server import TaskRequest, inherited_or_new_server
import json
with inherited_or_new_server() as server:
    sys.exit(server.run(TaskRequest(**json.loads(sys.argv[1])), print))
"""


def test_a_server_that_was_handed_on_starts_the_tasks_of_each_process_that_has_it(
    server: TaskServer, tmp_path: Path, warm: bool
) -> None:
    handed_on, descriptors = server.handed_on
    for _ in range(2):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                HEIR,
                json.dumps(asdict(request(tmp_path, "parents"))),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), HANDED_ON: handed_on},
            pass_fds=descriptors,
            text=True,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Between server and task is the task's monitor.
        assert (
            int(said(done.stdout.splitlines(), "grandparent's parent")) == os.getpid()
        )


def test_a_server_of_other_code_is_not_used_and_what_is_none_is_named(
    tmp_path: Path,
) -> None:
    with task_server(warm=False) as server, (tmp_path / "file").open("w") as file:
        number = server.handed_on[1][0]
        assert inherited_descriptors({HANDED_ON: server.handed_on[0]}) == (number,)
        for value in ("", "no server", f"{number}", f"{number}:{tmp_path}"):
            assert inherited_descriptors({HANDED_ON: value}) == ()
        for number in (file.fileno(), 99_999, -1):
            with pytest.raises(
                UserError, match=f"{HANDED_ON}: descriptor {number} is no server"
            ):
                inherited_descriptors({HANDED_ON: f"{number}:{ROOT}"})


CAMPAIGN = """
import json, sys
from components.cli.local.task_server import ServerEnded, TaskRequest, task_server
with task_server(warm=sys.argv[1] == "True") as server:
    for line in sys.stdin:
        try:
            print(server.run(TaskRequest(**json.loads(line)), lambda line: None), flush=True)
        except ServerEnded:
            print("server ended", flush=True)
"""


class Campaign:
    """A process with a server, to which it gives one task after the other."""

    def __init__(self, folder: Path, warm: bool) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", CAMPAIGN, str(warm)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def begin(self, what: str) -> tuple[int, list[int]]:
        """Begin a task, wait until it works, and return its id and those of all that it needs: the
        server, its monitor, itself and what it started."""
        mark = self._folder / "mark"
        mark.unlink(missing_ok=True)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(vars(request(self._folder, what))) + "\n")
        self.process.stdin.flush()
        until(mark.exists)
        task, child = map(int, mark.read_text().split())
        monitor = parent_of(task)
        return task, [parent_of(monitor), monitor, task, child]

    def outcome(self) -> str:
        """What became of the task: its exit status."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def test_tasks_end_with_their_monitor_and_with_their_campaign(
    tmp_path: Path, warm: bool
) -> None:
    campaign = Campaign(tmp_path, warm)
    started: list[int] = []
    # A task that takes no notice is waited for: once from a warm Python, once from a fresh one.
    on_request, on_abandonment = (
        ("stubborn", "sleep") if warm else ("sleep", "stubborn")
    )
    try:
        # A task that is asked to end is ended by its monitor at last.
        task, everybody = campaign.begin(on_request)
        started += everybody
        os.kill(parent_of(task), signal.SIGTERM)
        last_signal = signal.SIGKILL if on_request == "stubborn" else signal.SIGTERM
        assert campaign.outcome() == str(128 + last_signal)
        until(lambda: [pid for pid in everybody[1:] if alive(pid)] == [])

        # It does not outlive the monitor.
        task, everybody = campaign.begin("sleep")
        started += everybody
        os.kill(parent_of(task), signal.SIGKILL)
        until(lambda: not alive(task))
        assert campaign.outcome() == "server ended"
        os.kill(everybody[-1], signal.SIGKILL)  # what the task had started
        abandoned = set(tmp_path.glob("ratchet-task-*"))

        # Nor does anything outlive the campaign.
        _, everybody = campaign.begin(on_abandonment)
        started += everybody
        campaign.process.kill()
        campaign.process.wait()
        until(lambda: [pid for pid in everybody if alive(pid)] == [])
        assert set(tmp_path.glob("ratchet-task-*")) == abandoned
    finally:
        for pid in filter(alive, [*started, campaign.process.pid]):
            os.kill(pid, signal.SIGKILL)
        campaign.process.wait()


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
