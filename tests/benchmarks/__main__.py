"""Benchmarks in order, then the table of docs/figures.md: `python -m tests.benchmarks [NAME …]`; without
names, all of them.

Each is a module of this folder that records figures, and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = (
    "demo",
    "labelfree",
    "smollm2",
    "campaign",
    "recipes",
    "training",
    "generation",
    "selection",
    "contamination",
    "cases",
    "audit",
    "influence",
    "collapse",
    "gate",
    "promises",
    "release",
    "noise",
    "votes",
    "diagnosis",
    "hints",
    "compile",
    "first_error",
    "tutorial",
    "house",
    "mutants",
    "manifests",
    "containers",
    "sandbox",
    "store",
    "resume",
    "garbage",
    "gate_macro_f1",
    "report",
    "budget",
    "from_nothing",
)


def main() -> int:
    """Exit status 1 if a benchmark failed; the others are still run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(
            f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}"
        )
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}"], check=False
        ).returncode:
            failed.append(name)
    subprocess.run([sys.executable, "-m", "tests.benchmarks.table"], check=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
