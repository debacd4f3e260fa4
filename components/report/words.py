"""A run in words, for the report and the command line."""

from __future__ import annotations

import re

from components.report.runs import RunView

STOPS = {
    "target": "the goal was reached",
    "patience": "no round was proved better any more",
    "max_rounds": "all rounds were used",
    "budget": "the budget was spent",
    "alarm": "two rounds in a row were rejected by alarms",
}

_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def headline(view: RunView) -> str:
    """The outcome in one or two sentences."""
    history, champion = (view.state.history if view.state else ()), view.champion
    if not history or champion is None:
        if view.failed:
            return f"The run failed in {view.failed[-1].name} before any round was finished."
        return (
            "No round is finished yet." if view.tasks else "No task of this run has left a record."
        )
    start, end = percent(history[0].accuracy), percent(champion.accuracy)
    goal = f" (goal {percent(view.recipe.decide.goal.threshold)})" if view.recipe else ""
    best = f"the champion is round {champion.round} of {history[-1].round}"
    later = (
        "; no later round was proved better than round 0" if history[-1].round else " after round 0"
    )
    path = (
        f"validation accuracy went from {start} to {end}{goal}; {best}"
        if champion.round
        else f"validation accuracy {'stayed at' if history[-1].round else 'is'} {end}{goal}{later}"
    )
    begin = "Target met" if view.target_met else "Target not met"
    stop = (
        f" The run ended because {STOPS[view.state.stop]}."
        if view.state and view.state.stop
        else ""
    )
    failed = f" {view.failed[-1].name} failed." if view.failed else ""
    open_end = "" if stop or failed else " The run is not finished."
    return f"{begin}: {path}.{stop}{failed}{open_end}"


def outcome(view: RunView) -> tuple[str, str]:
    """(css class, words) of the label beside the name."""
    if view.failed:
        return "bad", "failed"
    if view.target_met:
        return "good", "target met"
    if view.status == "published" or (view.state is not None and view.state.stop):
        return "warn", "target not met"
    return "soft", "not finished" if view.tasks else "unknown"


def percent(share: float | None, digits: int = 1) -> str:
    """`93.0 %`, and a dash for what was not measured."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def seconds_text(seconds: float) -> str:
    """`4.2 s`, `3 min 10 s`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def cut(text: object, length: int = 200) -> str:
    """Text from data, fit to be shown: bounded, and without the control characters that could
    reorder or hide it."""
    shown = _INVISIBLE.sub("\ufffd", str(text))
    return shown if len(shown) <= length else shown[: length - 1] + "…"
