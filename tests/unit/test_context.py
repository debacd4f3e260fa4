"""The surroundings of a step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.runtime.context import SteadyClock, make_context

pytestmark = pytest.mark.process

PROGRAM = """
import os, sys
from components.runtime.context import make_context
print(repr(make_context(sys.argv[1], os.environ).started))
"""


def test_a_step_begins_when_its_process_does_to_a_hundredth_of_a_second(
    tmp_path: Path,
) -> None:
    """Whole seconds let tasks that follow each other overlap. No bound is on how long it takes."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    for _ in range(3):
        before = time.time()
        child = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"file://{tmp_path}/store"],
            check=True,
            capture_output=True,
            text=True,
        )
        after = time.time()
        assert before - 2 * tick <= float(child.stdout) <= after


def test_a_clock_that_is_set_while_a_step_works_changes_no_duration(
    tmp_path: Path,
) -> None:
    year_seconds = 365 * 86400.0
    now = {"wall": 1_000_000.0, "steady": 50.0}
    clock = SteadyClock(lambda: now["wall"], lambda: now["steady"])
    assert clock() == 1_000_000.0
    now["wall"] += year_seconds
    assert clock() == 1_000_000.0
    now["steady"] += 2.5
    assert clock() == 1_000_002.5
    context = make_context(
        f"file://{tmp_path}/store", {"RATCHET_CACHE": f"{tmp_path}/cache"}
    )
    assert isinstance(context.clock, SteadyClock)
