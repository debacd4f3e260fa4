"""The recipe self-augmentation beside the same training without the model's own text: figures
`recipe.self-augmentation.*` of `tests.benchmarks.recipes`."""

from __future__ import annotations

from pathlib import Path

from components.contracts.state import RoundRecord
from components.contracts.summaries import SelectSummary
from components.measures import perplexity_of
from components.runtime.receipts import Receipt, read_receipt, read_summary
from tests.benchmarks.campaigns import (
    Finished,
    control,
    planned_steps,
    results,
    run_campaign,
)

RECIPE = "recipes/self-augmentation.yaml"
ROUNDS = 5
NUM_CHARACTERS = 350_000
"""Of Shakespeare's plays: little text, so that a campaign of five rounds takes half an hour."""
NEVER_STOPPED = "train.evaluate_every=1000000"
"""The dev loss is looked at behind the last step alone, so the last weights are kept."""
WITHOUT_FILTERS = (
    "select.contamination=exact",
    "select.minhash_threshold=1.0",
    "select.require_finished=false",
    "select.likelihood=null",
    "select.keep=null",
)
ARM_ROUNDS = 2
ARMS = {
    "union": (*WITHOUT_FILTERS, "select.union=true"),
    "replace": (*WITHOUT_FILTERS, "select.unsafe_replace=true"),
}
"""Campaigns beside the recipe: D and all that the model wrote; what it wrote alone."""
Figures = dict[str, tuple[float, str, str]]


def figures(finished: Finished, folder: Path, overrides: list[str]) -> Figures:
    """Return the perplexity of the champion on test blocks, against the same steps on D alone.

    Args:
        finished: The campaign of the recipe, with its store in `folder`.
        folder: The other campaigns share the store, so the start is trained once.
        overrides: Seed and data of all of them.
    """
    print(rounds_table("recipe", finished))
    champion = test_perplexity(finished, finished.evaluation(finished.champion_round))
    best, end = controls(finished, folder, overrides)
    measured = {
        "start_perplexity": (
            test_perplexity(finished, finished.evaluation(0)),
            "",
            "measured",
        ),
        "perplexity": (champion, "", "measured"),
        "control_perplexity": (best, "", "measured"),
        "vs_control": (champion / best, "ratio", "≤ 0.985"),
        "vs_control_end": (champion / end, "ratio", "≤ 0.7"),
        "promoted_rounds": (float(finished.champion_round), "", "measured"),
        "minutes": (finished.view.totals.wall_seconds / 60, "min", "≤ 30"),
    }
    for name, changes in ARMS.items():
        arm = run_campaign(RECIPE, folder, [*overrides, *changes], rounds=ARM_ROUNDS)
        print(rounds_table(name, arm))
        last = trained_rounds(arm)[-1]
        perplexity = test_perplexity(arm, arm.evaluation(last.round))
        measured[f"{name}_vs_control"] = (perplexity / best, "ratio", "shown beside")
    return measured


def controls(
    finished: Finished, folder: Path, overrides: list[str]
) -> tuple[float, float]:
    """Return the perplexities of D alone at its best moment and at its end.

    As many steps as all promoted rounds took, in one training as the first is, or as a round is; or
    round 0 itself, whose few steps end on a low learning rate. The best of the three is the best
    moment, each with the recipe's early stopping.
    """
    num_steps = sum(
        planned_steps(finished.context, past.receipts["train"])
        for past in finished.state.history
        if past.verdict == "promoted"
    )
    longer = [*overrides, f"train.first.steps={num_steps}"]
    alone = run_campaign(RECIPE, folder, longer, rounds=0)
    best = min(
        test_perplexity(finished, finished.evaluation(0)),
        test_perplexity(alone, alone.evaluation(0)),
    )
    if finished.champion_round > 0:
        best = min(best, test_perplexity(finished, control(finished)))
    never_stopped = run_campaign(RECIPE, folder, [*longer, NEVER_STOPPED], rounds=0)
    return best, test_perplexity(never_stopped, never_stopped.evaluation(0))


def write_text(source: Path, folder: Path) -> Path:
    """Write the beginning of a text into a folder; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "text.txt"
    text = source.read_text(encoding="utf-8")[:NUM_CHARACTERS]
    path.write_text(text, encoding="utf-8")
    return path


def trained_rounds(finished: Finished) -> list[RoundRecord]:
    """Return the rounds that trained a candidate."""
    return [past for past in finished.state.history if not past.weak]


def test_perplexity(finished: Finished, evaluation: Receipt) -> float:
    """Return a model's perplexity per token on the blocks of the test split."""
    rows = results(finished.context, evaluation, "test")
    return perplexity_of(list(rows.values())).value


def rounds_table(name: str, finished: Finished) -> str:
    """Return the table of the recipe's page: every round on test blocks, as Markdown."""
    lines = [
        f"| {name} | verdict | perplexity | accepted | trained on |",
        "|---|---|---|---|---|",
    ]
    for past in trained_rounds(finished):
        perplexity = test_perplexity(finished, finished.evaluation(past.round))
        mix = read_summary(
            read_receipt(finished.context, past.receipts["select"]), SelectSummary
        )
        lines.append(
            f"| {past.round} | {past.verdict} | {perplexity:.2f} | "
            f"{past.accepted} of {past.generated} | {mix.labelled_rows} + {mix.self_rows} rows |"
        )
    return "\n".join(lines)
