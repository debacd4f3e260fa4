"""What speaks for and against a round, as rows of tables: filters and their audit, bias, alarms,
signs of collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.contracts.recipe import Recipe
from components.contracts.state import RoundRecord
from components.report.runs import RoundView
from components.report.words import percent

SIGNS = {
    "distinct_2": "word pairs",
    "perplexity": "human perplexity",
    "length": "length",
    "pass_at_k": "pass@k",
}
"""Measures of collapse, each against round 0."""
SEVERITIES = {"blocks": "bad", "warnings": "warn"}
"""List of an evaluate summary → CSS class."""


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


def filter_rows(select: Mapping[str, Any]) -> list[FilterRow]:
    """Every filter in the order they worked, then all together; empty without a selection."""
    filters, audit = select.get("filters") or {}, select.get("audit") or {}
    if not filters:
        return []
    audited = audit.get("filters") or {}
    # A receipt's keys are in alphabetical order; each filter is given what the one before it kept.
    in_order = sorted(filters.items(), key=lambda item: (-item[1]["given"], -item[1]["kept"]))
    rows = [
        FilterRow(name, own["given"], own["kept"], *_audited(audited.get(name, {})))
        for name, own in in_order
    ]
    return [
        *rows,
        FilterRow(
            "all", select["generated"], select["accepted"], *_audited(audit.get("all") or {})
        ),
    ]


def _audited(own: Mapping[str, Any]) -> tuple[str, ...]:
    if not own:
        return ()
    sure = (
        "nothing kept"
        if own["precision"] is None
        else f"{percent(own['precision'])} (≥ {100 * own['precision_low']:.1f})"
    )
    return sure, percent(own["recall"]), percent(own["yield"])


def audit_line(select: Mapping[str, Any]) -> str:
    """What the filters are worth, in a sentence; empty without an audit split."""
    audit = select.get("audit")
    if not audit:
        return ""
    model, whole = percent(audit["model_accuracy"]), audit["all"]
    begin = f"On {audit['samples']:,} samples of {audit['prompts']:,} audit prompts, {model} of them right, the filters"
    if whole["precision"] is None:
        return f"{begin} keep nothing."
    return (
        f"{begin} keep {percent(whole['yield'])}, of which {percent(whole['precision'])} are right (at least "
        f"{percent(whole['precision_low'])} with 95 % confidence), and {percent(whole['recall'])} of the right ones."
    )


def hints_line(select: Mapping[str, Any]) -> str:
    """What became of prompts that were too hard, in a sentence; empty without hints."""
    if "too_hard" not in select:
        return ""
    hard, helped = select["too_hard"], select["hinted"]
    return (
        f"No sample answered {hard['found']:,} prompts right. With their answer as a hint, {helped['accepted']:,} of "
        f"{helped['generated']:,} samples were accepted; {hard['waiting']:,} prompts wait for the next round."
    )


def bias_line(select: Mapping[str, Any]) -> str:
    """How far accepted rows are from labelled ones, in a sentence; empty where nothing was
    compared."""
    distances = select.get("bias") or {}
    told = ", ".join(f"{name} {value:.2f}" for name, value in distances.items())
    return (
        f"Accepted rows against labelled ones (0 alike, 1 nothing in common): {told}."
        if told
        else ""
    )


def alarm_lines(record: RoundRecord, select: Mapping[str, Any]) -> list[str]:
    """Sentences of all alarms that the verdict itself does not tell."""
    why = str(select.get("why_blocked") or "")
    told = [
        *record.alarms,
        *([why] if why and not any(why in alarm for alarm in record.alarms) else []),
    ]
    return [alarm for alarm in told if alarm not in record.why]


@dataclass(frozen=True)
class Sign:
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
    rows: tuple[tuple[int, tuple[Sign, ...]], ...]


def collapse_table(rounds: Sequence[RoundView], recipe: Recipe | None) -> CollapseTable | None:
    """Each round's measures against round 0, and beside them how sure the model is of itself and
    how right it is on audit prompts: a loop without labels that agrees with itself more and is
    right less is collapsing (2505.21444). None if no round has any."""
    most = recipe.decide.max_perplexity_ratio if recipe else None
    names = [
        name for name in SIGNS if any(name in one.evaluate.get("collapse", {}) for one in rounds)
    ]
    extras = [
        name
        for name in ("agreement", "audit")
        if any(_extra(name, one) is not None for one in rounds)
    ]
    if not names:
        return None
    titles = {"agreement": "samples agree", "audit": "right on audit"}
    measured = {name: _latest(name, rounds) for name in names}
    return CollapseTable(
        columns=(
            *(_title(name, measured[name]) for name in names),
            *(titles[name] for name in extras),
        ),
        bounds=(*(_bound(name, measured[name], most) for name in names), *("" for _ in extras)),
        rows=tuple(
            (
                one.record.round,
                (
                    *(_sign(name, one, most) for name in names),
                    *(Sign(percent(_extra(name, one))) for name in extras),
                ),
            )
            for one in rounds
            if one.record.round
        ),
    )


def _latest(name: str, rounds: Sequence[RoundView]) -> dict[str, Any]:
    found = [
        one.evaluate["collapse"][name] for one in rounds if name in one.evaluate.get("collapse", {})
    ]
    return dict(found[-1])


def _extra(name: str, one: RoundView) -> float | None:
    if name == "agreement":
        return one.record.measures.get("agreement")
    audit = one.select.get("audit")
    return float(audit["model_accuracy"]) if audit else None


def _title(name: str, measure: Mapping[str, Any]) -> str:
    return f"pass@{measure['k']}" if name == "pass_at_k" else SIGNS[name]


def _bound(name: str, measure: Mapping[str, Any], most: float | None) -> str:
    if name == "pass_at_k":
        return "surely lower"
    block = measure["block"] if name != "perplexity" or most is None else {"above": most}
    return " or ".join(f"{side} {limit:g}" for side, limit in sorted(block.items(), reverse=True))


def _sign(name: str, one: RoundView, most: float | None) -> Sign:
    measure = one.evaluate.get("collapse", {}).get(name)
    if measure is None:
        return Sign("–")
    text = (
        f"{100 * measure['difference']:+.1f} points".replace("-", "−")
        if name == "pass_at_k"
        else f"{measure['ratio']:.3f} ×"
    )
    severity = _severity(name, one, measure, most)
    return Sign({"bad": f"{text}, blocks", "warn": f"{text}, warns"}.get(severity, text), severity)


def _severity(name: str, one: RoundView, measure: Mapping[str, Any], most: float | None) -> str:
    if (
        name == "perplexity" and most is not None
    ):  # the recipe's bound is the one that `decide` compares with
        return (
            "bad"
            if measure["ratio"] > most
            else "warn"
            if measure["ratio"] > (1 + most) / 2
            else ""
        )
    listed = [
        css
        for key, css in SEVERITIES.items()
        if name in {own["measure"] for own in one.evaluate.get(key, ())}
    ]
    return listed[0] if listed else ""
