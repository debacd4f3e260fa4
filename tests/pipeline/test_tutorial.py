"""Every block of the tutorial runs, in order, as a reader would type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, arguments in (("ratchet", f"{ROOT / 'pipeline.py'}"), ("python", "")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    marked = "\n".join(f"echo '== block {number}'\n{block}" for number, block in enumerate(blocks))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RATCHET_")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", marked],
        cwd=tmp_path,
        # The page says so: a model of the hub cannot be downloaded where the tests run.
        env={
            **kept,
            "PATH": f"{commands}:{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MODEL": "scratch",
            "COLUMNS": "60",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.split(r"== block \d\n", done.stdout)[1:]
    assert said[0].splitlines()[0] == "question,answer"
    assert "smallest gain that 107 validation" in " ".join(said[1].split())
    assert "round 1  promoted" in said[2]
    # What the model said, what was expected, and why.
    assert re.search(r"verifier\n  prompt .*\n  said .*\n  expected [a-h]\n  why ", said[3])
    assert re.search(r"accepted\n  prompt .*\n  said +([a-h])\n  expected \1\n", said[3])
    assert "base: 0 of 5 right" in said[4]
    assert re.search(r"champion: [1-5] of 5 right", said[4])
    assert {"model.safetensors", "README.md"} <= set(said[5].split())
