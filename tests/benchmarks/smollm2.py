"""Figures of recipes/smollm2.yaml: `python -m tests.benchmarks.smollm2 [--seed N]`. About an hour
on two cores."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from components.contracts.summaries import EvaluateSummary
from components.runtime.receipts import Receipt, read_summary
from tests.benchmarks.campaigns import Finished, compare, control, run_campaign
from tests.benchmarks.figures import record

RECIPE = "recipes/smollm2.yaml"


def main() -> None:
    """Run the recipe and its control and record what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep (or continue) the run here")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="smollm2-"))
    finished = run_campaign(RECIPE, folder, [f"seed={given.seed}"], rounds=3)
    for name, (value, unit, bound) in measure(finished).items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        record(
            name,
            value,
            unit,
            bound,
            f"python -m tests.benchmarks.smollm2 --seed {given.seed}",
            given.seed,
        )


def measure(finished: Finished) -> dict[str, tuple[float, str, str]]:
    """Name → (value, unit, bound); all accuracies are greedy, on the test split."""
    context, champion_round = finished.context, finished.champion_round
    first, best = finished.evaluation(0), finished.evaluation(champion_round)
    first_scores, best_scores = finished.scores(0), finished.scores(champion_round)
    assert first_scores.pass_at_k is not None
    assert best_scores.pass_at_k is not None
    assert first_scores.perplexity is not None
    assert best_scores.perplexity is not None
    base = finished.state.base
    assert base is not None
    assert base.perplexity is not None
    other = control(finished)
    gain, p_value = compare(context, first, best)
    over_control, _ = compare(context, other, best)
    print(markdown(finished, other))
    return {
        "smollm2.gain_points": (gain, "points", "≥ 15"),
        "smollm2.gain_over_control_points": (over_control, "points", "≥ 5"),
        "smollm2.p_value": (p_value, "", "< 0.01"),
        "smollm2.pass_at_8_gain_points": (
            100 * (best_scores.pass_at_k - first_scores.pass_at_k),
            "points",
            "≥ 0",
        ),
        "smollm2.human_ppl_ratio": (
            best_scores.perplexity / first_scores.perplexity,
            "ratio",
            "≤ 1.05",
        ),
        "smollm2.human_ppl_ratio_to_base": (
            best_scores.perplexity / base.perplexity,
            "ratio",
            "against the untouched base model",
        ),
        "smollm2.minutes": (finished.view.totals.wall_seconds / 60, "min", "≤ 45"),
    }


def markdown(finished: Finished, other: Receipt) -> str:
    """The table of docs/figures.md: greedy pass@1 per task on test, pass@8 on validation, perplexity,
    of every candidate and of the control."""
    names = {
        f"round {record.round} ({record.verdict})": finished.scores(record.round)
        for record in finished.state.history
        if not record.weak
    }
    columns = {**names, "control": read_summary(other, EvaluateSummary)}
    tasks = sorted(
        key for key in columns["control"].test_slices if key.startswith("task=")
    )
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for task in tasks:
        shares = [f"{one.test_slices[task].accuracy:.3f}" for one in columns.values()]
        lines.append(
            f"| {task.removeprefix('task=').rpartition('/')[2]} | "
            + " | ".join(shares)
            + " |"
        )
    for name, values in (
        ("mean pass@1", [one.test_accuracy for one in columns.values()]),
        ("pass@8", [one.pass_at_k for one in columns.values()]),
        ("perplexity, human text", [one.perplexity for one in columns.values()]),
    ):
        lines.append(
            f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
