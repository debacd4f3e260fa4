"""Whole campaigns as benchmarks: run a recipe as a person would, then its control, and read what
the receipts say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from components.canonical import JsonObject, canonical_json
from components.contracts.rows import Result, read_rows
from components.contracts.state import State
from components.contracts.summaries import EvaluateSummary
from components.decide import first_champion
from components.decide.first_champion import FirstChampionInputs
from components.evaluate.step import EvaluateInputs
from components.evaluate.step import run as evaluate
from components.report.runs import load_run
from components.report.views import RunView
from components.runtime.attempts import Task
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context, make_context
from components.runtime.entrypoints import base_of, mix_of
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    read_receipt,
    read_summary,
    receipt_uri,
)
from components.statistics import mcnemar_two_sided
from components.train.step import TrainInputs
from components.train.step import run as train
from tests.unit.crafted import Plain

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finished:
    """A campaign that ran to its end."""

    context: Context
    view: RunView
    seconds: float
    """Of the whole command, from its start to its end."""

    @property
    def state(self) -> State:
        """The last state."""
        assert self.view.state is not None, "the run left no state; see its log"
        return self.view.state

    @property
    def champion_round(self) -> int:
        """The round whose model is the best."""
        assert self.state.champion_round is not None, (
            "no model was proved better than the base"
        )
        return self.state.champion_round

    def evaluation(self, number: int) -> Receipt:
        """The evaluate receipt of a round."""
        record = next(record for record in self.state.history if record.round == number)
        return read_receipt(self.context, record.receipts["evaluate"])

    def scores(self, number: int) -> EvaluateSummary:
        """What evaluate says of a round's candidate."""
        return read_summary(self.evaluation(number), EvaluateSummary)


def run_campaign(
    recipe: str, folder: Path, overrides: list[str], rounds: int
) -> Finished:
    """`python pipeline.py run RECIPE` in a process of its own, with a store in `folder`."""
    command = [
        sys.executable,
        "pipeline.py",
        "run",
        recipe,
        "--store",
        f"file://{folder}/store",
        "--rounds",
        str(rounds),
    ]
    for override in overrides:
        command += ["--set", override]
    begun = time.time()
    done = subprocess.run(
        [*command, "--json"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.time() - begun
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"{' '.join(command)} ended with status {done.returncode}: {done.stdout}"
        )
    context = make_context(
        f"file://{folder}/store",
        {**os.environ, "RATCHET_CACHE": f"{folder}/store-cache"},
    )
    return Finished(
        context, load_run(context, json.loads(done.stdout)["run_id"]), seconds
    )


def control(finished: Finished) -> Receipt:
    """The evaluation of a model that got, after round 0, as many optimizer steps as led to the
    champion, on the labelled rows alone. Steps of rounds that were refused are in neither."""
    context, last = finished.context, finished.state
    first = read_receipt(context, last.history[0].receipts["evaluate"])
    campaign = _campaign_after_round_zero(finished)
    rounds = [record for record in last.history[1:] if record.verdict == "promoted"]
    assert rounds, "no round was promoted: there is nothing to compare"
    plan = rounds[0].plan.model_copy(
        update={
            "steps": sum(
                planned_steps(context, record.receipts["train"]) for record in rounds
            )
        }
    )
    state = campaign.state.model_copy(
        update={"plan": plan, "run_id": f"{last.run_id}-control", "history": ()}
    )

    def write_state(folder: Path) -> Plain:
        (folder / "state.json").write_bytes(
            canonical_json(state.model_dump(mode="json"))
        )
        return Plain({"control": True})

    receipt = commit_once(
        context,
        Task(run_id=state.run_id, name="control", round=0),
        "decide",
        config={"control": plan.model_dump(mode="json")},
        inputs={"state": campaign.state_receipt, "evaluation": first},
        seed=campaign.recipe.seed,
        work=write_state,
    )
    uri = receipt_uri(context, receipt)
    labelled = mix_of(context, campaign.start)
    return evaluate(
        EvaluateInputs(uri, train(TrainInputs(uri, labelled), context)), context
    )


def _campaign_after_round_zero(finished: Finished) -> Campaign:
    decided = next(
        task for task in finished.view.tasks if task.last.task == "decide-r0"
    )
    receipt = read_receipt(finished.context, decided.last.receipt)
    return load_campaign(finished.context, receipt_uri(finished.context, receipt))


def planned_steps(context: Context, ref: str) -> int:
    """Return the optimizer steps of a train receipt's stages; early stopping may have ended them
    sooner."""
    return sum(
        int(stage["steps"]) for stage in read_receipt(context, ref).config["stages"]
    )


def results(context: Context, evaluation: Receipt, split: str) -> dict[str, Result]:
    """Per-prompt results of one split."""
    rows = read_rows(fetch(context, evaluation, "results.jsonl"), Result)
    return {row.prompt_id: row for row in rows if row.split == split}


def compare(
    context: Context, before: Receipt, after: Receipt, split: str = "test"
) -> tuple[float, float]:
    """Gain in points and the exact two-sided McNemar p over the same prompts."""
    old, new = results(context, before, split), results(context, after, split)
    assert old.keys() == new.keys()
    only_new = sum(new[key].correct and not old[key].correct for key in old)
    only_old = sum(old[key].correct and not new[key].correct for key in old)
    return 100 * (only_new - only_old) / len(old), mcnemar_two_sided(only_new, only_old)


def state_with_base(context: Context, start: Receipt) -> str:
    """URI of the state in which the base model of a start receipt is measured, and the champion."""
    state = receipt_uri(context, start)
    results = evaluate(EvaluateInputs(state, base_of(context, start)), context)
    return receipt_uri(
        context, first_champion.run(FirstChampionInputs(state, results), context)
    )


def test_accuracy(evaluation: Receipt) -> float:
    """Accuracy of greedy answers on the test split."""
    return read_summary(evaluation, EvaluateSummary).test_accuracy


def split_rows(finished: Finished, split: str) -> list[JsonObject]:
    """Rows of a split, as `prepare` wrote them."""
    prepared = read_receipt(finished.context, finished.state.prepared)
    path = fetch(finished.context, prepared, f"splits/{split}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def labelled_rows(finished: Finished) -> list[JsonObject]:
    """Rows of the train split that have a prompt: all but raw text."""
    return [row for row in split_rows(finished, "train") if row["prompt"]]
