"""The card of a round as Markdown: verdict, numbers, causes and the next plan."""

from __future__ import annotations

from collections.abc import Sequence

from components.contracts.recipe import Goal
from components.contracts.state import (
    STOP_SENTENCES,
    Plan,
    RoundRecord,
    State,
    model_name,
)
from components.decide.gate import Comparison
from components.decide.guards import Alarm
from components.decide.reflection.changes import CHANGEABLE_SETTINGS, setting_text
from components.measures import Scores


def round_card(
    record: RoundRecord,
    state: State,
    goal: Goal,
    *,
    candidate: Scores,
    champion: Scores,
    comparison: Comparison | None,
    alarms: Sequence[Alarm] = (),
) -> str:
    """Return the Markdown of one round.

    Args:
        record: The round.
        state: State after the round; its plan is that of the next round.
        goal: The recipe's goal.
        candidate: Validation scores of the candidate; not shown in a weak round.
        champion: Validation scores of the model it was compared with.
        comparison: The gate's comparison; None in a weak round.
        alarms: All alarms about the candidate.
    """
    parts = [
        _head(record, state),
        _scores(record, goal, candidate, champion),
        _gate(comparison),
        _alarms(alarms),
        [] if record.weak else _slices(candidate, champion),
        _samples(record),
        _causes(record),
        _plan(record.plan, state.plan),
        _history(state),
    ]
    paragraphs = ["\n".join(lines) for lines in parts if lines]
    return "\n\n".join(paragraphs) + "\n"


def _head(record: RoundRecord, state: State) -> list[str]:
    reason = f"**{_text(record.why)}**"
    return [f"# Round {record.round}: {record.verdict}", "", reason, "", _course(state)]


def _course(state: State) -> str:
    best = f"Best model: {model_name(state.champion_round)}."
    if state.stop is None:
        return f"The campaign goes on with round {state.next_round}. {best}"
    sentence = STOP_SENTENCES[state.stop]
    return f"The campaign ends ({state.stop}): {sentence}. {best}"


def _scores(
    record: RoundRecord, goal: Goal, candidate: Scores, champion: Scores
) -> list[str]:
    slices = {"validation, all prompts": ""}
    if goal.slice:
        slices[f"validation, {goal.slice}"] = goal.slice
    head = _table_head(goal.metric, "candidate [95 %]", "champion [95 %]")
    lines = ["## Scores", "", *head]
    for title, name in slices.items():
        candidate_share = "none" if record.weak else _share(candidate, name)
        lines.append(_row(_text(title), candidate_share, _share(champion, name)))
    # These are measured, and decide nothing: a split that is looked at often stops being a test.
    reported = {
        "test, all prompts": record.test_score,
        "pass@k": record.pass_at_k,
        "perplexity on human text": record.perplexity,
        "accuracy of classes by likelihood": record.label_accuracy,
        "macro-F1": record.macro_f1,
        "Brier score (0 is best, 2 worst)": record.brier,
    }
    for title, value in reported.items():
        if value is None:
            continue
        # The scores in a weak round's record are the champion's.
        cells = ("none", _decimals(value)) if record.weak else (_decimals(value), "")
        lines.append(_row(title, *cells))
    goal_slice = _text(goal.slice or "all")
    threshold = _decimals(goal.threshold)
    lines += ["", f"Goal: {goal.metric} {threshold} over {goal_slice}."]
    return lines


def _gate(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        sentence = (
            "No candidate was trained, so nothing was compared and no alpha was spent."
        )
        return ["## Gate", "", sentence]
    test = "Exact one-sided McNemar"
    if comparison.graded is not None:
        test = "Gaffke's one-sided test over families"
        if comparison.graded.unit == "loss":
            test = "One-sided t-test over families"
    power = comparison.power.replace("are enough to show", "would have shown")
    # Not `capitalize`, which would make the rest of the sentence lower case.
    sentence = power[:1].upper() + power[1:]
    return ["## Gate", "", f"{test}: {comparison.in_words}. {sentence}."]


def _alarms(alarms: Sequence[Alarm]) -> list[str]:
    if not alarms:
        return []
    lines = ["## Alarms", ""]
    for alarm in alarms:
        kind = "**blocks**" if alarm.blocks else "warning"
        lines.append(f"- {kind}: {_text(alarm.reason)}")
    return lines


def _slices(candidate: Scores, champion: Scores) -> list[str]:
    # The empty name stands for all prompts, which are in the table of scores.
    names = [name for name in candidate.estimates if name]
    if not names:
        return []
    head = _table_head("slice", "prompts", "candidate [95 %]", "champion")
    lines = ["## Slices (validation)", "", *head]
    for name in sorted(names, key=_natural):
        num_prompts = candidate.estimates[name].n
        champion_score = ""
        if name in champion.estimates:
            champion_score = _decimals(champion.value(name))
        candidate_share = _share(candidate, name)
        lines.append(
            _row(_text(name), str(num_prompts), candidate_share, champion_score)
        )
    return lines


def _samples(record: RoundRecord) -> list[str]:
    if not record.generated and not record.weak:
        return []
    level = f" at level {record.level}" if record.level else ""
    summary = f"{record.accepted} of {record.generated} samples{level} accepted."
    lines = ["## Samples", "", summary]
    if record.dropped:
        lines += ["", *_table_head("dropped because", "samples")]
        for reason, count in _by_count(record.dropped):
            lines.append(_row(_text(reason), str(count)))
    measures = record.measures
    # Without hints in the recipe no prompt waits for one.
    if "too_hard" in measures:
        hinted = f"{measures['hinted_accepted']:g} of {measures['hinted']:g}"
        waiting = f"{measures['too_hard']:g} prompts wait for one"
        lines += ["", f"With a hint, {hinted} more were accepted; {waiting}."]
    return lines


def _causes(record: RoundRecord) -> list[str]:
    if not record.causes:
        return ["## Causes", "", "Nothing stands out."]
    head = _table_head("cause", "priority", "evidence", "change", "should show")
    lines = ["## Causes", "", *head]
    for cause in record.causes:
        line = _row(
            cause.name,
            f"{cause.priority:.2f}",
            _text(cause.evidence),
            cause.change or "none",
            _text(cause.predicted or ""),
        )
        lines.append(line)
    return lines


def _plan(used: Plan, following: Plan) -> list[str]:
    lines = ["## Plan", "", *_table_head("setting", "this round", "next round")]
    for name in (*CHANGEABLE_SETTINGS, "level"):
        value = getattr(used, name)
        next_value = getattr(following, name)
        # A setting that the recipe alone says has no line.
        if value is None and next_value is None:
            continue
        text = setting_text(name, value)
        next_text = setting_text(name, next_value)
        if next_text != text:
            next_text = f"**{next_text}**"
        lines.append(_row(name, text, next_text))
    return lines


def _history(state: State) -> list[str]:
    head = _table_head("round", "verdict", "goal", "all", "accepted", "level")
    lines = ["## So far", "", *head]
    if state.base is not None:
        scores = (_decimals(state.base.score), _decimals(state.base.overall))
        lines.append(_row("base", "first champion", *scores, "", ""))
    for record in state.history:
        line = _row(
            str(record.round),
            record.verdict,
            "none" if record.weak else _decimals(record.score),
            "none" if record.weak else _decimals(record.overall),
            str(record.accepted),
            # 0 stands for no ladder.
            str(record.level or ""),
        )
        lines.append(line)
    return lines


def _table_head(*titles: str) -> list[str]:
    return [_row(*titles), "|" + "---|" * len(titles)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _share(scores: Scores, name: str) -> str:
    """Return a value with its interval; empty if it was not measured."""
    if name not in scores.estimates:
        return ""
    value = _decimals(scores.value(name))
    low, high = map(_decimals, scores.interval(name))
    return f"{value} [{low}, {high}]"


def _decimals(value: float) -> str:
    return f"{value:.4f}"


def _by_count(dropped: dict[str, int]) -> list[tuple[str, int]]:
    """Return (reason, count), the most frequent first; reasons of equal count by name."""
    return sorted(dropped.items(), key=lambda item: (-item[1], item[0]))


def _natural(name: str) -> tuple[str, float, str]:
    """Return a sorting key by tag, then by the size of numbers: length=9 before length=10."""
    tag, _, value = name.partition("=")
    # `isdigit` alone holds for digits such as ², which `float` does not read.
    is_number = value.isascii() and value.isdigit()
    return tag, float(value) if is_number else 0.0, value


def _text(text: str) -> str:
    """Return text of data, which cannot break a table or add markup."""
    # Slice names, filters' reasons and file names come from data, and the card is shown as
    # Markdown.
    for character in "\\|<>[]`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
