"""Decide a round: promote or reject the candidate, reflect, plan the next round, or stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.canonical import canonical_json
from components.contracts import artifacts
from components.contracts.recipe import Recipe
from components.contracts.rows import read_rows
from components.contracts.state import Cause, Plan, RoundRecord, State, Verdict, base_plan
from components.contracts.summaries import (
    DecideSummary,
    EvaluateSummary,
    LogEntry,
    SelectSummary,
    TrainSummary,
)
from components.decide.card import round_card
from components.decide.gate import Comparison, Ruling, compare, decide, promotions_in_a_row
from components.decide.guards import Alarm, self_agreement
from components.decide.measured import Measured, alarms_against, champion_of
from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.plan import next_level, next_plan, refuted_changes, review
from components.decide.reflection.round_measures import round_measures
from components.decide.stopping import minutes_spent, stop_reason
from components.errors import Corrupt
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch, read_receipt, read_summary

# No stage has these of its own, so a change after round 0 is a change for all rounds.
SHARED_BY_STAGES = ("min_vote_share", "max_new_tokens", "neftune_alpha")
"""Settings of the first training's plan that improvement rounds take over."""


@dataclass(frozen=True)
class DecideInputs:
    """Receipts of a finished round, and the state that it began from."""

    state: str
    """URI of the state the round began from."""
    mix: Receipt
    """Receipt of the mix that was trained on: of select, or prepare's first mix."""
    train: Receipt
    evaluate: Receipt


@dataclass(frozen=True)
class Summaries:
    """The summaries of a round's receipts."""

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
class EarlierEvaluations:
    """Receipts of evaluate that a candidate is compared with once there is a champion."""

    champion: Receipt
    """The champion's own, when it was the candidate."""
    first: Receipt
    """That of round 0, the base of collapse measures."""


@dataclass(frozen=True)
class FinishedRound:
    """A round that is to be decided, and where it belongs."""

    context: Context
    campaign: Campaign
    inputs: DecideInputs
    summaries: Summaries
    earlier: EarlierEvaluations | None
    """None before there is a champion."""


@dataclass(frozen=True)
class Outcome:
    """The verdict on a candidate, and what it rests on."""

    verdict: Verdict
    ruling: Ruling
    candidate: Measured
    champion: Measured | None
    """None before there is one, like the comparison."""
    comparison: Comparison | None
    alarms: tuple[Alarm, ...]
    measures: dict[str, float]

    @property
    def best(self) -> Measured:
        """The champion after this round."""
        if self.champion is None or self.verdict == "promoted":
            return self.candidate
        return self.champion


def goes_on(decided: Receipt) -> bool:
    """Return True if the campaign has another round after this decision."""
    return read_summary(decided, DecideSummary).go


def run(inputs: DecideInputs, context: Context) -> Receipt:
    """Write `state.json`, from which the next round begins, and `card.md`.

    Raises:
        Corrupt: The receipts are of different rounds, or champion and candidate were measured on
            different prompts.
        UserError: The goal's slice has no validation prompts.
    """
    campaign = load_campaign(context, inputs.state)
    summaries = Summaries.of(inputs)
    _check_rounds(campaign, inputs, summaries)
    earlier = _earlier_evaluations(context, campaign.state)
    receipts = {
        "state": campaign.state_receipt,
        "prepare": campaign.prepared,
        "select": inputs.mix,
        "train": inputs.train,
        "evaluate": inputs.evaluate,
    }
    if earlier is not None:
        receipts["champion_evaluation"] = earlier.champion
        receipts["first_evaluation"] = earlier.first
    finished = FinishedRound(context, campaign, inputs, summaries, earlier)
    return commit_once(
        context,
        campaign.task("decide"),
        "decide",
        config=campaign.config(section=campaign.recipe.decide, round=campaign.next_round),
        inputs=receipts,
        seed=campaign.recipe.seed,
        work=lambda folder: _decide(finished, folder),
    )


def _check_rounds(campaign: Campaign, inputs: DecideInputs, summaries: Summaries) -> None:
    """Raise Corrupt unless all receipts are of this round, and the evaluation of its model."""
    expected = campaign.next_round
    rounds = (
        (inputs.mix, summaries.mix.round),
        (inputs.train, summaries.train.round),
        (inputs.evaluate, summaries.evaluate.round),
    )
    for receipt, round_number in rounds:
        if round_number != expected:
            raise Corrupt(
                f"{receipt.ref} is of round {round_number}; "
                f"needed: {receipt.step} of round {expected}"
            )
    if inputs.train.digest not in inputs.evaluate.inputs.values():
        raise Corrupt(f"{inputs.evaluate.ref} measured another model than {inputs.train.ref}")


def _earlier_evaluations(context: Context, state: State) -> EarlierEvaluations | None:
    if state.champion_evaluation is None or state.first_evaluation is None:
        return None
    return EarlierEvaluations(
        champion=read_receipt(context, state.champion_evaluation),
        first=read_receipt(context, state.first_evaluation),
    )


def _decide(finished: FinishedRound, folder: Path) -> DecideSummary:
    """Decide the round and write its files into the folder."""
    context = finished.context
    goal = finished.campaign.recipe.decide.goal
    log = list(read_rows(fetch(context, finished.inputs.train, artifacts.LOG), LogEntry))
    outcome = _outcome(finished, log)
    losses = [entry.loss for entry in log]
    plan, causes = _reflect(finished, outcome, losses)
    record = _record(finished, outcome, causes)
    state = _next_state(finished, outcome, record, plan)
    card = round_card(
        record,
        state,
        goal,
        candidate=outcome.candidate.scores,
        champion=outcome.champion.scores if outcome.champion else None,
        comparison=outcome.comparison,
        alarms=outcome.alarms,
    )
    (folder / artifacts.STATE).write_bytes(canonical_json(state.model_dump(mode="json")))
    (folder / artifacts.CARD).write_text(card, encoding="utf-8")
    context.progress.note(f"round {record.round} {outcome.verdict}: {outcome.ruling.reason}")
    return _summary(record, state, outcome.alarms)


def _outcome(finished: FinishedRound, log: Sequence[LogEntry]) -> Outcome:
    """Measure the round and ask the gate."""
    context = finished.context
    campaign = finished.campaign
    summaries = finished.summaries
    section = campaign.recipe.decide
    history = campaign.state.history
    candidate = Measured.of(context, finished.inputs.evaluate)
    champion = None
    comparison = None
    alarms: tuple[Alarm, ...] = ()
    if finished.earlier is not None:
        champion = champion_of(context, finished.inputs.evaluate, finished.earlier.champion)
        promotions = promotions_in_a_row(history)
        comparison = compare(champion.results, candidate.results, section, promotions)
        first = read_summary(finished.earlier.first, EvaluateSummary)
        alarms = alarms_against(
            candidate, champion, first, summaries.evaluate, summaries.mix, section
        )
    measures = round_measures(
        context, campaign, finished.inputs.mix, summaries.train, log, candidate, champion
    )
    alarms += self_agreement(history, measures, campaign.state.plan.level)
    verdict, ruling = _ruling(comparison, candidate, alarms)
    return Outcome(verdict, ruling, candidate, champion, comparison, alarms, measures)


def _ruling(
    comparison: Comparison | None, candidate: Measured, alarms: tuple[Alarm, ...]
) -> tuple[Verdict, Ruling]:
    if comparison is None:
        right, total = candidate.scores.counts[""]
        reason = f"the first champion: {right} of {total} validation prompts right"
        return "first", Ruling(True, reason)
    ruling = decide(comparison, alarms)
    return ("promoted" if ruling.promote else "rejected"), ruling


def _reflect(
    finished: FinishedRound, outcome: Outcome, losses: Sequence[float | None]
) -> tuple[Plan, tuple[Cause, ...]]:
    """Return (plan of the next round, causes of this round's result).

    Args:
        finished: The round.
        outcome: Its verdict and measures.
        losses: Training loss of each step, in nats per token.
    """
    campaign = finished.campaign
    used_plan = campaign.state.plan
    history = campaign.state.history
    scores = outcome.candidate.scores
    evidence = Evidence(
        recipe=campaign.recipe,
        round=campaign.next_round,
        verdict=outcome.verdict,
        plan=used_plan,
        train=finished.summaries.train,
        losses=losses,
        finished_share=finished.summaries.finished_share,
        candidate=scores,
        select=finished.summaries.mix,
        comparison=outcome.comparison,
        measures=outcome.measures,
    )
    # Bounds of changes are relative to what the person wrote, not to what plans have made of it.
    recipe = campaign.written
    current = _improvement_plan(used_plan, outcome.verdict, recipe)
    previous_record = history[-1] if history else None
    previous_plan = current
    if previous_record is not None:
        previous_plan = _improvement_plan(previous_record.plan, previous_record.verdict, recipe)
    reviewed = review(
        previous_record,
        previous_plan,
        current,
        outcome.verdict,
        scores.accuracy(),
        outcome.measures,
        scores.interval(),
    )
    refuted = refuted_changes(history)
    findings = diagnose(evidence)
    plan, causes = next_plan(recipe, current, findings, reviewed, previous_plan, refuted)
    level = next_level(recipe, used_plan.level, outcome.best.scores)
    return plan.model_copy(update={"level": level}), causes


def _improvement_plan(plan: Plan, verdict: Verdict, recipe: Recipe) -> Plan:
    """Return a round's settings as they would be in an improvement round."""
    if verdict != "first":
        return plan
    # The first training has the settings of a stage of its own; later rounds begin from the
    # recipe's.
    retained = {name: getattr(plan, name) for name in SHARED_BY_STAGES}
    return base_plan(recipe).model_copy(update=retained)


def _record(finished: FinishedRound, outcome: Outcome, causes: tuple[Cause, ...]) -> RoundRecord:
    """Return the round's line in the history."""
    campaign = finished.campaign
    inputs = finished.inputs
    mix = finished.summaries.mix
    goal_slice = campaign.recipe.decide.goal.slice
    scores = outcome.candidate.scores
    headline = outcome.candidate.headline
    receipts = {f"generate-{shard}": ref for shard, ref in enumerate(mix.shards)}
    receipts |= {
        "select": inputs.mix.ref,
        "train": inputs.train.ref,
        "evaluate": inputs.evaluate.ref,
    }
    return RoundRecord(
        round=campaign.next_round,
        verdict=outcome.verdict,
        why=outcome.ruling.reason,
        level=campaign.state.plan.level,
        plan=campaign.state.plan,
        accuracy=scores.accuracy(goal_slice),
        interval=scores.interval(goal_slice),
        overall=scores.accuracy(),
        test_accuracy=headline.test_accuracy,
        slices=scores.slices,
        pass_at_k=headline.pass_at_k,
        perplexity=headline.perplexity,
        p_value=outcome.comparison.p_value if outcome.comparison else None,
        generated=mix.generated,
        accepted=mix.accepted,
        dropped=mix.dropped,
        tokens_generated=mix.tokens_sampled,
        tokens_trained=finished.summaries.train.tokens_trained,
        causes=causes,
        alarms=tuple(alarm.reason for alarm in outcome.alarms),
        blocked=any(alarm.blocks for alarm in outcome.alarms),
        measures=outcome.measures,
        receipts=receipts,
    )


def _next_state(
    finished: FinishedRound, outcome: Outcome, record: RoundRecord, plan: Plan
) -> State:
    """Return the state after the round.

    Args:
        finished: The round.
        outcome: Its verdict.
        record: Its line in the history.
        plan: Plan of the next round.
    """
    campaign = finished.campaign
    inputs = finished.inputs
    mix = finished.summaries.mix
    before_round = campaign.state
    changes: dict[str, object] = {
        "start": campaign.start.ref,
        "round": record.round,
        "plan": plan,
        "history": (*before_round.history, record),
        "rounds_without_gain": before_round.rounds_without_gain + 1,
    }
    # Rows of a mix that teaches errors do not accumulate; a mix without samples has none.
    if mix.generated and not mix.teaches_errors:
        changes["selections"] = (*before_round.selections, inputs.mix.ref)
    if record.verdict != "rejected":
        changes["champion"] = inputs.train.ref
        changes["champion_round"] = record.round
        changes["champion_evaluation"] = inputs.evaluate.ref
        changes["rounds_without_gain"] = 0
    if record.verdict == "first":
        changes["first_evaluation"] = inputs.evaluate.ref
    state = before_round.model_copy(update=changes)
    section = campaign.recipe.decide
    reached = outcome.best.scores.accuracy(section.goal.slice)
    stop = stop_reason(
        section, state, reached, lambda: minutes_spent(finished.context, state.run_id)
    )
    return state.model_copy(update={"go": stop is None, "stop": stop})


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
