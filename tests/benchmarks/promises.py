"""The counted promises of docs/promises.md: `python -m tests.benchmarks.promises [--all --timeout=0]`.

Runs the tests of tests/promises and records, for each promise, how many of its cases were kept. With
`--all` they have the numbers of cases that the page names (25 minutes), else those of `make test`.
Other arguments are pytest's: `-k of_steps` records a part anew, and `--timeout=0` lets all cases of the
steps take longer together than a test may.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.benchmarks.figures import record

COMMAND = "python -m tests.benchmarks.promises"
COUNT = re.compile(r"promise (\w+): (\d+) of (\d+) cases kept")


def main() -> int:
    """Exit status 1 if a promise was broken, or none was counted."""
    arguments = sys.argv[1:]
    is_all = "--all" in arguments
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/promises",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        *(argument for argument in arguments if argument != "--all"),
    ]
    environment = {**os.environ, "RATCHET_PROMISES": "all" if is_all else "few"}
    done = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, check=False, env=environment
    )
    print(done.stdout)
    counts = COUNT.findall(done.stdout)
    for promise, passed, total in counts:
        record(
            f"promise.{promise}",
            float(passed),
            f"of {total} cases",
            f"≥ {total}",
            f"{COMMAND} --all" if is_all else COMMAND,
            0,
        )
    return 0 if counts and done.returncode == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
