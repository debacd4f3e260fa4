"""Decide a round: promote or reject the candidate, reflect, plan the next round, or stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.canonical import canonical_json
from components.contracts import artifacts
from components.contracts.rows import read_rows
from components.contracts.state import STOP_SENTENCES, Cause, Plan, RoundRecord, State
from components.contracts.summaries import DecideSummary, LogEntry
from components.decide import alpha_account
from components.decide.card import round_card
from components.decide.finished_round import (
    EarlierEvaluations,
    FinishedRound,
    Outcome,
    Summaries,
)
from components.decide.gate import compare, decide, rounds_without_cost
from components.decide.guards import Alarm, self_agreement
from components.decide.measured import (
    Measured,
    Texts,
    alarms_against,
    champion_of,
    texts_of,
)
from components.decide.reflection.reflect import reflect
from components.decide.reflection.round_measures import round_measures
from components.decide.round_metrics import round_gauges
from components.decide.stopping import minutes_spent, stop_reason
from components.decide.weak_round import outcome_of_weak
from components.errors import Corrupt, UserError
from components.measures import measure_of
from components.prometheus import Gauge, export_metrics
from components.runtime.attempts import attempting
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit,
    fetch,
    read_receipt,
    read_summary,
)
from components.runtime.webhook import notify


@dataclass(frozen=True)
class DecideInputs:
    """Receipts of a finished round, and the state that it began from.

    A weak round has no candidate: `train` and `evaluate` are the champion's.
    """

    state: str
    """URI of the state the round began from."""
    mix: Receipt
    """Receipt of the mix that was trained on: of select, or prepare's first mix."""
    train: Receipt
    evaluate: Receipt


def goes_on(decided: Receipt) -> bool:
    """Return True if the campaign has another round after this decision."""
    return read_summary(decided, DecideSummary).go


def run(inputs: DecideInputs, context: Context) -> Receipt:
    """Write `state.json`, from which the next round begins, and `card.md`.

    Raises:
        Corrupt: The receipts are of different rounds, or champion and candidate were measured on
            different prompts.
        UserError: The base model is not measured, or the goal's slice has no validation prompts.
    """
    campaign = load_campaign(context, inputs.state)
    summaries = Summaries.of(inputs.mix, inputs.train, inputs.evaluate)
    _check_rounds(campaign, inputs, summaries)
    earlier = _earlier_evaluations(context, campaign)
    receipts = {
        "state": campaign.state_receipt,
        "prepare": campaign.prepared,
        "select": inputs.mix,
        "train": inputs.train,
        "evaluate": inputs.evaluate,
        "champion_evaluation": earlier.champion,
        "first_evaluation": earlier.first,
    }
    finished = FinishedRound(
        context=context,
        campaign=campaign,
        mix=inputs.mix,
        train=inputs.train,
        evaluate=inputs.evaluate,
        summaries=summaries,
        earlier=earlier,
    )
    with attempting(context, campaign.task("decide"), "decide") as attempt:
        receipt = commit(
            context,
            attempt,
            "decide",
            config=campaign.config(
                section=campaign.recipe.decide, round=campaign.next_round
            ),
            inputs=receipts,
            seed=campaign.recipe.seed,
            work=lambda folder: _decide(finished, folder),
        )
    if not attempt.reused:
        notify(context, campaign.recipe, "verdict", _news(campaign, receipt))
    _export_metrics(context, campaign, receipt)
    return receipt


def _export_metrics(context: Context, campaign: Campaign, decided: Receipt) -> None:
    """Export the figures of the decided round, where the environment asks for them."""

    def measured() -> list[Gauge]:
        path = fetch(context, decided, artifacts.STATE)
        return round_gauges(State.model_validate_json(path.read_bytes()))

    export_metrics(
        context, campaign.written.name, campaign.state.run_id, "decide", measured
    )


def _news(campaign: Campaign, decided: Receipt) -> str:
    """Return the verdict in a sentence, for those who are told of it."""
    summary = read_summary(decided, DecideSummary)
    score = measure_of(summary.metric).text(summary.score)
    model = "the champion has" if summary.weak else "the candidate has"
    ending = (
        f" The campaign ends: {STOP_SENTENCES[summary.stop]}." if summary.stop else ""
    )
    return (
        f"{campaign.state.run_id}, round {summary.round}: {summary.verdict}; {model} {summary.metric} "
        f"{score} on validation. {summary.why}.{ending}"
    )


def _check_rounds(
    campaign: Campaign, inputs: DecideInputs, summaries: Summaries
) -> None:
    """Raise Corrupt unless all receipts are of this round, and the evaluation of its model."""
    expected = campaign.next_round
    rounds = [(inputs.mix, summaries.mix.round)]
    if summaries.train is None:
        champion = (campaign.state.champion, campaign.state.champion_evaluation)
        if (inputs.train.ref, inputs.evaluate.ref) != champion:
            raise Corrupt(
                f"{inputs.mix.ref} is of a weak round, which trains nothing; needed: the champion "
                f"and its evaluation, and not {inputs.train.ref} and {inputs.evaluate.ref}"
            )
    else:
        rounds.append((inputs.train, summaries.train.round))
        rounds.append((inputs.evaluate, summaries.evaluate.round))
    for receipt, round_number in rounds:
        if round_number != expected:
            raise Corrupt(
                f"{receipt.ref} is of round {round_number}; "
                f"needed: {receipt.step} of round {expected}"
            )
    # A retried step has a receipt of the same round: only its digest tells the models apart.
    if (
        summaries.train is not None
        and inputs.train.digest not in inputs.evaluate.inputs.values()
    ):
        raise Corrupt(
            f"{inputs.evaluate.ref} measured another model than {inputs.train.ref}"
        )


def _earlier_evaluations(context: Context, campaign: Campaign) -> EarlierEvaluations:
    state = campaign.state
    if state.champion_evaluation is None or state.first_evaluation is None:
        raise UserError(
            f"{campaign.state_receipt.ref}: the base model is not measured, so there is no champion "
            "to compare with; run evaluate on it, then first-champion"
        )
    return EarlierEvaluations(
        champion=read_receipt(context, state.champion_evaluation),
        first=read_receipt(context, state.first_evaluation),
    )


def _decide(finished: FinishedRound, folder: Path) -> DecideSummary:
    """Decide the round and write its files into the folder."""
    context = finished.context
    goal = finished.campaign.recipe.decide.goal
    losses: list[float | None] = []
    if finished.is_weak:
        outcome = outcome_of_weak(finished)
    else:
        log = list(read_rows(fetch(context, finished.train, artifacts.LOG), LogEntry))
        losses = [entry.loss for entry in log]
        outcome = _outcome(finished, log)
    plan, causes = reflect(finished, outcome, losses)
    record = _record(finished, outcome, causes)
    state = _next_state(finished, outcome, record, plan)
    card = round_card(
        record,
        state,
        goal,
        candidate=outcome.candidate.scores,
        champion=outcome.champion.scores,
        comparison=outcome.comparison,
        alarms=outcome.alarms,
    )
    (folder / artifacts.STATE).write_bytes(
        canonical_json(state.model_dump(mode="json"))
    )
    (folder / artifacts.CARD).write_text(card, encoding="utf-8")
    context.progress.note(
        f"round {record.round} {outcome.verdict}: {outcome.ruling.reason}"
    )
    return _summary(record, state, outcome.alarms)


def _outcome(finished: FinishedRound, log: Sequence[LogEntry]) -> Outcome:
    """Measure the round and ask the gate."""
    context = finished.context
    campaign = finished.campaign
    summaries = finished.summaries
    section = campaign.recipe.decide
    history = campaign.state.history
    assert summaries.train is not None, "a weak round has no candidate"
    candidate = Measured.of(context, finished.evaluate)
    account = alpha_account.opened(campaign.state.alpha_account, section)
    # The champion, not the last candidate: what was rejected is no model to be better than.
    champion = champion_of(context, finished.evaluate, finished.earlier.champion)
    level = alpha_account.level_of_round(
        account, campaign.next_round, section.max_rounds, rounds_without_cost(history)
    )
    comparison = compare(champion.results, candidate.results, section, level)
    # Against the champion alone collapse could creep, a little every round.
    alarms = alarms_against(
        candidate,
        champion,
        Measured.of(context, finished.earlier.first),
        summaries.evaluate,
        summaries.mix,
        section,
        _texts_of_champions(context, campaign.state),
    )
    measures = round_measures(
        context, campaign, finished.mix, summaries.train, log, candidate, champion
    )
    # A warning about the model that sampled, which is the champion and not this candidate.
    alarms += self_agreement(history, measures, campaign.state.plan.level)
    ruling = decide(comparison, alarms)
    account = alpha_account.charged(account, comparison, promoted=ruling.promote)
    return Outcome(
        verdict="promoted" if ruling.promote else "rejected",
        ruling=ruling,
        candidate=candidate,
        champion=champion,
        comparison=comparison,
        alarms=alarms,
        measures=measures,
        alpha_account=account,
    )


def _texts_of_champions(context: Context, state: State) -> list[Texts]:
    """Return the human texts as each champion so far, the base too, was measured on them."""
    evaluations = [
        record.receipts["evaluate"]
        for record in state.history
        if record.verdict == "promoted"
    ]
    assert state.base_evaluation is not None, "a champion was evaluated"
    refs = [state.base_evaluation, *evaluations]
    return [texts_of(context, read_receipt(context, ref)) for ref in refs]


def _record(
    finished: FinishedRound, outcome: Outcome, causes: tuple[Cause, ...]
) -> RoundRecord:
    """Return the round's line in the history."""
    campaign = finished.campaign
    mix = finished.summaries.mix
    goal_slice = campaign.recipe.decide.goal.slice
    # Refs, not receipts: every later state carries this record, and should stay small.
    receipts = {f"generate-{shard}": ref for shard, ref in enumerate(mix.shards)}
    receipts["select"] = finished.mix.ref
    tokens_trained = 0
    if finished.summaries.train is not None:
        receipts |= {"train": finished.train.ref, "evaluate": finished.evaluate.ref}
        tokens_trained = finished.summaries.train.tokens_trained
    comparison = outcome.comparison
    return RoundRecord(
        round=campaign.next_round,
        verdict=outcome.verdict,
        why=outcome.ruling.reason,
        level=campaign.state.plan.level,
        plan=campaign.state.plan,
        p_value=comparison.p_value if comparison is not None else None,
        generated=mix.generated,
        accepted=mix.accepted,
        dropped=mix.dropped,
        tokens_generated=mix.tokens_sampled,
        tokens_trained=tokens_trained,
        causes=causes,
        alarms=tuple(alarm.reason for alarm in outcome.alarms),
        blocked=any(alarm.blocks for alarm in outcome.alarms),
        weak=finished.is_weak,
        measures=outcome.measures,
        receipts=receipts,
        **dict(outcome.candidate.record(goal_slice)),
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
    mix = finished.summaries.mix
    previous_state = campaign.state
    changes: dict[str, object] = {
        "start": campaign.start.ref,
        "round": record.round,
        "plan": plan,
        "alpha_account": outcome.alpha_account,
        "history": (*previous_state.history, record),
        "rounds_without_gain": previous_state.rounds_without_gain + 1,
    }
    # Samples accumulate even if the candidate is rejected: they were verified, the training was not
    # good enough. Rows of a mix that teaches errors do not; a mix without samples has none.
    if mix.generated and not mix.teaches_errors:
        changes["selections"] = (*previous_state.selections, finished.mix.ref)
    if record.verdict == "promoted":
        changes["champion"] = finished.train.ref
        changes["champion_round"] = record.round
        changes["champion_evaluation"] = finished.evaluate.ref
        changes["rounds_without_gain"] = 0
        # The first that was proved better than the base has the style that training teaches.
        if previous_state.champion_round is None:
            changes["first_evaluation"] = finished.evaluate.ref
    state = previous_state.model_copy(update=changes)
    section = campaign.recipe.decide
    # Only a champion reaches the goal: a rejected candidate may have been lucky.
    reached = outcome.best.scores.value(section.goal.slice)
    stop = stop_reason(
        section,
        state,
        reached,
        lambda: minutes_spent(finished.context, state.run_id, state.history[-1].round),
    )
    return state.model_copy(update={"go": stop is None, "stop": stop})


def _summary(
    record: RoundRecord, state: State, alarms: Sequence[Alarm]
) -> DecideSummary:
    assert state.champion is not None, "the base is the first champion"
    return DecideSummary(
        round=record.round,
        verdict=record.verdict,
        why=record.why,
        go=state.go,
        stop=state.stop,
        weak=record.weak,
        metric=record.metric,
        score=record.score,
        p_value=record.p_value,
        champion=state.champion,
        alarms=tuple(alarm.measure for alarm in alarms),
        causes=tuple(cause.name for cause in record.causes),
    )
