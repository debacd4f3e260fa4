"""Evidence for and against a round, as rows of tables: filters, audit, bias, alarms, collapse."""

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
_EXTRA_TITLES = {"agreement": "samples agree", "audit": "right on audit"}
"""Columns beside the measures of collapse."""
SEVERITIES = {"blocks": "bad", "warnings": "warn"}
"""List of an evaluate summary → CSS class."""


@dataclass(frozen=True)
class FilterRow:
    """Counts of a filter, and its precision on audit prompts; dashes where that is unknown."""

    name: str
    samples_before: int
    samples_after: int
    precision: str = "–"
    """With its lower 95 % bound."""
    recall: str = "–"
    kept_share: str = "–"
    """Share of the audit samples that passed the filter."""


def filter_rows(select: Mapping[str, Any]) -> list[FilterRow]:
    """Return a row for each filter in the order they worked, then one for all; empty in round 0."""
    filters = select.get("filters") or {}
    audit = select.get("audit") or {}
    if not filters:
        return []
    audit_filters = audit.get("filters") or {}
    # A receipt's keys are in alphabetical order; each filter gets what the one before it passed.
    in_order = sorted(filters.items(), key=lambda item: (-item[1]["given"], -item[1]["kept"]))
    rows = [
        FilterRow(name, counts["given"], counts["kept"], *_audit_cells(audit_filters.get(name, {})))
        for name, counts in in_order
    ]
    all_cells = _audit_cells(audit.get("all") or {})
    return [*rows, FilterRow("all", select["generated"], select["accepted"], *all_cells)]


def _audit_cells(audit_counts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return (precision, recall, kept share) of a filter; empty if it was not audited."""
    if not audit_counts:
        return ()
    precision = "nothing kept"
    if audit_counts["precision"] is not None:
        low = 100 * audit_counts["precision_low"]
        precision = f"{percent(audit_counts['precision'])} (≥ {low:.1f})"
    return precision, percent(audit_counts["recall"]), percent(audit_counts["yield"])


def audit_line(select: Mapping[str, Any]) -> str:
    """Return a sentence on the precision of all filters together; empty without an audit split."""
    audit = select.get("audit")
    if not audit:
        return ""
    overall = audit["all"]
    subject = (
        f"On {audit['samples']:,} samples of {audit['prompts']:,} audit prompts, "
        f"{percent(audit['model_accuracy'])} of them right, the filters"
    )
    if overall["precision"] is None:
        return f"{subject} keep nothing."
    return (
        f"{subject} keep {percent(overall['yield'])}, "
        f"of which {percent(overall['precision'])} are right "
        f"(at least {percent(overall['precision_low'])} with 95 % confidence), "
        f"and {percent(overall['recall'])} of the right ones."
    )


def hints_line(select: Mapping[str, Any]) -> str:
    """Return a sentence on the prompts that were too hard; empty without hints."""
    if "too_hard" not in select:
        return ""
    too_hard, hinted = select["too_hard"], select["hinted"]
    return (
        f"No sample answered {too_hard['found']:,} prompts right. With their answer as a hint, "
        f"{hinted['accepted']:,} of {hinted['generated']:,} samples were accepted; "
        f"{too_hard['waiting']:,} prompts wait for the next round."
    )


def bias_line(select: Mapping[str, Any]) -> str:
    """Return a sentence on the distance of accepted and labelled rows; empty if not measured."""
    distances = select.get("bias") or {}
    if not distances:
        return ""
    values = ", ".join(f"{name} {value:.2f}" for name, value in distances.items())
    return f"Accepted rows against labelled ones (0 alike, 1 nothing in common): {values}."


def alarm_lines(record: RoundRecord, select: Mapping[str, Any]) -> list[str]:
    """Return the sentences of all alarms that the verdict's own sentence does not contain."""
    alarms = list(record.alarms)
    blocking_reason = str(select.get("why_blocked") or "")
    # `decide` makes an alarm of the reason, with words around it.
    if blocking_reason and not any(blocking_reason in alarm for alarm in alarms):
        alarms.append(blocking_reason)
    return [alarm for alarm in alarms if alarm not in record.why]


@dataclass(frozen=True)
class Sign:
    """A cell of the table of collapse."""

    text: str
    severity: str = ""
    """CSS class: `bad` (blocks), `warn`, or empty."""


@dataclass(frozen=True)
class CollapseTable:
    """Measures of collapse, one row per round."""

    columns: tuple[str, ...]
    bounds: tuple[str, ...]
    """Blocking bound of each column; empty where nothing blocks."""
    rows: tuple[tuple[int, tuple[Sign, ...]], ...]
    """(round, cells), the newest round last."""


def collapse_table(rounds: Sequence[RoundView], recipe: Recipe | None) -> CollapseTable | None:
    """Return each round's measures against round 0; None if no round has any.

    Beside them stand the agreement of samples and the accuracy on audit prompts: a loop without
    labels that agrees with itself more and is right less is collapsing (2505.21444).

    Args:
        rounds: Rounds, the newest last.
        recipe: Holds the bound of the perplexity; None if it could not be read.
    """
    max_ratio = recipe.decide.max_perplexity_ratio if recipe else None
    newest: dict[str, Any] = {}
    for round_view in rounds:
        newest |= _measures(round_view)
    signs = [name for name in SIGNS if name in newest]
    extras = [
        name
        for name in _EXTRA_TITLES
        if any(_extra(name, round_view) is not None for round_view in rounds)
    ]
    if not signs:
        return None
    rows = []
    for round_view in rounds:
        if round_view.record.round:
            cells = [_sign(name, round_view, max_ratio) for name in signs]
            cells += [Sign(percent(_extra(name, round_view))) for name in extras]
            rows.append((round_view.record.round, tuple(cells)))
    titles = [_title(name, newest[name]) for name in signs]
    bounds = [_bound(name, newest[name], max_ratio) for name in signs]
    return CollapseTable(
        columns=(*titles, *(_EXTRA_TITLES[name] for name in extras)),
        bounds=(*bounds, *("" for _ in extras)),
        rows=tuple(rows),
    )


def _measures(round_view: RoundView) -> dict[str, Any]:
    """Return measure → values and bounds of a round; empty in round 0."""
    return dict(round_view.evaluate.get("collapse", {}))


def _extra(name: str, round_view: RoundView) -> float | None:
    if name == "agreement":
        return round_view.record.measures.get("agreement")
    audit = round_view.select.get("audit")
    return float(audit["model_accuracy"]) if audit else None


def _title(name: str, measure: Mapping[str, Any]) -> str:
    return f"pass@{measure['k']}" if name == "pass_at_k" else SIGNS[name]


def _bound(name: str, measure: Mapping[str, Any], max_ratio: float | None) -> str:
    """Return the bound that blocks, in words; `max_ratio` is the recipe's of the perplexity."""
    if name == "pass_at_k":
        return "surely lower"
    block = measure["block"]
    if name == "perplexity" and max_ratio is not None:
        block = {"above": max_ratio}
    return " or ".join(f"{side} {limit:g}" for side, limit in sorted(block.items(), reverse=True))


def _sign(name: str, round_view: RoundView, max_ratio: float | None) -> Sign:
    measure = _measures(round_view).get(name)
    if measure is None:
        return Sign("–")
    if name == "pass_at_k":
        text = f"{100 * measure['difference']:+.1f} points".replace("-", "−")
    else:
        text = f"{measure['ratio']:.3f} ×"
    severity = _severity(name, round_view, measure, max_ratio)
    suffix = {"bad": ", blocks", "warn": ", warns", "": ""}[severity]
    return Sign(text + suffix, severity)


def _severity(
    name: str, round_view: RoundView, measure: Mapping[str, Any], max_ratio: float | None
) -> str:
    # `decide` compares the perplexity with the recipe's bound, not with that of evaluate.
    if name == "perplexity" and max_ratio is not None:
        if measure["ratio"] > max_ratio:
            return "bad"
        return "warn" if measure["ratio"] > (1 + max_ratio) / 2 else ""
    for key, severity in SEVERITIES.items():
        if any(alarm["measure"] == name for alarm in round_view.evaluate.get(key, ())):
            return severity
    return ""
