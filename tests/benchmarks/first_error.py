"""Seconds until a mistake in a recipe is told: `python -m tests.benchmarks.first_error`. A minute.

Each mistake is made in a folder of its own and `run` is started on it; the slowest counts. None may
leave a run in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import record

COMMAND = "python -m tests.benchmarks.first_error"
ROOT = Path(__file__).resolve().parents[2]
BOUND_SECONDS = 5
CHECKER = "import no_such_package\n\n\ndef right(prompt, answer, reference):\n    return True\n"
MISTAKES: dict[str, dict[str, Any]] = {
    "a key": {"trian": {"first": {"steps": 3}}},
    "a data file": {"data": {"sources": [{"uri": "nowhere.csv"}]}},
    "a format": {"data": {"sources": [{"uri": "sheet.xlsx"}]}},
    "columns": {"data": {"sources": [{"uri": "qa.csv", "prompt_field": "frage"}]}},
    "a model's name": {"model": {"source": "HuggingFaceTB/SmolLM2-135M-Instruct"}},
    "a revision": {"model": {"source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"}},
    "an import": {"data": {"sources": [{"uri": "qa.csv", "verifier": "own.py:right"}]}},
}
"""Mistake → the sections of a recipe that hold it."""


def seconds_to_error(mistake: str) -> tuple[float, float]:
    """Return (wall time, CPU time) of `run` until it refuses a recipe.

    It must leave no run behind.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "qa.csv").write_text("question,answer\n2+2,4\n", encoding="utf-8")
        (folder / "sheet.xlsx").write_bytes(b"PK")
        (folder / "own.py").write_text(CHECKER, encoding="utf-8")
        recipe = {
            "name": "mistake",
            "data": {"sources": [{"uri": "qa.csv"}]},
            "decide": {"goal": {"threshold": 0.9}},
            **MISTAKES[mistake],
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, str(ROOT / "pipeline.py"), "run", "recipe.yaml"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        began = time.monotonic()
        cpu_before = cpu_seconds()
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        assert done.returncode == 2, done.stderr
        assert not (folder / ".ratchet").exists(), mistake
        error = done.stderr.splitlines()[-1]
        cpu = cpu_seconds() - cpu_before
        print(f"{seconds:5.1f} s ({cpu:.1f} of CPU)  {mistake}: {error[:120]}")
        return seconds, cpu


def cpu_seconds() -> float:
    """Return the CPU time of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    # On a machine that does other things too, the CPU time says how long it takes on a quiet one.
    slowest, cpu = max(seconds_to_error(mistake) for mistake in MISTAKES)
    note = f"the slowest of {len(MISTAKES)} mistakes, {cpu:.1f} s of CPU"
    print(f"recipe.first_error_seconds = {slowest:.4g} s ({note})")
    if not options.dry:
        bound = f"≤ {BOUND_SECONDS}"
        record(
            "recipe.first_error_seconds",
            slowest,
            "s",
            bound,
            COMMAND,
            options.seed,
            note,
        )


if __name__ == "__main__":
    main()
