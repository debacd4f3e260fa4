"""Measure a candidate, and the champion on the same prompts: accuracy, pass@k, likelihood,
diversity, per slice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.contracts.artifacts import CHAMPION, DRAWN, RESULTS, RETENTION
from components.contracts.rows import Result, Sample, TextResult, read_rows, write_rows
from components.contracts.summaries import EvaluateSummary
from components.contracts.summaries.evaluate import Measurement, ModelScores
from components.evaluate.collapse import Measured, alarms, collapse_signs, diversity
from components.evaluate.harness import digest_of_folder, folder_of
from components.evaluate.measure import (
    Account,
    Questions,
    conditions,
    measure,
    measurement_key,
    read_questions,
)
from components.evaluate.scores import intervals, model_scores, scores_of, text_scores
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch, read_receipt, read_summary


@dataclass(frozen=True)
class EvaluateInputs:
    """What is measured."""

    state: str
    """URI of the state the round began from."""
    candidate: Receipt
    """Receipt of the train step."""


@dataclass(frozen=True)
class Compared:
    """What a candidate is held against once there is a champion."""

    champion: Receipt
    """Of train."""
    champion_evaluation: Receipt
    first: Receipt | None
    """Of train: round 0's model; None if the history does not reach back to it."""
    first_evaluation: Receipt

    @property
    def inputs(self) -> dict[str, Receipt]:
        """As inputs of a receipt."""
        return {
            "champion": self.champion,
            "champion_evaluation": self.champion_evaluation,
            "first_evaluation": self.first_evaluation,
        }


def run(inputs: EvaluateInputs, context: Context) -> Receipt:
    """Write `results.jsonl` (one row per validation and test prompt), `retention.jsonl` (one per
    human text) and, with pass@k, `samples.jsonl`; from round 1 on the same of the champion below
    `champion/`.

    Champion and candidate are measured by one process: same prompts, engine, batch size and seeds.
    The champion's own receipt is used in its place if it is provably of the same work: equal
    weights, prompts, code, settings, seed, libraries and device. Raises UserError if lm-eval's
    tasks cannot be used.
    """
    campaign = load_campaign(context, inputs.state)
    recipe = campaign.recipe
    compared = _compared(context, campaign)
    settings = campaign.config(
        section=recipe.evaluate,
        max_new_tokens=recipe.generate.max_new_tokens,
        top_k=recipe.generate.top_k,
        system_prompt=recipe.model.system_prompt,
        max_length=recipe.train.max_length,
        harness=digest_of_folder(folder_of(recipe.evaluate.harness, context))
        if recipe.evaluate.harness
        else None,
    )
    return commit_once(
        context,
        campaign.task("evaluate"),
        "evaluate",
        config={**settings, "round": campaign.next_round},
        inputs={
            "prepare": campaign.prepared,
            "candidate": inputs.candidate,
            **(compared.inputs if compared else {}),
        },
        seed=recipe.seed,
        work=lambda folder: _evaluate(
            context, campaign, inputs.candidate, compared, settings, folder
        ),
    )


def _compared(context: Context, campaign: Campaign) -> Compared | None:
    state = campaign.state
    if state.champion is None:
        return None
    assert state.champion_evaluation is not None, "a champion was evaluated"
    assert state.first_evaluation is not None, "a champion was evaluated"
    first = next(
        (record.receipts.get("train") for record in state.history if record.verdict == "first"),
        None,
    )
    return Compared(
        read_receipt(context, state.champion),
        read_receipt(context, state.champion_evaluation),
        read_receipt(context, first) if first is not None else None,
        read_receipt(context, state.first_evaluation),
    )


def _evaluate(
    context: Context,
    campaign: Campaign,
    candidate: Receipt,
    compared: Compared | None,
    settings: dict[str, Any],
    folder: Path,
) -> EvaluateSummary:
    under = conditions(context, campaign, settings)
    questions = read_questions(context, campaign)
    now, account = measure(context, campaign, candidate, questions, harness=True)
    _write(folder, now)
    summary = _summary(campaign, now, account, measurement_key(candidate, under))
    if compared is None:
        return summary
    asked = (context, campaign, questions, under)
    champion, reused = _measured(*asked, compared.champion, compared.champion_evaluation)
    (folder / CHAMPION).mkdir()
    _write(folder / CHAMPION, champion)
    first = champion
    if compared.first_evaluation.ref != compared.champion_evaluation.ref:
        first, _ = _measured(*asked, compared.first, compared.first_evaluation)
    collapse = collapse_signs(first, now, campaign.recipe.evaluate.diversity_rows)
    blocks, warnings = alarms(collapse)
    for alarm in (*blocks, *warnings):
        kind = "block" if alarm in blocks else "warning"
        context.progress.note(f"collapse {kind}: {alarm.why}")
    return summary.model_copy(
        update={
            "measurement": Measurement(
                candidate=summary.measurement.candidate,
                champion=measurement_key(compared.champion, under),
                champion_reused=reused,
            ),
            "champion": _headline(campaign, champion),
            "collapse": collapse,
            "blocks": tuple(blocks),
            "warnings": tuple(warnings),
        }
    )


def _measured(
    context: Context,
    campaign: Campaign,
    questions: Questions,
    under: dict[str, Any],
    train: Receipt | None,
    receipt: Receipt,
) -> tuple[Measured, bool]:
    """Results of an earlier model, and whether its own receipt gave them: the same work is not done
    twice. They come from there too if the model is not known (`train` is None)."""
    measurement = read_summary(receipt, EvaluateSummary).measurement
    if train is None or measurement.candidate == measurement_key(train, under):
        return _stored(context, receipt), True
    context.progress.note(
        f"{receipt.ref} is of other code, settings or libraries: its model is measured anew"
    )
    return measure(context, campaign, train, questions, harness=False)[0], False


def _stored(context: Context, receipt: Receipt) -> Measured:
    def rows(name: str, kind: type[Any]) -> list[Any]:
        return (
            list(read_rows(fetch(context, receipt, name), kind)) if name in receipt.objects else []
        )

    return Measured(
        rows(RESULTS, Result),
        rows(RETENTION, TextResult),
        rows(DRAWN, Sample),
    )


def _write(folder: Path, measured: Measured) -> None:
    files: dict[str, Iterable[BaseModel]] = {
        RESULTS: measured.results,
        RETENTION: measured.texts,
    }
    if measured.samples:
        files[DRAWN] = measured.samples
    for name, rows in files.items():
        write_rows(folder / name, rows)


def _summary(
    campaign: Campaign, measured: Measured, account: Account, measurement: str
) -> EvaluateSummary:
    """The candidate's own numbers."""
    section = campaign.recipe.evaluate
    scores = scores_of(measured.results, section.pass_k)
    texts = text_scores(measured.texts)
    return EvaluateSummary(
        round=campaign.next_round,
        slices=scores.slices,
        test_slices=scores.test_slices,
        pass_k=section.pass_k,
        pass_at=scores.pass_at,
        numeric=scores.numeric,
        classification=scores.classification,
        tokens=account.tokens,
        intervals=intervals(measured.results, scores, texts),
        retention=texts,
        generation_verification=account.generation_verification,
        diversity=diversity(measured, section.diversity_rows),
        harness=account.harness,
        skipped=account.skipped,
        measurement=Measurement(candidate=measurement),
        **dict(model_scores(measured.results, scores, texts)),
    )


def _headline(campaign: Campaign, measured: Measured) -> ModelScores:
    """The champion's numbers that a person compares."""
    scores = scores_of(measured.results, campaign.recipe.evaluate.pass_k)
    return model_scores(measured.results, scores, text_scores(measured.texts))
