"""Decide a round: promote or reject the candidate, reflect, plan the next round, or stop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from components.canonical import canonical_json
from components.contracts.recipe import DecideSection, Recipe
from components.contracts.rows import Result, TextResult, read_rows
from components.contracts.state import Plan, RoundRecord, State, StopReason, Verdict, base_plan
from components.decide.card import round_card
from components.decide.gate import Comparison, Ruling, Scores, compare, decide
from components.decide.guards import Alarm, alarms_of, self_agreement
from components.decide.reflection.data_causes import passed
from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.measures import (
    RoundFiles,
    answer_measures,
    human_loss_measures,
    loss_measures,
    references_of,
    row_measures,
    validation_prompts,
)
from components.decide.reflection.plan import next_level, next_plan, refuted_changes, review
from components.errors import Corrupt
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Attempt, Receipt, commit_once, fetch, read_receipt
from components.storage import keys

MAX_BLOCKED = 2
"""Rounds in a row that alarms rejected, after which the campaign ends: the first may be mended, the
second was not."""


@dataclass(frozen=True)
class DecideInputs:
    """What a round left behind."""

    state: str
    """URI of the state the round began from."""
    train: Receipt
    evaluate: Receipt
    select: Receipt | None
    """None in round 0."""
    generates: tuple[Receipt, ...]
    """All shards; empty in round 0."""


class LogRow(BaseModel):
    """The part of a line of the training log that reflection reads."""

    loss: float | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Measured:
    """Validation results and scores of one model."""

    results: tuple[Result, ...]
    scores: Scores
    summary: dict[str, Any]
    retention: dict[str, TextResult]
    """Rows of the retention split by id."""

    @classmethod
    def of(cls, context: Context, receipt: Receipt, prefix: str = "") -> Measured:
        """Read an evaluate receipt; with the prefix `champion/`, what it measured of the champion."""
        rows = read_rows(fetch(context, receipt, f"{prefix}results.jsonl"), Result)
        results = tuple(row for row in rows if row.split == "validation")
        texts: dict[str, TextResult] = {}
        if f"{prefix}retention.jsonl" in receipt.objects:
            own = read_rows(fetch(context, receipt, f"{prefix}retention.jsonl"), TextResult)
            texts = {row.id: row for row in own if row.split == "retention"}
        summary = receipt.summary["champion"] if prefix else receipt.summary
        return cls(results, Scores.of(results), summary, texts)

    def retained(self, champion: Measured) -> list[tuple[TextResult, TextResult]]:
        """(champion, candidate) of every retention row. Raises Corrupt if one lacks its partner."""
        if champion.retention.keys() != self.retention.keys():
            counts = f"{len(champion.retention)} and {len(self.retention)} rows"
            raise Corrupt(
                f"champion and candidate were measured on different retention texts ({counts})"
            )
        return [(champion.retention[name], row) for name, row in sorted(self.retention.items())]


def inputs_from(
    context: Context, state: str, mix: Receipt, candidate: Receipt, results: Receipt
) -> DecideInputs:
    """The inputs of decide from the three artifacts of a round: what was trained on (the receipt of
    the start in round 0, else of select, which names its shards), the trained model and its
    results."""
    if mix.step == "start":
        return DecideInputs(state, candidate, results, None, ())
    shards = tuple(read_receipt(context, ref) for ref in mix.config.get("samples", ()))
    return DecideInputs(state, candidate, results, mix, shards)


def run(inputs: DecideInputs, context: Context) -> Receipt:
    """Write `state.json`, what the next round begins from, and `card.md`.

    Raises Corrupt if the receipts belong to other rounds or to each other not at all, or if
    champion and candidate were measured on different prompts; UserError if the goal's slice has no
    validation prompts.
    """
    campaign = load_campaign(context, inputs.state)
    _check(campaign, inputs)
    receipts = {
        **{f"generate-{number}": receipt for number, receipt in enumerate(inputs.generates)},
        **({"select": inputs.select} if inputs.select is not None else {}),
        "train": inputs.train,
        "evaluate": inputs.evaluate,
    }
    compared = {}
    if campaign.next_round > 0:
        compared["champion_evaluation"] = read_receipt(context, campaign.state.champion_evaluation)
        compared["first_evaluation"] = read_receipt(context, campaign.state.first_evaluation)
    return commit_once(
        context,
        campaign.task("decide"),
        "decide",
        config=campaign.config(section=campaign.recipe.decide, round=campaign.next_round),
        inputs={
            "state": campaign.state_receipt,
            "prepare": campaign.prepared,
            **receipts,
            **compared,
        },
        seed=campaign.recipe.seed,
        work=lambda folder: _decide(context, campaign, inputs, receipts, compared, folder),
    )


def _check(campaign: Campaign, inputs: DecideInputs) -> None:
    number = campaign.next_round
    named = [
        ("train", inputs.train),
        ("evaluate", inputs.evaluate),
        *(("generate", one) for one in inputs.generates),
    ]
    if inputs.select is not None:
        named.append(("select", inputs.select))
    for step, receipt in named:
        if (receipt.step, receipt.summary.get("round")) != (step, number):
            raise Corrupt(
                f"{receipt.ref} is of round {receipt.summary.get('round')}; needed: {step} of round {number}"
            )
    if inputs.train.digest not in inputs.evaluate.inputs.values():
        raise Corrupt(f"{inputs.evaluate.ref} measured another model than {inputs.train.ref}")
    if (inputs.select is not None and bool(inputs.generates)) != (number > 0):
        raise Corrupt(
            f"round {number}: select and generate receipts belong to every round but round 0"
        )


def _decide(
    context: Context,
    campaign: Campaign,
    inputs: DecideInputs,
    receipts: dict[str, Receipt],
    compared: dict[str, Receipt],
    folder: Path,
) -> dict[str, Any]:
    recipe, before = campaign.recipe, campaign.state
    candidate = Measured.of(context, inputs.evaluate)
    champion = (
        champion_of(context, inputs.evaluate, compared["champion_evaluation"]) if compared else None
    )
    comparison = None
    if champion is not None:
        in_a_row = promotions_in_a_row(before.history)
        comparison = compare(champion.results, candidate.results, recipe.decide, in_a_row)
    first = compared["first_evaluation"].summary if compared else {}
    log = list(read_rows(fetch(context, inputs.train, "log.jsonl"), LogRow))
    losses = [row.loss for row in log]
    measures = _measures(context, campaign, inputs, log, candidate, champion)
    alarms = (
        *alarms_against(
            candidate,
            champion,
            first,
            inputs.select.summary if inputs.select else {},
            recipe.decide,
        ),
        *self_agreement(before.history, measures, before.plan.level),
    )
    verdict, ruling = _ruling(comparison, candidate, alarms)
    best = candidate if champion is None or verdict == "promoted" else champion
    evidence = Evidence(
        recipe=recipe,
        round=campaign.next_round,
        verdict=verdict,
        plan=before.plan,
        train=inputs.train.summary,
        losses=losses,
        finished_share=_finished_share(inputs),
        candidate=candidate.scores,
        select=inputs.select.summary if inputs.select else None,
        comparison=comparison,
        measures=measures,
    )
    plan, record = _reflect(campaign, evidence, ruling, candidate, best.scores)
    blocked = any(alarm.blocks for alarm in alarms)
    told = {"alarms": tuple(alarm.why for alarm in alarms), "blocked": blocked}
    record = record.model_copy(update={**told, **_account(inputs, receipts)})
    state = _next_state(campaign, inputs, record, plan)
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
    (folder / "state.json").write_bytes(canonical_json(state.model_dump(mode="json")))
    (folder / "card.md").write_text(card, encoding="utf-8")
    context.progress.note(f"round {record.round} {verdict}: {ruling.why}")
    return {
        "round": record.round,
        "verdict": verdict,
        "why": ruling.why,
        "go": state.go,
        "stop": stop,
        "accuracy": record.accuracy,
        "p_value": record.p_value,
        "champion": state.champion,
        "alarms": [alarm.measure for alarm in alarms],
        "causes": [cause.name for cause in record.causes],
    }


def promotions_in_a_row(history: Sequence[RoundRecord]) -> int:
    """How many of the last rounds promoted, without one between them that did not."""
    return len(
        list(itertools.takewhile(lambda record: record.verdict == "promoted", reversed(history)))
    )


def champion_of(context: Context, evaluation: Receipt, champion_evaluation: Receipt) -> Measured:
    """What is known of the champion: measured beside the candidate, or (in receipts from before
    that was done) when it was the candidate itself."""
    if "champion/results.jsonl" in evaluation.objects:
        return Measured.of(context, evaluation, "champion/")
    return Measured.of(context, champion_evaluation)


def alarms_against(
    candidate: Measured,
    champion: Measured | None,
    first: Mapping[str, Any],
    selection: Mapping[str, Any],
    section: DecideSection,
) -> tuple[Alarm, ...]:
    """All alarms about a candidate; none about the first model. `first` is the summary of round 0's
    evaluation."""
    if champion is None:
        return ()
    before, now = first.get("perplexity"), candidate.summary.get("perplexity")
    ratio = now / before if now is not None and before else None
    return alarms_of(candidate.summary, selection, ratio, candidate.retained(champion), section)


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
    log: Sequence[LogRow],
    candidate: Measured,
    champion: Measured | None,
) -> dict[str, float]:
    """The round in numbers."""
    prompts = validation_prompts(context, campaign.prepared)
    before = champion.results if champion else None
    select = inputs.select.summary if inputs.select else {}
    found = {
        **loss_measures(
            inputs.train.summary, [row.loss for row in log], [row.tokens for row in log]
        ),
        **human_loss_measures(candidate.summary, champion.summary if champion else {}),
        **answer_measures(candidate.results, before, references_of(prompts.values())),
        **row_measures(
            context, RoundFiles(campaign.prepared, inputs.select, inputs.generates), before, prompts
        ),
    }
    rows = select["labelled_rows"] + select["self_rows"] if "labelled_rows" in select else 0
    if rows:
        found["epochs"] = inputs.train.summary["steps"] * campaign.recipe.train.batch_size / rows
    if select.get("audit"):
        found |= {
            f"audit_{name}": select["audit"][key]
            for name, key in (("accuracy", "model_accuracy"), ("prompts", "prompts"))
        }
    if select:
        found |= {
            "accepted": select["accepted"],
            "distinct_share": select["distinct_share"],
            "passed": passed(select),
        }
    if "hinted" in select:
        found |= {
            "hinted": select["hinted"]["generated"],
            "hinted_accepted": select["hinted"]["accepted"],
            "too_hard": select["too_hard"]["waiting"],
        }
    return {name: round(float(value), 6) for name, value in sorted(found.items())}


def _reflect(
    campaign: Campaign, evidence: Evidence, ruling: Ruling, candidate: Measured, best: Scores
) -> tuple[Plan, RoundRecord]:
    """The plan of the next round and this round's record, without what the receipts account for."""
    recipe, used, number = campaign.written, campaign.state.plan, campaign.next_round
    scores, slice_name = candidate.scores, recipe.decide.goal.slice
    history = campaign.state.history
    # Round 0 has the settings of the first stage; improvement rounds begin from their own.
    current = used if number > 0 else _first_of(used, recipe)
    before = (
        history[-1].plan
        if number > 1 and history
        else _first_of(history[0].plan, recipe)
        if history
        else current
    )
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
    plan = plan.model_copy(update={"level": next_level(recipe, number, used.level, best)})
    return plan, RoundRecord(
        round=number,
        verdict=evidence.verdict,
        why=ruling.why,
        level=used.level,
        plan=used,
        accuracy=scores.accuracy(slice_name),
        interval=scores.interval(slice_name),
        overall=scores.accuracy(),
        test_accuracy=candidate.summary["test_accuracy"],
        slices=scores.slices,
        pass_at_k=candidate.summary.get("pass_at_k"),
        perplexity=candidate.summary.get("perplexity"),
        p_value=evidence.comparison.p_value if evidence.comparison else None,
        causes=causes,
        measures=dict(evidence.measures),
    )


def _first_of(plan: Plan, recipe: Recipe) -> Plan:
    """The settings that improvement rounds begin from: the recipe's, and what no stage has of its
    own from `plan`."""
    own = {
        name: getattr(plan, name) for name in ("min_vote_share", "max_new_tokens", "neftune_alpha")
    }
    return base_plan(recipe).model_copy(update=own)


def _account(inputs: DecideInputs, receipts: dict[str, Receipt]) -> dict[str, Any]:
    """The fields of a round's record that come from the receipts of its steps."""
    select = inputs.select.summary if inputs.select else {}
    return {
        "generated": select.get("generated", 0),
        "accepted": select.get("accepted", 0),
        "dropped": dict(select.get("dropped", {})),
        "tokens_generated": sum(
            one["tokens"]
            for shard in inputs.generates
            for one in (shard.summary, shard.summary.get("hinted"))
            if one
        ),
        "tokens_trained": int(inputs.train.summary["tokens_trained"]),
        "receipts": {name: receipt.ref for name, receipt in receipts.items()},
    }


def _finished_share(inputs: DecideInputs) -> float:
    summaries = [receipt.summary for receipt in inputs.generates]
    if not summaries:
        return float(inputs.evaluate.summary["finished_share"])
    finished = sum(one["finished_share"] * one["generated"] for one in summaries)
    return float(finished / max(1, sum(one["generated"] for one in summaries)))


def _next_state(campaign: Campaign, inputs: DecideInputs, record: RoundRecord, plan: Plan) -> State:
    before = campaign.state
    changes: dict[str, Any] = {
        "start": campaign.start.ref,
        "round": record.round,
        "plan": plan,
        "history": (*before.history, record),
        "rounds_without_gain": before.rounds_without_gain + 1,
    }
    # Rows of a mix that teaches errors do not accumulate.
    if inputs.select is not None and not inputs.select.summary.get("teaches_errors"):
        changes["selections"] = (*before.selections, inputs.select.ref)
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
    if state.round >= section.max_rounds:
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
