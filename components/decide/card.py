"""The card of a round as Markdown: verdict, numbers, causes and the next plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from components.contracts.recipe import Goal
from components.contracts.state import STOP_SENTENCES, Plan, RoundRecord, State
from components.decide.gate import Comparison, Scores
from components.decide.guards import Alarm
from components.decide.reflection.plan import CHANGEABLE_SETTINGS, setting_text


def round_card(
    record: RoundRecord,
    state: State,
    goal: Goal,
    *,
    candidate: Scores,
    champion: Scores | None,
    comparison: Comparison | None,
    alarms: Sequence[Alarm] = (),
) -> str:
    """Return the Markdown of one round.

    Args:
        record: The round.
        state: State after the round; its plan is that of the next round.
        goal: The recipe's goal.
        candidate: Validation scores of the candidate.
        champion: Validation scores of the model it was compared with; None in round 0.
        comparison: The gate's comparison; None in round 0.
        alarms: All alarms about the candidate.
    """
    title = f"# Round {record.round}: {record.verdict}"
    parts = [
        [title, "", f"**{_text(record.why)}**", "", _course(state)],
        _scores(record, goal, candidate, champion),
        _gate(comparison),
        _alarms(alarms),
        _slices(candidate, champion),
        _samples(record),
        _causes(record),
        _plan(record.plan, state.plan),
        _history(state.history),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _course(state: State) -> str:
    best = f"Best model: round {state.champion_round}."
    if state.stop is None:
        return f"The campaign goes on with round {state.next_round}. {best}"
    return f"The campaign ends ({state.stop}): {STOP_SENTENCES[state.stop]}. {best}"


def _scores(
    record: RoundRecord, goal: Goal, candidate: Scores, champion: Scores | None
) -> list[str]:
    rows = [("validation, all prompts", "")]
    if goal.slice:
        rows.append((f"validation, {goal.slice}", goal.slice))
    lines = ["## Scores", "", "| measure | candidate [95 %] | champion [95 %] |", "|---|---|---|"]
    lines += [
        f"| {_text(title)} | {_share(candidate, name)} | {_share(champion, name)} |"
        for title, name in rows
    ]
    lines.append(f"| test, all prompts | {record.test_accuracy:.4f} | |")
    if record.pass_at_k is not None:
        lines.append(f"| pass@k (test) | {record.pass_at_k:.4f} | |")
    if record.perplexity is not None:
        lines.append(f"| perplexity on human text | {record.perplexity:.4f} | |")
    return [*lines, "", f"Goal: {goal.threshold:.4f} over {_text(goal.slice or 'all')}."]


def _gate(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return []
    test = (
        "Exact one-sided McNemar" if comparison.graded is None else "Paired bootstrap over families"
    )
    power = comparison.power.replace("are enough to show", "would have shown")
    # Not `capitalize`, which would make the rest of the sentence lower case.
    sentence = power[:1].upper() + power[1:]
    return ["## Gate", "", f"{test}: {comparison.in_words}. {sentence}."]


def _alarms(alarms: Sequence[Alarm]) -> list[str]:
    if not alarms:
        return []
    lines = ["## Alarms", ""]
    for alarm in alarms:
        lines.append(f"- {'**blocks**' if alarm.blocks else 'warning'}: {_text(alarm.reason)}")
    return lines


def _slices(candidate: Scores, champion: Scores | None) -> list[str]:
    # The empty name stands for all prompts, which are in the table of scores.
    names = [name for name in candidate.counts if name]
    if not names:
        return []
    lines = [
        "## Slices (validation)",
        "",
        "| slice | prompts | candidate [95 %] | champion |",
        "|---|---|---|---|",
    ]
    for name in sorted(names, key=_natural):
        num_prompts = candidate.counts[name][1]
        champion_accuracy = ""
        if champion is not None and name in champion.counts:
            champion_accuracy = f"{champion.accuracy(name):.4f}"
        cells = [_text(name), f"{num_prompts}", _share(candidate, name), champion_accuracy]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _samples(record: RoundRecord) -> list[str]:
    if not record.generated:
        return []
    level = f" at level {record.level}" if record.level else ""
    summary = f"{record.accepted} of {record.generated} samples{level} accepted."
    lines = ["## Samples", "", summary]
    if record.dropped:
        lines += ["", "| dropped because | samples |", "|---|---|"]
        lines += [f"| {_text(reason)} | {count} |" for reason, count in _by_count(record.dropped)]
    if "too_hard" in record.measures:
        measures = record.measures
        lines += [
            "",
            f"With a hint, {measures['hinted_accepted']:g} of {measures['hinted']:g} more "
            f"were accepted; {measures['too_hard']:g} prompts wait for one.",
        ]
    return lines


def _causes(record: RoundRecord) -> list[str]:
    if not record.causes:
        return ["## Causes", "", "Nothing stands out."]
    lines = [
        "## Causes",
        "",
        "| cause | confidence | evidence | change | should show |",
        "|---|---|---|---|---|",
    ]
    for cause in record.causes:
        cells = [
            cause.name,
            f"{cause.confidence:.2f}",
            _text(cause.evidence),
            cause.change or "none",
            _text(cause.predicted or ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plan(used: Plan, following: Plan) -> list[str]:
    lines = ["## Plan", "", "| setting | this round | next round |", "|---|---|---|"]
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
        lines.append(f"| {name} | {text} | {next_text} |")
    return lines


def _history(history: Iterable[RoundRecord]) -> list[str]:
    lines = [
        "## So far",
        "",
        "| round | verdict | goal | all | accepted | level |",
        "|---|---|---|---|---|---|",
    ]
    for record in history:
        lines.append(
            f"| {record.round} | {record.verdict} | {record.accuracy:.4f} "
            f"| {record.overall:.4f} | {record.accepted} | {record.level or ''} |"
        )
    return lines


def _share(scores: Scores | None, name: str) -> str:
    if scores is None or name not in scores.counts:
        return ""
    low, high = scores.interval(name)
    return f"{scores.accuracy(name):.4f} [{low:.4f}, {high:.4f}]"


def _by_count(dropped: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(dropped.items(), key=lambda item: (-item[1], item[0]))


def _natural(name: str) -> tuple[str, float, str]:
    """Return a sorting key by tag, then by the size of numbers: length=9 before length=10."""
    tag, _, value = name.partition("=")
    # `isdigit` alone holds for digits such as ², which `float` does not read.
    is_number = value.isascii() and value.isdigit()
    return tag, float(value) if is_number else 0.0, value


def _text(text: str) -> str:
    """Return text of data, which cannot break a table or add markup."""
    # Slice names, filters' reasons and file names are data of strangers, and the card is shown as
    # Markdown.
    for character in "\\|<>[]`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
