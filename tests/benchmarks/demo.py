"""Figures of the demo: `python -m tests.benchmarks.demo [--seed N]`. About six minutes on two
cores."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from components.contracts.summaries import EvaluateSummary
from components.runtime.receipts import read_summary
from tests.benchmarks.campaigns import Finished, control, run_campaign
from tests.benchmarks.figures import record

RECIPE = "recipes/demo.yaml"


def main() -> None:
    """Run the demo and its control and record what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        finished = run_campaign(RECIPE, Path(folder), [f"seed={given.seed}"], rounds=4)
        figures = measure(finished)
    for name, (value, unit, bound) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        if not given.dry:
            record(
                name,
                value,
                unit,
                bound,
                f"python -m tests.benchmarks.demo --seed {given.seed}",
                given.seed,
            )


def measure(finished: Finished) -> dict[str, tuple[float, str, str]]:
    """Name → (value, unit, bound). Exact match is on the test split at the goal's length."""
    recipe = finished.view.recipe
    assert recipe is not None
    goal, state = recipe.decide.goal.slice, finished.state

    def exact_match(number: int) -> float:
        return finished.scores(number).test_slices[goal].accuracy

    totals = finished.view.totals
    assert totals.share_not_computing is not None
    compute = totals.wall_seconds * (1 - totals.share_not_computing)
    tasks = finished.view.tasks
    speed = {}
    for step, kind in (("train", "tokens_trained"), ("generate", "tokens_generated")):
        own = [task.last for task in tasks if task.last.step == step]
        seconds = sum(one.costs.get("compute_seconds", 0.0) for one in own)
        speed[step] = sum(one.costs.get(kind, 0.0) for one in own) / max(seconds, 1e-9)
    # Round 0 learns from labelled rows: what counts is what the model teaches itself.
    promoted = sum(
        record.verdict == "promoted" for record in state.history if record.round
    )
    rounds = [
        sum(task.last.seconds for task in tasks if task.last.round == record.round)
        for record in state.history
    ]
    return {
        "demo.seconds": (finished.seconds, "s", "≤ 360"),
        "demo.start_exact_match": (exact_match(0), "share", "< 0.10"),
        "demo.end_exact_match": (
            exact_match(finished.champion_round),
            "share",
            "≥ 0.98",
        ),
        "demo.promoted_rounds": (promoted, "rounds", "≥ 3"),
        "demo.control_exact_match": (
            read_summary(control(finished), EvaluateSummary).test_slices[goal].accuracy,
            "share",
            "same steps, no self data",
        ),
        "demo.overhead_share": (1 - compute / finished.seconds, "share", "≤ 0.15"),
        "demo.seconds_per_round": (
            sum(rounds[1:]) / max(1, len(rounds) - 1),
            "s",
            "measured",
        ),
        "demo.train_tokens_per_second": (speed["train"], "tokens/s", "measured"),
        "demo.generate_tokens_per_second": (
            speed["generate"],
            "tokens/s per shard",
            "measured",
        ),
        "demo.peak_memory_gib": (totals.peak_memory_bytes / 2**30, "GiB", "measured"),
    }


if __name__ == "__main__":
    main()
