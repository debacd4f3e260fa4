"""Decide a round: keep or refuse the candidate, reflect, plan the next round, or stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from components.common import layout
from components.common.context import Context
from components.common.errors import Corrupt
from components.common.receipts import Attempt, Receipt, commit_once, fetch, read_receipt
from components.common.recipe import DecideSection
from components.common.records import Result, canonical_json, read_rows
from components.common.state import Campaign, Plan, RoundRecord, State, StopReason, Verdict, base_plan, load_campaign
from components.decide.card import round_card
from components.decide.diagnosis import Evidence, diagnose
from components.decide.gate import Comparison, Ruling, Scores, compare, judge
from components.decide.plan import change_to_take_back, next_level, next_plan


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


@dataclass(frozen=True)
class Measured:
    """Validation results and scores of one model."""

    results: tuple[Result, ...]
    scores: Scores
    summary: dict[str, Any]

    @classmethod
    def of(cls, context: Context, receipt: Receipt) -> Measured:
        """Read an evaluate receipt."""
        rows = read_rows(fetch(context, receipt, "results.jsonl"), Result)
        results = tuple(row for row in rows if row.split == "validation")
        return cls(results, Scores.of(results), receipt.summary)


def inputs_from(context: Context, state: str, mix: Receipt, candidate: Receipt, results: Receipt) -> DecideInputs:
    """The inputs of decide from the three artifacts of a round: what was trained on (the receipt of the start in
    round 0, else of select, which names its shards), the trained model and its results."""
    if mix.step == "start":
        return DecideInputs(state, candidate, results, None, ())
    shards = tuple(read_receipt(context, ref) for ref in mix.config.get("samples", ()))
    return DecideInputs(state, candidate, results, mix, shards)


def run(inputs: DecideInputs, context: Context) -> Receipt:
    """Write `state.json`, what the next round begins from, and `card.md`.

    Raises Corrupt if the receipts belong to other rounds or to each other not at all, or if champion and candidate
    were measured on different prompts; UserError if the goal's slice has no validation prompts.
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
        inputs={"state": campaign.state_receipt, "prepare": campaign.prepared, **receipts, **compared},
        seed=campaign.recipe.seed,
        work=lambda folder: _decide(context, campaign, inputs, receipts, compared, folder),
    )


def _check(campaign: Campaign, inputs: DecideInputs) -> None:
    number = campaign.next_round
    named = [("train", inputs.train), ("evaluate", inputs.evaluate), *(("generate", one) for one in inputs.generates)]
    if inputs.select is not None:
        named.append(("select", inputs.select))
    for step, receipt in named:
        if (receipt.step, receipt.summary.get("round")) != (step, number):
            raise Corrupt(f"{receipt.ref} is of round {receipt.summary.get('round')}; needed: {step} of round {number}")
    if inputs.train.digest not in inputs.evaluate.inputs.values():
        raise Corrupt(f"{inputs.evaluate.ref} measured another model than {inputs.train.ref}")
    if (inputs.select is not None and bool(inputs.generates)) != (number > 0):
        raise Corrupt(f"round {number}: select and generate receipts belong to every round but round 0")


def _decide(
    context: Context, campaign: Campaign, inputs: DecideInputs, receipts: dict[str, Receipt],
    compared: dict[str, Receipt], folder: Path,
) -> dict[str, Any]:  # fmt: skip
    recipe, before = campaign.recipe, campaign.state
    candidate = Measured.of(context, inputs.evaluate)
    champion = Measured.of(context, compared["champion_evaluation"]) if compared else None
    comparison = compare(champion.results, candidate.results, recipe.decide) if champion else None
    verdict, ruling = _ruling(comparison, candidate, compared, recipe.decide)
    best = candidate if champion is None or verdict == "promoted" else champion
    evidence = Evidence(
        recipe=recipe, round=campaign.next_round, verdict=verdict, plan=before.plan, train=inputs.train.summary,
        losses=[row.loss for row in read_rows(fetch(context, inputs.train, "log.jsonl"), LogRow)],
        finished_share=_finished_share(inputs), candidate=candidate.scores,
        select=inputs.select.summary if inputs.select else None, comparison=comparison,
    )  # fmt: skip
    plan, record = _reflect(campaign, evidence, ruling, candidate, best.scores)
    record = record.model_copy(update=_account(inputs, receipts))
    state = _next_state(campaign, inputs, record, plan)
    reached = best.scores.accuracy(recipe.decide.goal.slice)
    stop = stop_reason(recipe.decide, state, reached, lambda: minutes_spent(context, before.run_id))
    state = state.model_copy(update={"go": stop is None, "stop": stop})
    card = round_card(
        record, state, recipe.decide.goal, candidate=candidate.scores,
        champion=champion.scores if champion else None, comparison=comparison,
    )  # fmt: skip
    (folder / "state.json").write_bytes(canonical_json(state.model_dump(mode="json")))
    (folder / "card.md").write_text(card, encoding="utf-8")
    context.progress.note(f"round {record.round} {verdict}: {ruling.why}")
    return {
        "round": record.round, "verdict": verdict, "why": ruling.why, "go": state.go, "stop": stop,
        "accuracy": record.accuracy, "p_value": record.p_value, "champion": state.champion,
    }  # fmt: skip


def _ruling(
    comparison: Comparison | None, candidate: Measured, compared: dict[str, Receipt], section: DecideSection
) -> tuple[Verdict, Ruling]:
    if comparison is None:
        right, number = candidate.scores.counts[""]
        return "first", Ruling(True, f"the first champion: {right} of {number} validation prompts right")
    now, first = candidate.summary.get("perplexity"), compared["first_evaluation"].summary.get("perplexity")
    ruling = judge(comparison, now / first if now is not None and first else None, section)
    return ("promoted" if ruling.promote else "kept"), ruling


def _reflect(
    campaign: Campaign, evidence: Evidence, ruling: Ruling, candidate: Measured, best: Scores
) -> tuple[Plan, RoundRecord]:
    """The plan of the next round and this round's record, without what the receipts account for."""
    recipe, used, number = campaign.recipe, campaign.state.plan, campaign.next_round
    scores, slice_name = candidate.scores, campaign.recipe.decide.goal.slice
    history = campaign.state.history
    # Round 0 has the knobs of the first stage; improvement rounds begin from their own.
    current = used if number > 0 else base_plan(recipe)
    before = history[-1].plan if number > 1 and history else base_plan(recipe)
    taken_back = change_to_take_back(
        history[-1] if history else None, before, current, evidence.verdict, scores.accuracy()
    )
    plan, causes = next_plan(recipe, current, diagnose(evidence), taken_back, before)
    plan = plan.model_copy(update={"level": next_level(recipe, number, used.level, best)})
    return plan, RoundRecord(
        round=number, verdict=evidence.verdict, why=ruling.why, level=used.level, plan=used,
        accuracy=scores.accuracy(slice_name), interval=scores.interval(slice_name), overall=scores.accuracy(),
        test_accuracy=candidate.summary["test_accuracy"], slices=scores.slices,
        pass_at_k=candidate.summary.get("pass_at_k"), perplexity=candidate.summary.get("perplexity"),
        p_value=evidence.comparison.p_value if evidence.comparison else None, causes=causes,
    )  # fmt: skip


def _account(inputs: DecideInputs, receipts: dict[str, Receipt]) -> dict[str, Any]:
    """The fields of a round's record that come from the receipts of its steps."""
    select = inputs.select.summary if inputs.select else {}
    return {
        "generated": select.get("generated", 0), "accepted": select.get("accepted", 0),
        "dropped": dict(select.get("dropped", {})),
        "tokens_generated": sum(int(receipt.summary["tokens"]) for receipt in inputs.generates),
        "tokens_trained": int(inputs.train.summary["tokens_trained"]),
        "receipts": {name: receipt.ref for name, receipt in receipts.items()},
    }  # fmt: skip


def _finished_share(inputs: DecideInputs) -> float:
    summaries = [receipt.summary for receipt in inputs.generates]
    if not summaries:
        return float(inputs.evaluate.summary["finished_share"])
    finished = sum(one["finished_share"] * one["generated"] for one in summaries)
    return float(finished / max(1, sum(one["generated"] for one in summaries)))


def _next_state(campaign: Campaign, inputs: DecideInputs, record: RoundRecord, plan: Plan) -> State:
    before = campaign.state
    changes: dict[str, Any] = {
        "start": campaign.start.ref, "round": record.round, "plan": plan, "history": (*before.history, record),
        "rounds_without_gain": before.rounds_without_gain + 1,
    }  # fmt: skip
    if inputs.select is not None:
        changes["selections"] = (*before.selections, inputs.select.ref)
    if record.verdict != "kept":
        changes |= {
            "champion": inputs.train.ref, "champion_round": record.round, "champion_evaluation": inputs.evaluate.ref,
            "rounds_without_gain": 0,
        }  # fmt: skip
    if record.verdict == "first":
        changes["first_evaluation"] = inputs.evaluate.ref
    return before.model_copy(update=changes)


def stop_reason(
    section: DecideSection, state: State, reached: float, minutes: Callable[[], float]
) -> StopReason | None:
    """Why the campaign ends after this round, None if it goes on. The first that applies, in this order."""
    if reached >= section.goal.threshold:
        return "target"
    tokens = sum(one.tokens_generated + one.tokens_trained for one in state.history)
    if section.budget.tokens is not None and tokens >= section.budget.tokens:
        return "budget"
    if section.budget.minutes is not None and minutes() >= section.budget.minutes:
        return "budget"
    if state.round >= section.max_rounds:
        return "max_rounds"
    if state.rounds_without_gain >= section.patience:
        return "patience"
    return None


def minutes_spent(context: Context, run_id: str) -> float:
    """Minutes of all attempts of a run, failed ones too. Attempts are records for people: one that cannot be read is
    noted and costs nothing."""
    seconds = [
        attempt.seconds
        for key in context.store.list(layout.attempts_prefix(run_id))
        if (attempt := _attempt(context, key)) is not None
    ]
    return sum(seconds) / 60.0


def _attempt(context: Context, key: str) -> Attempt | None:
    try:
        return Attempt.model_validate_json(context.store.get_bytes(key))
    except (ValidationError, Corrupt):
        context.progress.note(f"{key} is not an attempt record; its time is not counted")
        return None
