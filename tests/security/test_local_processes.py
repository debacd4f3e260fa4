"""Who else is on the machine can neither reach the processes of a run nor be left with them.

Whole runs through the real command line, looked at from outside while they work.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.pipeline.campaigns import Place, recipe, write_data
from tests.pipeline.test_scenarios import descendants

pytestmark = pytest.mark.process

BEGUN_SECONDS = 120.0
ENDED_SECONDS = 120.0

# A stranger who may connect to a socket of a run asks for this component to be run. Another one
# connects and says nothing.
INTRUDER = """
import array, json, os, socket, sys

mark, folder, *addresses = sys.argv[1:]
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
component = os.path.join(folder, "intruder.py")
with open(component, "w") as file:
    file.write(f"def task():\\n    open({mark!r}, 'w').write('ran')\\n")
outputs = {"outputs": {"outputFile": os.path.join(folder, "all.json")}}
arguments = ["-m", "kfp.dsl.executor_main", "--component_module_path", component]
arguments += ["--executor_input", json.dumps(outputs), "--function_to_execute", "task"]
request = {"arguments": arguments, "environment": dict(os.environ), "folder": folder}
streams = array.array("i", [0, 1, 2])
for address in addresses:
    name = "\\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(name)
            body = json.dumps(request).encode() + b"\\n"
            server.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            server.settimeout(30)
            while server.recv(1024):
                pass
        except OSError as error:
            print(address, error)
        else:
            print(address, "answered")
"""


def tiny_place(folder: Path) -> Place:
    """A campaign that ends after round 0, whatever its model says."""
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder)
    document = recipe(folder)
    document["train"]["first"]["steps"] = 2
    document["decide"]["goal"]["threshold"] = 0.0
    return Place(folder, document)


def long_place(folder: Path) -> Place:
    """A campaign whose first training takes minutes."""
    place = tiny_place(folder)
    place.document["train"]["first"]["steps"] = 100_000
    return place


def begin(place: Place, task: str) -> subprocess.Popen[bytes]:
    """Start a run and wait until one of its tasks works."""
    run = subprocess.Popen(
        place.command("run", "--rounds", "1"),
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + BEGUN_SECONDS
    while not list(place.store.glob(f"attempts/*/{task}/*.json")):
        assert time.monotonic() < deadline, f"{task} does not begin"
        assert run.poll() is None, "the run ended early"
        time.sleep(0.05)
    return run


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[[Place, str], subprocess.Popen[bytes]]]:
    """`begin`, whose processes are gone after the test whatever happens in it."""
    runs: list[subprocess.Popen[bytes]] = []

    def start(place: Place, task: str) -> subprocess.Popen[bytes]:
        runs.append(begin(place, task))
        return runs[-1]

    try:
        yield start
    finally:
        for pid in [pid for run in runs for pid in (run.pid, *descendants(run.pid))]:
            kill(pid)
        for pid in processes_of(tmp_path):
            kill(pid)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """Processes that work in a folder or name it in their environment; none that have ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = (process / "cwd").resolve() == folder.resolve()
            told = os.fsencode(folder) in (process / "environ").read_bytes()
            ended = (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if (here or told) and not ended and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def addresses_of(pids: list[int]) -> list[str]:
    """Addresses of the Unix sockets of some processes, as `/proc/net/unix` writes them."""
    held = {
        os.readlink(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()
    }
    rows = [
        line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]
    ]
    return sorted(
        {row[7] for row in rows if len(row) > 7 and f"socket:[{row[6]}]" in held}
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may use."""
    with tempfile.TemporaryDirectory(prefix="ratchet-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_another_user_can_have_nothing_run_by_a_run_and_killed_alone_it_leaves_no_process(
    tmp_path: Path,
    open_folder: Path,
    begun: Callable[[Place, str], subprocess.Popen[bytes]],
) -> None:
    """Where the tests are not root, the stranger is the same user, who must find nothing either."""
    place = long_place(tmp_path / "work")
    run = begun(place, "train-r0")
    started = [run.pid, *descendants(run.pid)]
    mark = open_folder / "mark"
    intruder = subprocess.run(
        [
            sys.executable,
            "-c",
            INTRUDER,
            str(mark),
            str(open_folder),
            *addresses_of(started),
        ],
        cwd=open_folder,
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert intruder.returncode == 0, intruder.stderr
    assert not mark.exists(), f"a stranger's code ran as user {mark.stat().st_uid}"
    assert intruder.stdout == ""
    run.kill()
    run.wait()
    assert_ended(place.folder, started)


def test_a_stranger_who_says_nothing_stops_no_run(
    tmp_path: Path, begun: Callable[[Place, str], subprocess.Popen[bytes]]
) -> None:
    place = tiny_place(tmp_path / "work")
    run = begun(place, "prepare")
    with ExitStack() as silent:
        for address in addresses_of([run.pid, *descendants(run.pid)]):
            stranger = silent.enter_context(socket.socket(socket.AF_UNIX))
            stranger.connect("\0" + address[1:] if address.startswith("@") else address)
        # It ended; two steps teach nothing, so nothing is released: status 1.
        assert run.wait(timeout=BEGUN_SECONDS) == 1


@pytest.mark.parametrize("warm", ["1", "0"])
def test_no_process_is_left_of_a_run_that_is_killed_with_its_child(
    tmp_path: Path, begun: Callable[[Place, str], subprocess.Popen[bytes]], warm: str
) -> None:
    place = long_place(tmp_path / "work")
    place = Place(place.folder, place.document, extra={"RATCHET_WARM": warm})
    run = begun(place, "train-r0")
    children = [pid for pid in descendants(run.pid) if parent_of(pid) == run.pid]
    started = [run.pid, *descendants(run.pid)]
    assert len(children) == 1
    assert len(started) > 2
    for pid in (run.pid, *children):
        os.kill(pid, signal.SIGKILL)
    run.wait()
    assert_ended(place.folder, started)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def assert_ended(folder: Path, started: list[int]) -> None:
    """Within a bounded time no process works in the folder, and none of those is left."""
    deadline = time.monotonic() + ENDED_SECONDS
    left = started
    while left:
        assert time.monotonic() < deadline, [
            Path(f"/proc/{pid}/cmdline").read_text() for pid in left
        ]
        time.sleep(0.1)
        alive = [pid for pid in started if Path(f"/proc/{pid}/cwd").exists()]
        left = sorted({*alive, *processes_of(folder)})
