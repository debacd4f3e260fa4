"""The command line as a person starts it, in a folder and on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = """
name: tiny
data:
  tasks: [{task: copy, ladder: {labelled: [1, 2], climb: [3, 3]}}]
decide: {goal: {threshold: 0.9}}
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "pipeline.py"), *arguments]


def environment(columns: int = 80) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RATCHET_", "FORCE_COLOR"))
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(columns),
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def cli(
    folder: Path, *arguments: str, columns: int = 80, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    # No run gets as far as a task that needs torch, so nothing need import it in advance.
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**environment(columns), "RATCHET_WARM": "0", "PYTHONIOENCODING": encoding},
        text=True,
        capture_output=True,
        check=False,
    )
