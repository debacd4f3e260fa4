"""Blocks of commands on the pages that need nothing but time, run as a reader would type them, with a
small recipe in the place of the one that they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.cli.local.task_server import HANDED_ON, TaskServer
from tests.command_blocks import ROOT, blocks_run_by
from tests.pipeline.campaigns import recipe

THIS_FILE = Path(__file__).resolve().relative_to(ROOT).as_posix()
FILLED_IN = {
    "hf://org/name@revision": "scratch",
    # What `init` writes trains for minutes.
    "python pipeline.py estimate mine.yaml": (
        "cp recipes/demo.yaml mine.yaml\npython pipeline.py estimate mine.yaml"
    ),
    "--resume-from URI": (
        '--resume-from "$(python pipeline.py status --json | grep \'"state"\' | cut -d \'"\' -f 4)"'
    ),
}
"""What a reader puts in the place of words of a page."""
FAILED = "FAILED"
"""Begin of the line that is printed for a command that does not end with status 0."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Where the reader works: a checkout with a small recipe, and a table of questions at home."""
    folder = tmp_path_factory.mktemp("reader")
    for name, arguments in (("ratchet", f'"{ROOT}/pipeline.py"'), ("python", "")):
        script = folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    (folder / "pipeline.py").symlink_to(ROOT / "pipeline.py")
    (folder / "recipes").mkdir()
    small = recipe(data)
    small["decide"] |= {"max_rounds": 1, "patience": 1}
    small["generate"]["shards"] = 1
    (folder / "recipes" / "demo.yaml").write_text(yaml.safe_dump(small))
    rows = "".join(
        f"How much is {number} and 1?,{number + 1}\n" for number in range(400)
    )
    (folder / "qa.csv").write_text(f"question,answer\n{rows}")
    return folder


def run_in_shell(folder: Path, server: TaskServer, text: str) -> str:
    """Type commands into a shell, and return what they print; none but `run` may fail."""
    for words, others in FILLED_IN.items():
        text = text.replace(words, others)
    handed_on, descriptors = server.handed_on
    steering = ("RATCHET_", "AWS_", "FORCE_COLOR")
    kept = {
        name: word for name, word in os.environ.items() if not name.startswith(steering)
    }
    done = subprocess.run(
        [
            "bash",
            "-uo",
            "pipefail",
            "-c",
            f"trap 'echo {FAILED} $? $BASH_COMMAND' ERR\n{text}",
        ],
        cwd=folder,
        env={
            **kept,
            "PATH": f"{folder}/bin:{kept['PATH']}",
            "HOME": str(folder),
            "NO_COLOR": "1",
            "COLUMNS": "100",
            HANDED_ON: handed_on,
        },
        pass_fds=descriptors,
        # What is typed into a chat.
        input="123=\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=400,
    )
    failed = re.findall(rf"^{FAILED} (.+)", done.stdout, re.MULTILINE)
    # Status 1 says that the goal was not met.
    assert all(line.startswith("1 python pipeline.py run ") for line in failed), (
        done.stdout
    )
    return done.stdout


def test_what_the_pages_show_runs(folder: Path, server: TaskServer) -> None:
    # What the blocks go on from; `estimate` takes its rates.
    run_in_shell(folder, server, "python pipeline.py run recipes/demo.yaml")
    first_steps, estimate, resumed, continued = (
        run_in_shell(folder, server, block.text) for block in blocks_run_by(THIS_FILE)
    )
    assert "smallest gain" in first_steps
    assert "expected " in first_steps
    assert "champion: " in first_steps
    assert "Rates from the tasks of run last-digit-" in estimate
    assert "Price: " in estimate
    assert '"state": "file://' in resumed
    assert re.search(r"champion is round [2-5] ", " ".join(resumed.split()))
    assert "How many" in continued
