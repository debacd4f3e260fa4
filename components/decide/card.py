"""The card of a round: verdict, numbers, causes and the next plan, as Markdown that a person can
read."""

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
    """Markdown of one round. `champion` is the model the candidate was compared with, None in round
    0; `state` is the state after the round, whose plan is the next round's."""
    parts = [
        [
            f"# Round {record.round}: {record.verdict}",
            "",
            f"**{_text(record.why)}**",
            "",
            _course(state),
        ],
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
    if state.stop is None:
        return f"The campaign goes on with round {state.next_round}. Best model: round {state.champion_round}."
    return f"The campaign ends ({state.stop}): {STOP_SENTENCES[state.stop]}. Best model: round {state.champion_round}."


def _scores(
    record: RoundRecord, goal: Goal, candidate: Scores, champion: Scores | None
) -> list[str]:
    where = goal.slice or "all"
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
    return [*lines, "", f"Goal: {goal.threshold:.4f} over {_text(where)}."]


def _gate(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return []
    test = (
        "Exact one-sided McNemar" if comparison.graded is None else "Paired bootstrap over families"
    )
    power = comparison.power.replace("are enough to show", "would have shown")
    return ["## Gate", "", f"{test}: {comparison.in_words}. {power[:1].upper()}{power[1:]}."]


def _alarms(alarms: Sequence[Alarm]) -> list[str]:
    if not alarms:
        return []
    return [
        "## Alarms",
        "",
        *(f"- {'**blocks**' if one.blocks else 'warning'}: {_text(one.why)}" for one in alarms),
    ]


def _slices(candidate: Scores, champion: Scores | None) -> list[str]:
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
        before = (
            f"{champion.accuracy(name):.4f}"
            if champion is not None and name in champion.counts
            else ""
        )
        lines.append(
            f"| {_text(name)} | {candidate.counts[name][1]} | {_share(candidate, name)} | {before} |"
        )
    return lines


def _samples(record: RoundRecord) -> list[str]:
    if not record.generated:
        return []
    level = f" at level {record.level}" if record.level else ""
    lines = ["## Samples", "", f"{record.accepted} of {record.generated} samples{level} accepted."]
    if record.dropped:
        lines += ["", "| dropped because | samples |", "|---|---|"]
        lines += [f"| {_text(reason)} | {count} |" for reason, count in _by_count(record.dropped)]
    if "too_hard" in record.measures:
        helped, generated, waiting = (
            record.measures[name] for name in ("hinted_accepted", "hinted", "too_hard")
        )
        lines += [
            "",
            f"With a hint, {helped:g} of {generated:g} more were accepted; {waiting:g} prompts wait for one.",
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
    for one in record.causes:
        said, predicted = _text(one.evidence), _text(one.predicted or "")
        lines.append(
            f"| {one.name} | {one.confidence:.2f} | {said} | {one.change or 'none'} | {predicted} |"
        )
    return lines


def _plan(used: Plan, following: Plan) -> list[str]:
    lines = ["## Plan", "", "| setting | this round | next round |", "|---|---|---|"]
    for name in (*CHANGEABLE_SETTINGS, "level"):
        values = getattr(used, name), getattr(following, name)
        now, then = (setting_text(name, value) for value in values)
        if values != (None, None):
            lines.append(f"| {name} | {now} | {f'**{then}**' if then != now else then} |")
    return lines


def _history(history: Iterable[RoundRecord]) -> list[str]:
    lines = [
        "## So far",
        "",
        "| round | verdict | goal | all | accepted | level |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {one.round} | {one.verdict} | {one.accuracy:.4f} | {one.overall:.4f} | {one.accepted} | {one.level or ''} |"
        for one in history
    ]


def _share(scores: Scores | None, name: str) -> str:
    if scores is None or name not in scores.counts:
        return ""
    low, high = scores.interval(name)
    return f"{scores.accuracy(name):.4f} [{low:.4f}, {high:.4f}]"


def _by_count(dropped: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(dropped.items(), key=lambda item: (-item[1], item[0]))


def _natural(name: str) -> tuple[str, float, str]:
    """Slices by tag, numbers by size: length=9 before length=10."""
    tag, _, value = name.partition("=")
    return tag, float(value) if value.isascii() and value.isdigit() else 0.0, value


def _text(text: str) -> str:
    """Text that cannot break a table or bring markup of its own."""
    for character in "\\|<>[]`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
