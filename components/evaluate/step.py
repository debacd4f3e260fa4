"""Measure a candidate, and the champion on the same prompts: accuracy, pass@k, likelihood,
diversity, per slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue

from components.contracts.artifacts import CHAMPION, DRAWN, RESULTS, RETENTION
from components.contracts.rows import Result, Sample, TextResult, read_rows, write_rows
from components.contracts.summaries import EvaluateSummary
from components.contracts.summaries.evaluate import Measurement, ModelScores
from components.evaluate.collapse import Measured, alarms, diversity, worst_signs
from components.evaluate.harness import digest_of_folder, folder_of
from components.evaluate.measure import Account, conditions, measure, measurement_key
from components.evaluate.questions import Questions, read_questions
from components.evaluate.scores import (
    ANSWER_SPLITS,
    intervals,
    model_scores,
    scores_of,
    text_scores,
)
from components.measures import Scores
from components.runtime.attempts import Task, attempting
from components.runtime.campaign import BEFORE_ROUNDS, Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    read_receipt,
    read_summary,
)

Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True)
class EvaluateInputs:
    """The candidate, and the state that its round began from."""

    state: str
    """URI of the state the round began from."""
    candidate: Receipt
    """Receipt with the `model/`: of train, or of prepare for the base model."""


@dataclass(frozen=True)
class EarlierModels:
    """Receipts of the models that a candidate is compared with once there is a champion."""

    champion: Receipt
    """Receipt with its `model/`."""
    champion_evaluation: Receipt
    first: Receipt
    """The same of the model that signs of collapse are measured against."""
    first_evaluation: Receipt


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the models, and the conditions under which all of them are measured."""

    context: Context
    campaign: Campaign
    candidate: Receipt
    earlier: EarlierModels | None
    """None before there is a champion."""
    settings: dict[str, JsonValue]
    """The part of the recipe that results depend on."""
    round_number: int
    """Round of the candidate; -1 for the base."""


def run(inputs: EvaluateInputs, context: Context) -> Receipt:
    """Write `results.jsonl` (one row per dev, validation and test prompt), `retention.jsonl` (one per
    human text) and, with pass@k, `samples.jsonl`; once there is a champion the same of it below
    `champion/`. The base model is measured before that, and becomes the first champion.

    Champion and candidate are measured by one process: same prompts, engine, batch size and seeds.
    The champion's own receipt is used in its place if it is provably of the same work: equal
    weights, prompts, code, settings, seed, libraries and device. A candidate that is the champion
    itself, as in a weak round, is not measured again: that receipt is returned.

    Raises:
        UserError: lm-eval's tasks cannot be used.
    """
    campaign = load_campaign(context, inputs.state)
    is_base = inputs.candidate.digest == campaign.prepared.digest
    if inputs.candidate.ref == campaign.state.champion:
        return _evaluation_of_champion(context, campaign, is_base=is_base)
    recipe = campaign.recipe
    harness = recipe.evaluate.harness
    settings = campaign.config(
        section=recipe.evaluate,
        max_new_tokens=recipe.generate.max_new_tokens,
        top_k=recipe.generate.top_k,
        system_prompt=recipe.model.system_prompt,
        max_length=recipe.train.max_length,
        metric=recipe.decide.goal.metric,
        # The recipe names a folder; results depend on what is in it.
        harness=digest_of_folder(folder_of(harness, context)) if harness else None,
    )
    # The base is measured alone, and by the same key in every run of a campaign: a run that goes on
    # finds it done.
    earlier = None if is_base else _earlier_models(context, campaign)
    round_number = BEFORE_ROUNDS if is_base else campaign.next_round
    task = _base_task(campaign) if is_base else campaign.task("evaluate")
    receipts = {"prepare": campaign.prepared, "candidate": inputs.candidate}
    if earlier is not None:
        receipts["champion"] = earlier.champion
        receipts["champion_evaluation"] = earlier.champion_evaluation
        receipts["first_evaluation"] = earlier.first_evaluation
    evaluation = Evaluation(
        context, campaign, inputs.candidate, earlier, settings, round_number
    )
    return commit_once(
        context,
        task,
        "evaluate",
        # Not among the settings of a measurement: equal weights are measured once, in any round.
        config={**settings, "round": round_number},
        inputs=receipts,
        seed=recipe.seed,
        work=lambda folder: _evaluate(evaluation, folder),
    )


def _base_task(campaign: Campaign) -> Task:
    return Task(run_id=campaign.state.run_id, name="evaluate-base", round=BEFORE_ROUNDS)


def _evaluation_of_champion(
    context: Context, campaign: Campaign, *, is_base: bool
) -> Receipt:
    """Return the champion's own evaluation, and record that the task is done."""
    state = campaign.state
    assert state.champion_evaluation is not None, "a champion was evaluated"
    # A run that goes on asks for the base before its first round, from the state that it began with.
    # If its first round is weak and the base the champion, that round asks with the same inputs: it
    # is recorded as another attempt at the base.
    before_rounds = is_base and campaign.state_receipt.step == "start"
    task = _base_task(campaign) if before_rounds else campaign.task("evaluate")
    with attempting(context, task, "evaluate") as attempt:
        evaluation = read_receipt(context, state.champion_evaluation)
        attempt.reused = True
        attempt.receipt = evaluation.ref
    return evaluation


def _earlier_models(context: Context, campaign: Campaign) -> EarlierModels | None:
    state = campaign.state
    if state.champion is None:
        return None
    assert state.champion_evaluation is not None, "a champion was evaluated"
    assert state.first_evaluation is not None, "a champion was evaluated"
    trainings = {
        record.receipts["evaluate"]: record.receipts["train"]
        for record in state.history
        if not record.weak
    }
    first = trainings.get(state.first_evaluation, state.prepared)
    return EarlierModels(
        champion=read_receipt(context, state.champion),
        champion_evaluation=read_receipt(context, state.champion_evaluation),
        first=read_receipt(context, first),
        first_evaluation=read_receipt(context, state.first_evaluation),
    )


def _evaluate(evaluation: Evaluation, folder: Path) -> EvaluateSummary:
    """Measure the candidate and what it is compared with, and write the rows into the folder."""
    context = evaluation.context
    campaign = evaluation.campaign
    earlier = evaluation.earlier
    under = conditions(context, campaign, evaluation.settings)
    questions = read_questions(context, campaign)
    candidate, account = measure(
        context, campaign, evaluation.candidate, questions, harness=True
    )
    _write(folder, candidate)
    measurement = Measurement(candidate=measurement_key(evaluation.candidate, under))
    summary = _summary(evaluation, candidate, account, measurement)
    if earlier is None:
        return summary
    champion, reused = _measured_earlier(
        evaluation, questions, under, earlier.champion, earlier.champion_evaluation
    )
    # Beside the candidate's, so that decide compares rows of one measurement.
    (folder / CHAMPION).mkdir()
    _write(folder / CHAMPION, champion)
    # Collapse is measured against a model that may be the champion still, and all champions.
    first = champion
    if earlier.first_evaluation.ref != earlier.champion_evaluation.ref:
        first, _ = _measured_earlier(
            evaluation, questions, under, earlier.first, earlier.first_evaluation
        )
    state = campaign.state
    rounds = {
        record.receipts["evaluate"]: record.round
        for record in state.history
        if not record.weak
    }
    first_round = rounds.get(earlier.first_evaluation.ref, BEFORE_ROUNDS)
    earlier_models = {first_round: first, **_other_champions(evaluation, under)}
    if first is not champion and state.champion_round is not None:
        earlier_models[state.champion_round] = champion
    collapse = worst_signs(
        earlier_models,
        candidate,
        campaign.recipe.evaluate.diversity_rows,
        questions.labelled,
    )
    blocks, warnings = alarms(collapse)
    for alarm in blocks:
        context.progress.note(f"collapse block: {alarm.why}")
    for alarm in warnings:
        context.progress.note(f"collapse warning: {alarm.why}")
    champion_measurement = Measurement(
        candidate=measurement.candidate,
        champion=measurement_key(earlier.champion, under),
        champion_reused=reused,
    )
    return summary.model_copy(
        update={
            "measurement": champion_measurement,
            "champion": _headline(campaign, champion),
            "collapse": collapse,
            "blocks": tuple(blocks),
            "warnings": tuple(warnings),
        }
    )


def _other_champions(
    evaluation: Evaluation, under: dict[str, JsonValue]
) -> dict[int, Measured]:
    """Return round → rows of the champions up to the present one.

    Those that were measured under other conditions are left out: what the campaign measured of
    them cannot be compared, and to measure all of them anew would cost more each round.
    """
    context = evaluation.context
    champions = {}
    for record in evaluation.campaign.state.history:
        if record.verdict != "promoted":
            continue
        receipt = read_receipt(context, record.receipts["evaluate"])
        train = read_receipt(context, record.receipts["train"])
        measurement = read_summary(receipt, EvaluateSummary).measurement
        if measurement.candidate == measurement_key(train, under):
            champions[record.round] = _stored(context, receipt)
    return champions


def _measured_earlier(
    evaluation: Evaluation,
    questions: Questions,
    under: dict[str, JsonValue],
    train: Receipt,
    receipt: Receipt,
) -> tuple[Measured, bool]:
    """Return (rows of an earlier model, True if its own receipt gave them).

    Args:
        evaluation: The evaluation that needs them.
        questions: Prompts, texts and classes.
        under: Conditions of this evaluation.
        train: Receipt with its `model/`.
        receipt: The model's own evaluation, when it was the candidate.
    """
    context = evaluation.context
    measurement = read_summary(receipt, EvaluateSummary).measurement
    # Equal keys are the same work, which is not done twice.
    if measurement.candidate == measurement_key(train, under):
        return _stored(context, receipt), True
    context.progress.note(
        f"{receipt.ref} is of other code, settings or libraries: its model is measured anew"
    )
    # lm-eval's tasks decide nothing, so only the candidate is asked.
    measured, _ = measure(context, evaluation.campaign, train, questions, harness=False)
    return measured, False


def _stored(context: Context, receipt: Receipt) -> Measured:
    return Measured(
        results=_rows(context, receipt, RESULTS, Result),
        texts=_rows(context, receipt, RETENTION, TextResult),
        samples=_rows(context, receipt, DRAWN, Sample),
    )


def _rows(
    context: Context, receipt: Receipt, name: str, row_type: type[Row]
) -> list[Row]:
    """Return the rows of a receipt's file; none if it has no such file."""
    if name not in receipt.objects:
        return []
    return list(read_rows(fetch(context, receipt, name), row_type))


def _write(folder: Path, measured: Measured) -> None:
    files: dict[str, Sequence[BaseModel]] = {
        RESULTS: measured.results,
        RETENTION: measured.texts,
    }
    # Without pass@k there are none, and the receipt names no such file.
    if measured.samples:
        files[DRAWN] = measured.samples
    for name, rows in files.items():
        write_rows(folder / name, rows)


def _summary(
    evaluation: Evaluation,
    measured: Measured,
    account: Account,
    measurement: Measurement,
) -> EvaluateSummary:
    """Return the candidate's own numbers."""
    # What decide and the report read; the rows themselves stay in the files.
    section = evaluation.campaign.recipe.evaluate
    scores = scores_of(measured.results, section.pass_k)
    texts = text_scores(measured.texts)
    headline = _headline(evaluation.campaign, measured)
    return EvaluateSummary(
        round=evaluation.round_number,
        slices=scores.slices,
        test_slices=scores.test_slices,
        dev_slices=scores.dev_slices,
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
        measurement=measurement,
        **dict(headline),
    )


def _headline(campaign: Campaign, measured: Measured) -> ModelScores:
    """Return a model's numbers that a person compares."""
    scores = scores_of(measured.results, campaign.recipe.evaluate.pass_k)
    headline = model_scores(measured.results, scores, text_scores(measured.texts))
    metric = campaign.recipe.decide.goal.metric
    by_split = {}
    for split in ANSWER_SPLITS:
        rows = [row for row in measured.results if row.split == split]
        if rows:
            by_split[split] = Scores.of(rows, metric).estimates
    return headline.model_copy(update={"metric": metric, "measured": by_split})
