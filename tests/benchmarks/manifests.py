"""How many weakened manifests the checks catch: `python -m tests.benchmarks.manifests`. Half a
minute.

Each of the mutants takes one thing away from, or puts one into, a composition of all components; it
is caught if a check says anything of it. The composition itself has to be without findings, or
every mutant would count.
"""

from __future__ import annotations

import argparse

from tests.benchmarks.figures import record
from tests.manifests.checks import findings
from tests.manifests.mutants import MUTANTS, mutated
from tests.manifests.rendering import COMPONENTS, composed

LEAST = 30


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    objects = composed(*COMPONENTS)
    sound = list(findings(objects, COMPONENTS))
    if sound:
        raise SystemExit(f"error: findings without any change: {'; '.join(sound[:3])}")
    missed = [
        mutant
        for mutant in MUTANTS
        if not list(findings(mutated(objects, mutant), COMPONENTS))
    ]
    for mutant in missed:
        print(f"missed: {mutant.target} {mutant.path}")
    caught = len(MUTANTS) - len(missed)
    print(f"manifests.mutants_caught = {caught} of {len(MUTANTS)}")
    if len(MUTANTS) < LEAST:
        raise SystemExit(
            f"error: {len(MUTANTS)} mutants, at least {LEAST} are agreed on"
        )
    if not given.dry:
        command, bound = "python -m tests.benchmarks.manifests", f"≥ {len(MUTANTS)}"
        record(
            "manifests.mutants_caught",
            caught,
            "mutants",
            bound,
            command,
            given.seed,
            f"of {len(MUTANTS)}",
        )


if __name__ == "__main__":
    main()
