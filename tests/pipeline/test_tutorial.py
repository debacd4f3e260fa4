"""Every block of the tutorial runs, in order, as a reader would type it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tutorial_page import MARK, blocks, run_blocks

pytestmark = pytest.mark.process


def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    assert len(blocks()) == 6
    # The page says so: a model of the hub cannot be downloaded where the tests run.
    done = run_blocks(tmp_path, "scratch", timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.split(rf"{MARK} \d\n", done.stdout)[1:]
    assert said[0].splitlines()[0] == "question,answer"
    assert "smallest gain that 107 validation" in " ".join(said[1].split())
    assert "round 1  promoted" in said[2]
    # What the model said, what was expected, and why.
    assert re.search(
        r"verifier\n  prompt .*\n  said .*\n  expected [a-h]\n  why ", said[3]
    )
    assert re.search(
        r"accepted\n  prompt .*\n  said +([a-h])\n  expected \1\n", said[3]
    )
    assert "base: 0 of 5 right" in said[4]
    assert re.search(r"champion: [1-5] of 5 right", said[4])
    assert {"model.safetensors", "README.md"} <= set(said[5].split())
