"""What a real cluster does to this project: `python -m tests.benchmarks.cluster [FIGURE …]`.

- mutants_refused: every pod that this project makes is weakened in every way, and sent to a
  namespace of the manifests (two minutes).
- connections: the table of who reaches whom, tried by real pods on a node (one minute).
- retries_survived: ways in which a cluster ends a step, early and late, after which it is done all
  the same (three minutes; needs the images that `make cluster-node` brings to the node).

Needs a cluster as `make cluster` does (RATCHET_CLUSTER or CLUSTER).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.benchmarks.cluster"


class Counted(NamedTuple):
    """A figure that tests count."""

    test: str
    """The test that counts, which passes only if all of them are right."""
    least: int
    unit: str


FIGURES = {
    "mutants_refused": Counted("test_admission.py", 60, "mutants"),
    "connections": Counted("test_connections.py", 30, "connections"),
    "retries_survived": Counted("test_deaths.py", 12, "deaths"),
}


def counted(name: str) -> int:
    """Run the test of a figure, and return the number that it counted.

    Raises SystemExit if it fails or was left out.
    """
    test = f"tests/cluster/{FIGURES[name].test}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-o", "junit_family=xunit1", f"--junitxml={report}", test]
        environment = {**os.environ, "RATCHET_NEED_CLUSTER": "1"}
        run = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if run.returncode:
            raise SystemExit(f"error: {test} did not pass: no figure is recorded")
        return number_in(report, name)


def number_in(report: Path, name: str) -> int:
    """Return the number that tests recorded under a name, of a report in JUnit's form.

    Raises SystemExit if none of them did: a figure of 0 would be recorded.
    """
    numbers = [
        int(str(entry.get("value")))
        for entry in ElementTree.parse(report).iter("property")
        if entry.get("name") == name
    ]
    if not sum(numbers):
        raise SystemExit(f"error: no test counted {name}: no figure is recorded")
    return sum(numbers)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - set(FIGURES):
        raise SystemExit(
            f"error: no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}"
        )
    for name in arguments.figures or FIGURES:
        number = counted(name)
        figure = FIGURES[name]
        print(f"cluster.{name} = {number} of {number} (bound ≥ {figure.least})")
        if not arguments.dry:
            record(
                f"cluster.{name}",
                number,
                figure.unit,
                f"≥ {figure.least}",
                COMMAND,
                arguments.seed,
                f"of {number}, Kubernetes 1.34",
            )


if __name__ == "__main__":
    main()
