"""The warm Python of local runs behaves as a fresh one: streams, environment, exit status, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.cli.warm import warm_python
from tests.waiting import wait_until

COMPONENT = """
def task(what: str) -> str:
    import os, sys, time
    if what == "exit":
        raise SystemExit(75)
    if what == "raise":
        raise ValueError("a bug of mine")
    if what == "sleep":
        open(os.environ["MARK"], "w").write(str(os.getpid()))
        time.sleep(60)
    print("to stdout", os.environ["MARK"], os.getcwd())
    print("to stderr", file=sys.stderr)
    return "torch" if "torch" in sys.modules else "cold"
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warm_python(tmp_path_factory.mktemp("warm")) as executable:
        yield executable


def command(python: str, folder: Path, what: str) -> list[str]:
    (folder / "module.py").write_text(COMPONENT)
    given = {
        "inputs": {"parameterValues": {"what": what}},
        "outputs": {
            "parameters": {"Output": {"outputFile": str(folder / "result")}},
            "outputFile": str(folder / "all.json"),
        },
    }
    return [
        python,
        "-m",
        "kfp.dsl.executor_main",
        "--component_module_path",
        str(folder / "module.py"),
        "--executor_input",
        json.dumps(given),
        "--function_to_execute",
        "task",
    ]


def start(python: str, folder: Path, what: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MARK": str(folder / "mark")}
    return subprocess.Popen(
        command(python, folder, what),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_task_has_the_streams_environment_and_folder_of_who_started_it(
    python: str, tmp_path: Path
) -> None:
    task = start(python, tmp_path, "work")
    out, err = task.communicate(timeout=120)
    assert task.returncode == 0, err
    assert f"to stdout {tmp_path / 'mark'} {tmp_path}" in out
    assert "to stderr" in err
    assert "torch" in (tmp_path / "all.json").read_text()


@pytest.mark.parametrize(("what", "status"), [("exit", 75), ("raise", 1)])
def test_the_exit_status_of_a_task_comes_through(
    python: str, tmp_path: Path, what: str, status: int
) -> None:
    task = start(python, tmp_path, what)
    _, err = task.communicate(timeout=120)
    assert task.returncode == status
    assert ("a bug of mine" in err) == (what == "raise")


def test_a_signal_ends_the_task_not_only_the_one_who_waits(python: str, tmp_path: Path) -> None:
    task = start(python, tmp_path, "sleep")
    mark = tmp_path / "mark"
    wait_until(lambda: mark.exists() and mark.read_text(), task)
    pid = int(mark.read_text())
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_any_other_command_goes_to_the_real_python(python: str) -> None:
    done = subprocess.run(
        [python, "-c", "import sys; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
