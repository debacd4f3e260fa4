"""How many weakened pods a real API server refuses: `python -m tests.benchmarks.cluster`. Two minutes.

Needs a cluster as `make cluster` does (RATCHET_CLUSTER or CLUSTER). Every pod that this project
makes is weakened in every way, and sent to a namespace of the manifests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.benchmarks.cluster"
LEAST = {"mutants_refused": 60}


def counted(names: list[str]) -> dict[str, int]:
    """Run tests that count things, and return name → number.

    Raises SystemExit if a test fails or was left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-o", "junit_family=xunit1", f"--junitxml={report}", *names]
        environment = {**os.environ, "RATCHET_NEED_CLUSTER": "1"}
        run = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if run.returncode:
            raise SystemExit(f"error: {' '.join(names)} did not pass: no figure is recorded")
        totals: dict[str, int] = {}
        for entry in ElementTree.parse(report).iter("property"):
            name = str(entry.get("name"))
            if name in LEAST:
                totals[name] = totals.get(name, 0) + int(str(entry.get("value")))
        return totals


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="without effect: nothing here is drawn")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    arguments = parser.parse_args()
    for name, number in counted(["tests/cluster/test_admission.py"]).items():
        least = LEAST[name]
        print(f"cluster.{name} = {number} of {number} (bound ≥ {least})")
        if not arguments.dry:
            record(
                f"cluster.{name}",
                number,
                "mutants",
                f"≥ {least}",
                COMMAND,
                arguments.seed,
                f"of {number}, Kubernetes 1.34",
            )


if __name__ == "__main__":
    main()
