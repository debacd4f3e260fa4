"""Evidence for and against a round, as rows of tables: filters, audit, bias, alarms, collapse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from components.contracts.recipe import Recipe
from components.contracts.state import RoundRecord
from components.contracts.summaries import (
    EvaluateSummary,
    GenerateSummary,
    SelectSummary,
)
from components.contracts.summaries.evaluate import (
    Bounds,
    CollapseSign,
    PassAtKSign,
    RatioSign,
)
from components.contracts.summaries.select import Agreement, FilterCounts, FilterQuality
from components.measures import percent
from components.report.views import Rounds, RoundView

Sign = RatioSign | PassAtKSign
Severity = Literal["bad", "warn", ""]
"""CSS class of a sign that blocks, of one that warns, and of any other."""
SIGNS: dict[CollapseSign, str] = {
    "distinct_2": "word pairs",
    "perplexity": "human perplexity",
    "length": "length",
    "pass_at_k": "pass@k",
}
"""Measures of collapse, in the order of the columns."""
EXTRA_TITLES = {"agreement": "samples agree", "audit": "right on audit"}
"""Columns beside the measures of collapse."""
SUFFIXES: dict[Severity, str] = {"bad": ", blocks", "warn": ", warns", "": ""}


@dataclass(frozen=True)
class FilterRow:
    """Counts of a filter, and its precision on audit prompts; dashes where that is unknown."""

    name: str
    num_samples: int
    """Samples that came to the filter."""
    num_accepted: int
    """Samples that it let through."""
    precision: str = "–"
    """With its lower 95 % bound."""
    recall: str = "–"
    accepted_share: str = "–"
    """Share of the audit samples that passed the filter."""


def filter_rows(select: SelectSummary | None) -> list[FilterRow]:
    """Return a row for each filter in the order they worked, then one for all together.

    Empty without samples.
    """
    if select is None or not select.filters:
        return []
    audited = select.audit.filters if select.audit is not None else {}
    rows = []
    for name in filters_in_order(select.filters):
        counts = select.filters[name]
        quality = audited.get(name)
        rows.append(_filter_row(name, counts.given, counts.accepted, quality))
    all_quality = select.audit.all if select.audit is not None else None
    rows.append(_filter_row("all", select.generated, select.accepted, all_quality))
    return rows


def filters_in_order(filters: Mapping[str, FilterCounts]) -> list[str]:
    """Return the names of filters in the order in which they worked."""
    # A receipt's keys are in alphabetical order; each filter gets what the one before it passed.
    return [name for name, _ in sorted(filters.items(), key=_work_order)]


def _work_order(item: tuple[str, FilterCounts]) -> tuple[int, int]:
    """Return a sorting key that has the filter with the most samples first."""
    _, counts = item
    return -counts.given, -counts.accepted


def _filter_row(
    name: str, num_samples: int, num_accepted: int, quality: FilterQuality | None
) -> FilterRow:
    """Return the row of a filter; `quality` is None if it was not audited."""
    if quality is None:
        return FilterRow(name, num_samples, num_accepted)
    precision = "nothing kept"
    if quality.precision is not None:
        lower_bound = f"{100 * quality.precision_low:.1f}"
        precision = f"{percent(quality.precision)} (≥ {lower_bound})"
    return FilterRow(
        name=name,
        num_samples=num_samples,
        num_accepted=num_accepted,
        precision=precision,
        recall=percent(quality.recall),
        accepted_share=percent(quality.accepted_share),
    )


def audit_line(select: SelectSummary | None) -> str:
    """Return a sentence on the precision of all filters together; empty without an audit split."""
    if select is None or select.audit is None:
        return ""
    audit = select.audit
    overall = audit.all
    subject = (
        f"On {audit.samples:,} samples of {audit.prompts:,} audit prompts, "
        f"{percent(audit.model_accuracy)} of them right, the filters"
    )
    # Without an accepted sample there is no share of right ones.
    if overall.precision is None:
        return f"{subject} keep nothing."
    return (
        f"{subject} keep {percent(overall.accepted_share)}, "
        f"of which {percent(overall.precision)} are right "
        f"(at least {percent(overall.precision_low)} with 95 % confidence), "
        f"and {percent(overall.recall)} of the right ones."
    )


def written_line(generate: GenerateSummary | None) -> str:
    """Return a sentence on the prompts that the model wrote itself; empty without any."""
    if generate is None or generate.written is None:
        return ""
    written = generate.written
    sentence = f"The model wrote {written.tried:,} prompts, and {written.asked:,} of them were asked."
    if not written.dropped:
        return sentence
    reasons = ", ".join(
        f"{reason} {count:,}" for reason, count in written.dropped.items()
    )
    return f"{sentence} The others: {reasons}."


def people_line(select: SelectSummary | None) -> str:
    """Return a sentence on how far people agree with the automatic measure; empty without any."""
    if select is None or select.people is None:
        return ""
    people = select.people
    return (
        f"People marked {people.answers:,} answers, {people.right:,} of them right; "
        f"{agreement_text(people)}."
    )


def agreement_text(agreement: Agreement) -> str:
    """Return the agreement with the verifier or the vote in words."""
    kappa = "none, for both say the same of all"
    if agreement.kappa is not None:
        kappa = f"{agreement.kappa:.2f}"
    return (
        f"the automatic measure agrees on {percent(agreement.accuracy)} "
        f"(n = {agreement.answers:,}, Cohen's kappa {kappa})"
    )


def hints_line(select: SelectSummary | None) -> str:
    """Return a sentence on the prompts that were too hard; empty without hints."""
    # Both are there or neither: a recipe without hints has no pool of hard prompts.
    if select is None or select.too_hard is None or select.hinted is None:
        return ""
    too_hard = select.too_hard
    hinted = select.hinted
    return (
        f"No sample answered {too_hard.found:,} prompts right. With their answer as a hint, "
        f"{hinted.accepted:,} of {hinted.generated:,} samples were accepted; "
        f"{too_hard.waiting:,} prompts wait for the next round."
    )


def bias_line(select: SelectSummary | None) -> str:
    """Return a sentence on the distance of accepted and labelled rows; empty if not measured."""
    if select is None or not select.bias:
        return ""
    values = [f"{name} {distance:.2f}" for name, distance in select.bias.items()]
    scale = "0 alike, 1 nothing in common"
    return f"Accepted rows against labelled ones ({scale}): {', '.join(values)}."


def alarm_lines(record: RoundRecord, select: SelectSummary | None) -> list[str]:
    """Return the sentences of all alarms that the verdict's own sentence does not contain."""
    alarms = list(record.alarms)
    blocking_reason = select.why_blocked if select is not None else None
    if blocking_reason is not None:
        # `decide` makes an alarm of the reason, with words around it.
        is_told = any(blocking_reason in alarm for alarm in alarms)
        if not is_told:
            alarms.append(blocking_reason)
    # An alarm that rejected the candidate is part of that sentence.
    return [alarm for alarm in alarms if alarm not in record.why]


@dataclass(frozen=True)
class Cell:
    """A cell of the table of collapse."""

    text: str
    severity: Severity = ""


CollapseRow = tuple[int, tuple[Cell, ...]]
"""(round, cells)."""


@dataclass(frozen=True)
class CollapseTable:
    """Measures of collapse, one row per round."""

    columns: tuple[str, ...]
    bounds: tuple[str, ...]
    """Blocking bound of each column; empty where nothing blocks."""
    rows: tuple[CollapseRow, ...]
    """The newest round last."""


def collapse_table(rounds: Rounds, recipe: Recipe | None) -> CollapseTable | None:
    """Return the signs of collapse of each round's candidate; None if no round has any.

    Args:
        rounds: Rounds, the newest last.
        recipe: Holds the bound of the perplexity; None if it could not be read.
    """
    max_ratio = recipe.decide.max_perplexity_ratio if recipe else None
    signs = _latest_signs(rounds)
    if not signs:
        return None
    # Beside the signs stand the agreement of samples and the accuracy on audit prompts: a loop
    # without labels that agrees with itself more and is right less is collapsing (2505.21444).
    extras = [name for name in EXTRA_TITLES if _is_measured(name, rounds)]
    titles: list[str] = []
    bounds: list[str] = []
    for name, sign in signs.items():
        titles.append(_title(name, sign))
        bounds.append(_bound(name, sign, max_ratio))
    for extra in extras:
        titles.append(EXTRA_TITLES[extra])
        bounds.append("")
    rows: list[CollapseRow] = []
    for round_view in rounds:
        cells = [_cell(name, round_view.evaluate, max_ratio) for name in signs]
        for extra in extras:
            share = _extra(extra, round_view)
            cells.append(Cell(percent(share)))
        rows.append((round_view.record.round, tuple(cells)))
    return CollapseTable(tuple(titles), tuple(bounds), tuple(rows))


def _latest_signs(rounds: Rounds) -> dict[CollapseSign, Sign]:
    """Return the newest measurement of every sign that any round has, in the order of columns."""
    # Bounds and the k of pass@k may differ from round to round; those of the newest are shown.
    newest: dict[CollapseSign, Sign] = {}
    for round_view in rounds:
        if round_view.evaluate is not None:
            newest |= round_view.evaluate.collapse.signs
    return {name: newest[name] for name in SIGNS if name in newest}


def _is_measured(name: str, rounds: Rounds) -> bool:
    return any(_extra(name, round_view) is not None for round_view in rounds)


def _extra(name: str, round_view: RoundView) -> float | None:
    if name == "agreement":
        return round_view.record.measures.get("agreement")
    if round_view.select is None or round_view.select.audit is None:
        return None
    return round_view.select.audit.model_accuracy


def _title(name: CollapseSign, sign: Sign) -> str:
    return f"pass@{sign.k}" if isinstance(sign, PassAtKSign) else SIGNS[name]


def _bound(name: CollapseSign, sign: Sign, max_ratio: float | None) -> str:
    """Return the bound that blocks, in words; `max_ratio` is the recipe's of the perplexity."""
    if isinstance(sign, PassAtKSign):
        return "surely lower"
    block = sign.block
    if name == "perplexity" and max_ratio is not None:
        block = Bounds(above=max_ratio)
    sides = []
    if block.below is not None:
        sides.append(f"below {block.below:g}")
    if block.above is not None:
        sides.append(f"above {block.above:g}")
    return " or ".join(sides)


def _cell(
    name: CollapseSign, evaluate: EvaluateSummary | None, max_ratio: float | None
) -> Cell:
    if evaluate is None:
        return Cell("–")
    sign = evaluate.collapse.signs.get(name)
    if sign is None:
        return Cell("–")
    if isinstance(sign, PassAtKSign):
        # The minus sign is as wide as the plus, so that columns line up.
        text = f"{100 * sign.difference:+.1f} points".replace("-", "−")
    else:
        text = f"{sign.ratio:.3f} ×"
    severity = _severity(name, evaluate, sign, max_ratio)
    return Cell(text + SUFFIXES[severity], severity)


def _severity(
    name: CollapseSign, evaluate: EvaluateSummary, sign: Sign, max_ratio: float | None
) -> Severity:
    # `decide` compares the perplexity with the recipe's bound, not with that of evaluate.
    if name == "perplexity" and max_ratio is not None and isinstance(sign, RatioSign):
        warning_ratio = (1 + max_ratio) / 2
        if sign.ratio > max_ratio:
            return "bad"
        return "warn" if sign.ratio > warning_ratio else ""
    blocking = {alarm.measure for alarm in evaluate.blocks}
    warning = {alarm.measure for alarm in evaluate.warnings}
    if name in blocking:
        return "bad"
    return "warn" if name in warning else ""
