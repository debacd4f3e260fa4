"""What speaks for and against a round, as rows of tables: filters and their audit, bias, alarms,
signs of collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.contracts.recipe import Recipe
from components.contracts.state import RoundRecord
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.contracts.summaries.evaluate import Bounds, CollapseSign, PassAtKSign, RatioSign
from components.contracts.summaries.select import FilterQuality
from components.report.runs import RoundView
from components.report.words import percent

SIGNS: dict[CollapseSign, str] = {
    "distinct_2": "word pairs",
    "perplexity": "human perplexity",
    "length": "length",
    "pass_at_k": "pass@k",
}
"""Measures of collapse, each against round 0."""


@dataclass(frozen=True)
class FilterRow:
    """What one filter kept, and how well it did on prompts whose answers are known; dashes where
    that is unknown."""

    name: str
    given: int
    kept: int
    precision: str = "–"
    """With its lower 95 % bound."""
    recall: str = "–"
    kept_share: str = "–"
    """Of the audit samples given to it."""


def filter_rows(select: SelectSummary | None) -> list[FilterRow]:
    """Every filter in the order they worked, then all together; empty without samples."""
    if select is None or not select.filters:
        return []
    audited = select.audit.filters if select.audit is not None else {}
    # A receipt's keys are in alphabetical order; each filter is given what the one before it kept.
    in_order = sorted(select.filters.items(), key=lambda item: (-item[1].given, -item[1].accepted))
    rows = [
        FilterRow(name, own.given, own.accepted, *_audited(audited.get(name)))
        for name, own in in_order
    ]
    whole = select.audit.all if select.audit is not None else None
    return [*rows, FilterRow("all", select.generated, select.accepted, *_audited(whole))]


def _audited(own: FilterQuality | None) -> tuple[str, ...]:
    if own is None:
        return ()
    sure = (
        "nothing kept"
        if own.precision is None
        else f"{percent(own.precision)} (≥ {100 * own.precision_low:.1f})"
    )
    return sure, percent(own.recall), percent(own.accepted_share)


def audit_line(select: SelectSummary | None) -> str:
    """What the filters are worth, in a sentence; empty without an audit split."""
    if select is None or select.audit is None:
        return ""
    audit = select.audit
    model, whole = percent(audit.model_accuracy), audit.all
    begin = f"On {audit.samples:,} samples of {audit.prompts:,} audit prompts, {model} of them right, the filters"
    if whole.precision is None:
        return f"{begin} keep nothing."
    return (
        f"{begin} keep {percent(whole.accepted_share)}, of which {percent(whole.precision)} are right (at least "
        f"{percent(whole.precision_low)} with 95 % confidence), and {percent(whole.recall)} of the right ones."
    )


def hints_line(select: SelectSummary | None) -> str:
    """What became of prompts that were too hard, in a sentence; empty without hints."""
    if select is None or select.too_hard is None or select.hinted is None:
        return ""
    hard, helped = select.too_hard, select.hinted
    return (
        f"No sample answered {hard.found:,} prompts right. With their answer as a hint, {helped.accepted:,} of "
        f"{helped.generated:,} samples were accepted; {hard.waiting:,} prompts wait for the next round."
    )


def bias_line(select: SelectSummary | None) -> str:
    """How far accepted rows are from labelled ones, in a sentence; empty where nothing was
    compared."""
    distances = select.bias if select is not None else {}
    told = ", ".join(f"{name} {value:.2f}" for name, value in distances.items())
    return (
        f"Accepted rows against labelled ones (0 alike, 1 nothing in common): {told}."
        if told
        else ""
    )


def alarm_lines(record: RoundRecord, select: SelectSummary | None) -> list[str]:
    """Sentences of all alarms that the verdict itself does not tell."""
    why = select.why_blocked if select is not None else None
    told = [*record.alarms]
    if why is not None and not any(why in alarm for alarm in record.alarms):
        told.append(why)
    return [alarm for alarm in told if alarm not in record.why]


@dataclass(frozen=True)
class Cell:
    """A cell of the table of collapse: text, and the class that colours it."""

    text: str
    severity: str = ""
    """`bad` (blocks), `warn`, or nothing."""


@dataclass(frozen=True)
class CollapseTable:
    """One row per round, newest last."""

    columns: tuple[str, ...]
    bounds: tuple[str, ...]
    """What blocks, per column; empty where nothing does."""
    rows: tuple[tuple[int, tuple[Cell, ...]], ...]


def collapse_table(rounds: Sequence[RoundView], recipe: Recipe | None) -> CollapseTable | None:
    """Each round's measures against round 0, and beside them how sure the model is of itself and
    how right it is on audit prompts: a loop without labels that agrees with itself more and is
    right less is collapsing (2505.21444). None if no round has any."""
    most = recipe.decide.max_perplexity_ratio if recipe else None
    measured = _latest_signs(rounds)
    extras = [
        name
        for name in ("agreement", "audit")
        if any(_extra(name, one) is not None for one in rounds)
    ]
    if not measured:
        return None
    titles = {"agreement": "samples agree", "audit": "right on audit"}
    return CollapseTable(
        columns=(
            *(_title(name, sign) for name, sign in measured.items()),
            *(titles[name] for name in extras),
        ),
        bounds=(
            *(_bound(name, sign, most) for name, sign in measured.items()),
            *("" for _ in extras),
        ),
        rows=tuple(
            (
                one.record.round,
                (
                    *(_cell(name, one.evaluate, most) for name in measured),
                    *(Cell(percent(_extra(name, one))) for name in extras),
                ),
            )
            for one in rounds
            if one.record.verdict != "first"
        ),
    )


def _latest_signs(rounds: Sequence[RoundView]) -> dict[CollapseSign, RatioSign | PassAtKSign]:
    """The newest measurement of every sign that any round has, in the order of the columns."""
    newest: dict[CollapseSign, RatioSign | PassAtKSign] = {}
    for one in rounds:
        if one.evaluate is not None:
            newest |= one.evaluate.collapse.signs
    return {name: newest[name] for name in SIGNS if name in newest}


def _extra(name: str, one: RoundView) -> float | None:
    if name == "agreement":
        return one.record.measures.get("agreement")
    audit = one.select.audit if one.select is not None else None
    return audit.model_accuracy if audit is not None else None


def _title(name: CollapseSign, sign: RatioSign | PassAtKSign) -> str:
    return f"pass@{sign.k}" if isinstance(sign, PassAtKSign) else SIGNS[name]


def _bound(name: CollapseSign, sign: RatioSign | PassAtKSign, most: float | None) -> str:
    if isinstance(sign, PassAtKSign):
        return "surely lower"
    block = sign.block if name != "perplexity" or most is None else Bounds(above=most)
    return " or ".join(
        f"{side} {limit:g}"
        for side, limit in (("below", block.below), ("above", block.above))
        if limit is not None
    )


def _cell(name: CollapseSign, evaluate: EvaluateSummary | None, most: float | None) -> Cell:
    sign = evaluate.collapse.signs.get(name) if evaluate is not None else None
    if evaluate is None or sign is None:
        return Cell("–")
    text = (
        f"{100 * sign.difference:+.1f} points".replace("-", "−")
        if isinstance(sign, PassAtKSign)
        else f"{sign.ratio:.3f} ×"
    )
    severity = _severity(name, evaluate, sign, most)
    return Cell({"bad": f"{text}, blocks", "warn": f"{text}, warns"}.get(severity, text), severity)


def _severity(
    name: CollapseSign,
    evaluate: EvaluateSummary,
    sign: RatioSign | PassAtKSign,
    most: float | None,
) -> str:
    if name == "perplexity" and most is not None and isinstance(sign, RatioSign):
        # The recipe's bound is the one that `decide` compares with.
        if sign.ratio > most:
            return "bad"
        return "warn" if sign.ratio > (1 + most) / 2 else ""
    if any(alarm.measure == name for alarm in evaluate.blocks):
        return "bad"
    return "warn" if any(alarm.measure == name for alarm in evaluate.warnings) else ""
