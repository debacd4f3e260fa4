"""Attempts to get out of the sandbox of verifier `code`: `python -m tests.benchmarks.sandbox`. Two
minutes.

Every program of `tests.security.escapes` runs in a process of its own. A program that passes its test,
or reaches anything that is watched, has escaped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.figures import record
from tests.security.escapes import NUM_ATTEMPTS, escaped

COMMAND = "python -m tests.benchmarks.sandbox"


def main() -> None:
    """Try all, print what escaped, and record how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = escaped(Path(folder))
    print(
        f"verifiers.sandbox_escapes = {len(names)} of {NUM_ATTEMPTS} tried {names or ''}"
    )
    if not options.dry:
        record(
            "verifiers.sandbox_escapes",
            len(names),
            f"of {NUM_ATTEMPTS} tried",
            "≤ 0",
            COMMAND,
            options.seed,
        )
    sys.exit(bool(names))


if __name__ == "__main__":
    main()
