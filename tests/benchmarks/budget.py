"""Figures of `estimate`: `python -m tests.benchmarks.budget [NAME …] [--dry]`. About seven minutes on
two cores that have nothing else to do.

Three recipes are estimated by a trial, then run: the demo, a cut of it with another task, and one of
`recipes/preference.yaml`. When the rounds end cannot be estimated, so the cost of as many rounds as
were carried out is compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from components.report.costs import tokens_of
from tests.benchmarks.campaigns import REPOSITORY, Finished, run_campaign
from tests.benchmarks.figures import record

COMMAND = "python -m tests.benchmarks.budget"
PREFERENCE_CUT = (
    "data.tasks.0.labelled=2000",
    "data.tasks.0.unlabelled=1200",
    "generate.prompts_per_round=300",
    "train.first.steps=300",
    "train.rounds.steps=100",
    "decide.max_rounds=1",
)


COPY_CUT = (
    "name=copy",
    "data.tasks.0.task=copy",
    "data.tasks.0.unlabelled=1000",
    "generate.samples_per_prompt=4",
    "generate.temperature=0.5",
    "generate.prompts_per_round=500",
    "generate.shards=1",
    "select.min_accepted=20",
    "train.first.steps=600",
    "train.rounds.steps=150",
    "decide.max_rounds=1",
)


class Case(NamedTuple):
    """A recipe, and the rounds of its run."""

    recipe: str
    overrides: tuple[str, ...]
    rounds: int


CASES = {
    "demo": Case("recipes/demo.yaml", (), 4),
    "preference": Case("recipes/preference.yaml", PREFERENCE_CUT, 1),
    "copy": Case("recipes/demo.yaml", COPY_CUT, 1),
}


def main() -> None:
    """Estimate and run the recipes, and record the largest errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    errors = [errors_of(name) for name in given.names or CASES]
    time_error = max(time_error for time_error, _ in errors)
    tokens_error = max(tokens_error for _, tokens_error in errors)
    figures = {"budget.time_error": time_error, "budget.tokens_error": tokens_error}
    for name, value in figures.items():
        print(f"{name} = {value:.4g}")
        # Of some of the recipes it would be another figure.
        if not given.dry and not given.names:
            record(
                name, value, "share", "≤ 0.25", COMMAND, 0, "largest of three recipes"
            )


def errors_of(name: str) -> tuple[float, float]:
    """Return (error of the time, error of the tokens), each as a share of what the run took."""
    with tempfile.TemporaryDirectory(prefix=f"budget-{name}-") as folder_name:
        folder = Path(folder_name)
        case = CASES[name]
        document = estimated(case, folder)
        finished = run_campaign(case.recipe, folder, list(case.overrides), case.rounds)
        records = [view.record for view in finished.view.rounds]
        # Whether samples are accepted is told to be unknown.
        assert not any(record.weak for record in records), (
            f"{name}: a round trained nothing"
        )
        num_rounds = sum(record.round > 0 for record in records)
        seconds = amount(document, num_rounds, "seconds")
        tokens = amount(document, num_rounds, "tokens_trained", "tokens_sampled")
        took = {"seconds": finished.seconds, "tokens": finished.view.totals.tokens}
        print(
            f"{name}, {num_rounds} rounds: {seconds:.1f} s estimated, {took['seconds']:.1f} taken"
        )
        print(f"{name}: {tokens:,.0f} tokens estimated, {took['tokens']:,.0f} taken")
        print_tasks(document, finished)
    return (
        abs(seconds - took["seconds"]) / took["seconds"],
        abs(tokens - took["tokens"]) / took["tokens"],
    )


def estimated(case: Case, folder: Path) -> dict[str, Any]:
    """Return what `estimate --trial` tells of a case."""
    command = [
        sys.executable,
        "pipeline.py",
        "estimate",
        case.recipe,
        "--trial",
        "--json",
    ]
    command += [f"--rounds={case.rounds}", f"--store=file://{folder}/store"]
    for override in case.overrides:
        command += ["--set", override]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def amount(document: dict[str, Any], num_rounds: int, *names: str) -> float:
    """Return the sum of some costs over a campaign of so many rounds after round 0."""
    once = [*document["before_rounds"], *document["after_rounds"]]
    each = document["each_round"] * num_rounds
    return sum(float(line[name]) for line in (*once, *each) for name in names)


def print_tasks(document: dict[str, Any], finished: Finished) -> None:
    """Print seconds and tokens of each task beside those that were estimated for it."""
    lines = [
        *document["before_rounds"],
        *document["each_round"],
        *document["after_rounds"],
    ]
    expected = {line["task"]: line for line in lines}
    for task in finished.view.tasks:
        line = expected.get(task.name, expected.get(task.last.step))
        taken = f"{task.worked.seconds:8.2f} s {tokens_of(task.worked):>10,.0f} tokens"
        told = "nothing"
        if line is not None:
            tokens = line["tokens_trained"] + line["tokens_sampled"]
            told = f"{line['seconds']:.2f} s {tokens:>10,.0f} tokens"
        print(f"  {task.name:<18} {taken}, estimated {told}")


if __name__ == "__main__":
    main()
