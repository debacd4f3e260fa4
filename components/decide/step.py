"""Decide a round: promote or reject the candidate, reflect, plan the next round, or stop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.canonical import canonical_json
from components.contracts import artifacts
from components.contracts.recipe import DecideSection, Recipe
from components.contracts.rows import Result, TextResult, read_rows
from components.contracts.state import Plan, RoundRecord, State, StopReason, Verdict, base_plan
from components.contracts.summaries import (
    DecideSummary,
    EvaluateSummary,
    LogEntry,
    SelectSummary,
    TrainSummary,
)
from components.contracts.summaries.evaluate import ModelScores
from components.decide.card import round_card
from components.decide.gate import Comparison, Ruling, Scores, compare, decide
from components.decide.guards import Alarm, alarms_of, self_agreement
from components.decide.reflection.data_causes import passed
from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.measures import (
    answer_measures,
    human_loss_measures,
    loss_measures,
    mix_measures,
    mix_rows,
    references_of,
    validation_prompts,
    verifier_measures,
)
from components.decide.reflection.plan import next_level, next_plan, refuted_changes, review
from components.errors import Corrupt
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Attempt,
    Receipt,
    commit_once,
    fetch,
    read_receipt,
    read_summary,
)
from components.storage import keys

MAX_BLOCKED = 2
"""Rounds in a row that alarms rejected, after which the campaign ends: the first may be mended, the
second was not."""


@dataclass(frozen=True)
class DecideInputs:
    """What a round left behind."""

    state: str
    """URI of the state the round began from."""
    mix: Receipt
    """What was trained on: receipt of select, or the first mix of prepare."""
    train: Receipt
    evaluate: Receipt


@dataclass(frozen=True)
class Summaries:
    """What the steps of a round say of it."""

    mix: SelectSummary
    train: TrainSummary
    evaluate: EvaluateSummary

    @classmethod
    def of(cls, inputs: DecideInputs) -> Summaries:
        """Read the receipts of a round."""
        return cls(
            mix=read_summary(inputs.mix, SelectSummary),
            train=read_summary(inputs.train, TrainSummary),
            evaluate=read_summary(inputs.evaluate, EvaluateSummary),
        )

    @property
    def finished_share(self) -> float:
        """Share of the samples that the model itself ended; of the evaluation's answers if the
        round drew no samples."""
        if self.mix.finished_share is not None:
            return self.mix.finished_share
        return self.evaluate.finished_share


@dataclass(frozen=True)
class Measured:
    """Validation results and scores of one model."""

    results: tuple[Result, ...]
    scores: Scores
    headline: ModelScores
    retention: dict[str, TextResult]
    """Rows of the retention split by id."""

    @classmethod
    def of(cls, context: Context, receipt: Receipt) -> Measured:
        """Read what an evaluate receipt says of its candidate."""
        return cls._read(context, receipt, read_summary(receipt, EvaluateSummary))

    @classmethod
    def of_champion(cls, context: Context, receipt: Receipt) -> Measured:
        """Read what an evaluate receipt says of the champion beside its candidate. Raises Corrupt if
        it measured none."""
        headline = read_summary(receipt, EvaluateSummary).champion
        if headline is None:
            raise Corrupt(f"{receipt.ref} measured no champion beside its candidate")
        return cls._read(context, receipt, headline, f"{artifacts.CHAMPION}/")

    @classmethod
    def _read(
        cls, context: Context, receipt: Receipt, headline: ModelScores, prefix: str = ""
    ) -> Measured:
        rows = read_rows(fetch(context, receipt, f"{prefix}{artifacts.RESULTS}"), Result)
        results = tuple(row for row in rows if row.split == "validation")
        texts: dict[str, TextResult] = {}
        if f"{prefix}{artifacts.RETENTION}" in receipt.objects:
            own = read_rows(fetch(context, receipt, f"{prefix}{artifacts.RETENTION}"), TextResult)
            texts = {row.id: row for row in own if row.split == "retention"}
        return cls(results, Scores.of(results), headline, texts)

    def retained(self, champion: Measured) -> list[tuple[TextResult, TextResult]]:
        """(champion, candidate) of every retention row. Raises Corrupt if one lacks its partner."""
        if champion.retention.keys() != self.retention.keys():
            counts = f"{len(champion.retention)} and {len(self.retention)} rows"
            raise Corrupt(
                f"champion and candidate were measured on different retention texts ({counts})"
            )
        return [(champion.retention[name], row) for name, row in sorted(self.retention.items())]


@dataclass(frozen=True)
class Compared:
    """What a candidate is held against once there is a champion."""

    champion: Receipt
    """Of evaluate: the champion, when it was the candidate."""
    first: Receipt
    """Of evaluate: round 0."""

    @property
    def inputs(self) -> dict[str, Receipt]:
        """As inputs of a receipt."""
        return {"champion_evaluation": self.champion, "first_evaluation": self.first}


def goes_on(decided: Receipt) -> bool:
    """Return True if the campaign has another round after this decision."""
    return read_summary(decided, DecideSummary).go


def run(inputs: DecideInputs, context: Context) -> Receipt:
    """Write `state.json`, what the next round begins from, and `card.md`.

    Raises Corrupt if the receipts belong to other rounds or to each other not at all, or if
    champion and candidate were measured on different prompts; UserError if the goal's slice has no
    validation prompts.
    """
    campaign = load_campaign(context, inputs.state)
    round_summaries = Summaries.of(inputs)
    _check(campaign, inputs, round_summaries)
    compared = _compared(context, campaign.state)
    return commit_once(
        context,
        campaign.task("decide"),
        "decide",
        config=campaign.config(section=campaign.recipe.decide, round=campaign.next_round),
        inputs={
            "state": campaign.state_receipt,
            "prepare": campaign.prepared,
            "select": inputs.mix,
            "train": inputs.train,
            "evaluate": inputs.evaluate,
            **(compared.inputs if compared is not None else {}),
        },
        seed=campaign.recipe.seed,
        work=lambda folder: _decide(context, campaign, inputs, round_summaries, compared, folder),
    )


def _check(campaign: Campaign, inputs: DecideInputs, summaries: Summaries) -> None:
    number = campaign.next_round
    for receipt, round_number in (
        (inputs.mix, summaries.mix.round),
        (inputs.train, summaries.train.round),
        (inputs.evaluate, summaries.evaluate.round),
    ):
        if round_number != number:
            raise Corrupt(
                f"{receipt.ref} is of round {round_number}; needed: {receipt.step} of round {number}"
            )
    if inputs.train.digest not in inputs.evaluate.inputs.values():
        raise Corrupt(f"{inputs.evaluate.ref} measured another model than {inputs.train.ref}")


def _compared(context: Context, state: State) -> Compared | None:
    """The evaluations to compare with; None before there is a champion."""
    if state.champion_evaluation is None or state.first_evaluation is None:
        return None
    return Compared(
        champion=read_receipt(context, state.champion_evaluation),
        first=read_receipt(context, state.first_evaluation),
    )


def _decide(
    context: Context,
    campaign: Campaign,
    inputs: DecideInputs,
    summaries: Summaries,
    compared: Compared | None,
    folder: Path,
) -> DecideSummary:
    recipe, before = campaign.recipe, campaign.state
    candidate = Measured.of(context, inputs.evaluate)
    champion = None
    comparison = None
    alarms: tuple[Alarm, ...] = ()
    log = list(read_rows(fetch(context, inputs.train, artifacts.LOG), LogEntry))
    if compared is not None:
        champion = champion_of(context, inputs.evaluate, compared.champion)
        in_a_row = promotions_in_a_row(before.history)
        comparison = compare(champion.results, candidate.results, recipe.decide, in_a_row)
        first = read_summary(compared.first, EvaluateSummary)
        alarms = alarms_against(
            candidate, champion, first, summaries.evaluate, summaries.mix, recipe.decide
        )
    measures = _measures(context, campaign, inputs, summaries, log, candidate, champion)
    alarms = (*alarms, *self_agreement(before.history, measures, before.plan.level))
    verdict, ruling = _ruling(comparison, candidate, alarms)
    best = candidate if champion is None or verdict == "promoted" else champion
    evidence = Evidence(
        recipe=recipe,
        round=campaign.next_round,
        verdict=verdict,
        plan=before.plan,
        train=summaries.train,
        losses=[entry.loss for entry in log],
        finished_share=summaries.finished_share,
        candidate=candidate.scores,
        select=summaries.mix,
        comparison=comparison,
        measures=measures,
    )
    plan, record = _reflect(campaign, evidence, ruling, candidate, best.scores)
    record = record.model_copy(update=_account(inputs, summaries, alarms))
    state = _next_state(campaign, inputs, summaries, record, plan)
    reached = best.scores.accuracy(recipe.decide.goal.slice)
    stop = stop_reason(recipe.decide, state, reached, lambda: minutes_spent(context, before.run_id))
    state = state.model_copy(update={"go": stop is None, "stop": stop})
    card = round_card(
        record,
        state,
        recipe.decide.goal,
        candidate=candidate.scores,
        champion=champion.scores if champion else None,
        comparison=comparison,
        alarms=alarms,
    )
    (folder / artifacts.STATE).write_bytes(canonical_json(state.model_dump(mode="json")))
    (folder / artifacts.CARD).write_text(card, encoding="utf-8")
    context.progress.note(f"round {record.round} {verdict}: {ruling.why}")
    return _summary(record, state, alarms)


def _summary(record: RoundRecord, state: State, alarms: Sequence[Alarm]) -> DecideSummary:
    assert state.champion is not None, "the first candidate becomes champion"
    return DecideSummary(
        round=record.round,
        verdict=record.verdict,
        why=record.why,
        go=state.go,
        stop=state.stop,
        accuracy=record.accuracy,
        p_value=record.p_value,
        champion=state.champion,
        alarms=tuple(alarm.measure for alarm in alarms),
        causes=tuple(cause.name for cause in record.causes),
    )


def promotions_in_a_row(history: Sequence[RoundRecord]) -> int:
    """How many of the last rounds promoted, without one between them that did not."""
    return len(
        list(itertools.takewhile(lambda record: record.verdict == "promoted", reversed(history)))
    )


def champion_of(context: Context, evaluation: Receipt, champion_evaluation: Receipt) -> Measured:
    """What is known of the champion: measured beside the candidate, or (in receipts from before
    that was done) when it was the candidate itself."""
    if f"{artifacts.CHAMPION}/{artifacts.RESULTS}" in evaluation.objects:
        return Measured.of_champion(context, evaluation)
    return Measured.of(context, champion_evaluation)


def alarms_against(
    candidate: Measured,
    champion: Measured,
    first: ModelScores,
    evaluation: EvaluateSummary,
    selection: SelectSummary,
    section: DecideSection,
) -> tuple[Alarm, ...]:
    """All alarms about a candidate.

    Args:
        candidate: Its results.
        champion: The results of the model it would replace.
        first: Scores of round 0's model.
        evaluation: Summary of the candidate's evaluation.
        selection: Summary of the mix that it was trained on.
        section: The recipe's bounds.

    Raises:
        Corrupt: If candidate and champion were measured on different retention texts.
    """
    before, now = first.perplexity, candidate.headline.perplexity
    ratio = now / before if now is not None and before else None
    return alarms_of(evaluation, selection, ratio, candidate.retained(champion), section)


def _ruling(
    comparison: Comparison | None, candidate: Measured, alarms: tuple[Alarm, ...]
) -> tuple[Verdict, Ruling]:
    if comparison is None:
        right, number = candidate.scores.counts[""]
        return "first", Ruling(
            True, f"the first champion: {right} of {number} validation prompts right"
        )
    ruling = decide(comparison, alarms)
    return ("promoted" if ruling.promote else "rejected"), ruling


def _measures(
    context: Context,
    campaign: Campaign,
    inputs: DecideInputs,
    summaries: Summaries,
    log: Sequence[LogEntry],
    candidate: Measured,
    champion: Measured | None,
) -> dict[str, float]:
    """The round in numbers."""
    prompts = validation_prompts(context, campaign.prepared)
    before = champion.results if champion is not None else None
    train, mix = summaries.train, summaries.mix
    found = {
        **loss_measures(train, [entry.loss for entry in log], [entry.tokens for entry in log]),
        **human_loss_measures(
            candidate.headline, champion.headline if champion is not None else None
        ),
        **answer_measures(candidate.results, before, references_of(prompts.values())),
        **mix_measures(mix_rows(context, inputs.mix), prompts.values()),
        **_sample_measures(mix),
    }
    if mix.votes is not None and before is not None:
        found |= verifier_measures(mix.votes, before)
    num_rows = mix.labelled_rows + mix.self_rows
    if num_rows:
        found["epochs"] = train.steps * campaign.recipe.train.batch_size / num_rows
    return {name: round(float(value), 6) for name, value in sorted(found.items())}


def _sample_measures(mix: SelectSummary) -> dict[str, float]:
    """Of the samples of a round, as far as it drew any."""
    found: dict[str, float] = {}
    if mix.audit is not None:
        found["audit_accuracy"] = mix.audit.model_accuracy
        found["audit_prompts"] = mix.audit.prompts
    if mix.generated:
        found["accepted"] = mix.accepted
        found["passed"] = passed(mix)
    if mix.distinct_share is not None:
        found["distinct_share"] = mix.distinct_share
    if mix.hinted is not None and mix.too_hard is not None:
        found["hinted"] = mix.hinted.generated
        found["hinted_accepted"] = mix.hinted.accepted
        found["too_hard"] = mix.too_hard.waiting
    return found


def _reflect(
    campaign: Campaign, evidence: Evidence, ruling: Ruling, candidate: Measured, best: Scores
) -> tuple[Plan, RoundRecord]:
    """The plan of the next round and this round's record, without what the receipts account for."""
    recipe, used, number = campaign.written, campaign.state.plan, campaign.next_round
    scores, slice_name = candidate.scores, recipe.decide.goal.slice
    history = campaign.state.history
    current = _improvement_plan(used, evidence.verdict, recipe)
    before = current
    if history:
        before = _improvement_plan(history[-1].plan, history[-1].verdict, recipe)
    reviewed = review(
        history[-1] if history else None,
        before,
        current,
        evidence.verdict,
        scores.accuracy(),
        evidence.measures,
        scores.interval(),
    )
    plan, causes = next_plan(
        recipe, current, diagnose(evidence), reviewed, before, refuted_changes(history)
    )
    plan = plan.model_copy(update={"level": next_level(recipe, used.level, best)})
    return plan, RoundRecord(
        round=number,
        verdict=evidence.verdict,
        why=ruling.why,
        level=used.level,
        plan=used,
        accuracy=scores.accuracy(slice_name),
        interval=scores.interval(slice_name),
        overall=scores.accuracy(),
        test_accuracy=candidate.headline.test_accuracy,
        slices=scores.slices,
        pass_at_k=candidate.headline.pass_at_k,
        perplexity=candidate.headline.perplexity,
        p_value=evidence.comparison.p_value if evidence.comparison else None,
        causes=causes,
        measures=dict(evidence.measures),
    )


def _improvement_plan(plan: Plan, verdict: Verdict, recipe: Recipe) -> Plan:
    """The settings of a round as an improvement round has them. The first training has those of a
    stage of its own; later rounds begin from the recipe's, and from what no stage has of its own."""
    if verdict != "first":
        return plan
    own = {
        name: getattr(plan, name) for name in ("min_vote_share", "max_new_tokens", "neftune_alpha")
    }
    return base_plan(recipe).model_copy(update=own)


def _account(inputs: DecideInputs, summaries: Summaries, alarms: Sequence[Alarm]) -> dict[str, Any]:
    """The fields of a round's record that come from the receipts of its steps, and its alarms."""
    mix = summaries.mix
    shards = {f"generate-{number}": ref for number, ref in enumerate(mix.shards)}
    return {
        "generated": mix.generated,
        "accepted": mix.accepted,
        "dropped": mix.dropped,
        "tokens_generated": mix.tokens_sampled,
        "tokens_trained": summaries.train.tokens_trained,
        "alarms": tuple(alarm.why for alarm in alarms),
        "blocked": any(alarm.blocks for alarm in alarms),
        "receipts": {
            **shards,
            "select": inputs.mix.ref,
            "train": inputs.train.ref,
            "evaluate": inputs.evaluate.ref,
        },
    }


def _next_state(
    campaign: Campaign,
    inputs: DecideInputs,
    summaries: Summaries,
    record: RoundRecord,
    plan: Plan,
) -> State:
    before = campaign.state
    changes: dict[str, Any] = {
        "start": campaign.start.ref,
        "round": record.round,
        "plan": plan,
        "history": (*before.history, record),
        "rounds_without_gain": before.rounds_without_gain + 1,
    }
    # Rows of a mix that teaches errors do not accumulate; a mix without samples has none.
    if summaries.mix.generated and not summaries.mix.teaches_errors:
        changes["selections"] = (*before.selections, inputs.mix.ref)
    if record.verdict != "rejected":
        changes |= {
            "champion": inputs.train.ref,
            "champion_round": record.round,
            "champion_evaluation": inputs.evaluate.ref,
            "rounds_without_gain": 0,
        }
    if record.verdict == "first":
        changes["first_evaluation"] = inputs.evaluate.ref
    return before.model_copy(update=changes)


def stop_reason(
    section: DecideSection, state: State, reached: float, minutes: Callable[[], float]
) -> StopReason | None:
    """Why the campaign ends after this round, None if it goes on. The first that applies, in this
    order."""
    if reached >= section.goal.threshold:
        return "target"
    tokens = sum(one.tokens_generated + one.tokens_trained for one in state.history)
    if section.budget.tokens is not None and tokens >= section.budget.tokens:
        return "budget"
    if section.budget.minutes is not None and minutes() >= section.budget.minutes:
        return "budget"
    if state.next_round > section.max_rounds:
        return "max_rounds"
    if len(state.history) > 1 and all(one.blocked for one in state.history[-MAX_BLOCKED:]):
        return "alarm"
    if state.rounds_without_gain >= section.patience:
        return "patience"
    return None


def minutes_spent(context: Context, run_id: str) -> float:
    """Minutes of all attempts of a run, failed ones too. Attempts are records for people: one that
    cannot be read is noted and costs nothing."""
    seconds = [
        attempt.seconds
        for key in context.store.list(keys.attempts_prefix(run_id))
        if (attempt := _attempt(context, key)) is not None
    ]
    return sum(seconds) / 60.0


def _attempt(context: Context, key: str) -> Attempt | None:
    try:
        return Attempt.model_validate_json(context.store.get_bytes(key))
    except (ValidationError, Corrupt):
        context.progress.note(f"{key} is not an attempt record; its time is not counted")
        return None
