"""Figures of recipes/labelfree.yaml: `python -m tests.benchmarks.labelfree [--seed N]`. About a
quarter of an hour."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from components.contracts.rows import TrainingRow, read_rows
from components.runtime.receipts import fetch, read_receipt
from tests.benchmarks.campaigns import Finished, run_campaign
from tests.benchmarks.figures import record

RECIPE = "recipes/labelfree.yaml"


def main() -> None:
    """Run the recipe without any verifier and record how far it climbed, and how right its labels
    were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep (or continue) the run here")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="labelfree-"))
    finished = run_campaign(RECIPE, folder, [f"seed={given.seed}"], rounds=14)
    for name, (value, unit, bound) in measure(finished).items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        record(
            name,
            value,
            unit,
            bound,
            f"python -m tests.benchmarks.labelfree --seed {given.seed}",
            given.seed,
        )


def measure(finished: Finished) -> dict[str, tuple[float, str, str]]:
    """Name → (value, unit, bound). Right answers are looked up here alone; the campaign never saw
    them."""
    recipe = finished.view.recipe
    assert recipe is not None
    best = finished.scores(finished.champion_round).test_slices
    for entry in finished.state.history[1:]:
        selection = read_receipt(finished.context, entry.receipts["select"])
        rows = list(
            read_rows(fetch(finished.context, selection, "accepted.jsonl"), TrainingRow)
        )
        right = sum(
            row.completion == row.prompt.removesuffix("=")[::-1] for row in rows
        )
        share = len(rows) / entry.generated * recipe.train.num_peers
        print(
            f"round {entry.round}: length {entry.level}, {right / len(rows):.4f} of labels right, yield {share:.3f}, "
            f"{entry.verdict}"
        )
    return {
        "labelfree.end_exact_match": (
            best[recipe.decide.goal.slice].accuracy,
            "share",
            "≥ 0.98",
        ),
        "labelfree.minutes": (finished.seconds / 60, "min", "≤ 45"),
    }


if __name__ == "__main__":
    main()
