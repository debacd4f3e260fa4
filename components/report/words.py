"""A run in words, for the report and the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from components.contracts.state import STOP_SENTENCES, ModelRecord, RoundRecord, State
from components.contracts.summaries import StartSummary
from components.errors import Corrupt, OlderReceipt
from components.measures import measure_of
from components.report.views import RunView
from components.runtime.receipts import read_summary

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def headline(view: RunView) -> str:
    """Return the outcome in one or two sentences."""
    history = view.state.history if view.state else ()
    champion = view.champion
    if view.state is None or not history or champion is None:
        return _headline_without_rounds(view)
    target = "Target met" if view.target_met else "Target not met"
    goal = ""
    # The recipe may be unreadable although the history is not.
    if view.recipe:
        threshold = view.recipe.decide.goal.threshold
        goal = f" (goal {measure_of(champion.metric).text(threshold)})"
    ending = ""
    if view.state and view.state.stop:
        ending += f" The run ended because {STOP_SENTENCES[view.state.stop]}."
    if view.failed:
        last_failed = view.failed[-1]
        ending += f" {last_failed.name} failed."
    elif view.waits_for_approval:
        ending += " The champion waits for approval."
    elif view.publication is not None and not view.publication.released:
        ending += f" Nothing was released: {view.publication.why}."
    if not ending:
        ending = " The run is not finished."
    course = _course(view.state, champion, goal)
    return f"{target}: {course}.{_weak_rounds(history)}{_on_test(view)}{ending}"


def _weak_rounds(history: Sequence[RoundRecord]) -> str:
    """Return a sentence on the rounds that trained nothing; empty if there is none."""
    weak = [str(record.round) for record in history if record.weak]
    if not weak:
        return ""
    rounds = (
        f"rounds {', '.join(weak[:-1])} and {weak[-1]}"
        if len(weak) > 1
        else f"round {weak[0]}"
    )
    return f" In {rounds} too few samples were accepted, so no candidate was trained."


def _on_test(view: RunView) -> str:
    """Return the champion's result on the test split as a sentence; empty if it cannot be read."""
    evaluation = view.champion_evaluation
    if evaluation is None or view.recipe is None:
        return ""
    goal = view.recipe.decide.goal
    estimate = evaluation.measured.get("test", {}).get(goal.slice)
    if estimate is None:
        return ""
    measure = measure_of(evaluation.metric)
    low, high = measure.text(estimate.low), measure.text(estimate.high)
    # The champion was chosen by its validation score, which overstates what it can (2610.09239).
    sentence = (
        f" On the test split, which decided nothing, {measure.name} is "
        f"{measure.text(estimate.value)} (95 % interval {low} to {high})"
    )
    if view.target_met:
        worst = estimate.low if measure.higher_is_better else estimate.high
        proved = "is" if measure.reaches(worst, goal.threshold) else "is not"
        sentence += f": the goal {proved} proved there"
    return f"{sentence}."


def _headline_without_rounds(view: RunView) -> str:
    if view.failed:
        return (
            f"The run failed in {view.failed[-1].name} before any round was finished."
        )
    return (
        "No round is finished yet."
        if view.tasks
        else "No task of this run has left a record."
    )


def _course(state: State, champion: ModelRecord, goal: str) -> str:
    """Return how the measure went on validation from the base to the champion.

    Args:
        state: The newest state, with a round in its history.
        champion: The champion's scores.
        goal: Remark on the goal, put behind the score.
    """
    assert state.base is not None, "the base was the first champion"
    measure = measure_of(champion.metric)
    base = measure.text(state.base.score)
    score = measure.text(champion.score)
    last = state.history[-1]
    if state.champion_round is None:
        return (
            f"validation {measure.name} stayed at the base model's {base}{goal}; "
            f"no round up to {last.round} was proved better"
        )
    steps = [base]
    supervised = state.history[0]
    # Base → supervised → champion: what the labelled rows gave, and what the model taught itself.
    if (
        supervised.round == 0
        and supervised.verdict == "promoted"
        and state.champion_round
    ):
        steps.append(f"{measure.text(supervised.score)} after round 0")
    course = " over ".join(steps)
    return (
        f"validation {measure.name} went from the base model's {course} to {score}{goal}; "
        f"the champion is round {state.champion_round} of {last.round}"
    )


def data_sentences(view: RunView) -> list[str]:
    """Return rows per split, rejected rows by reason, the teacher, and the gain that the data can
    prove."""
    start = start_of(view)
    if start is None:
        return []
    rows = [f"{name} {count:,}" for name, count in start.counts.items() if count]
    sentences = [f"rows: {', '.join(rows)}"] if rows else []
    if start.rejected:
        rejected = [f"{reason} {count:,}" for reason, count in start.rejected.items()]
        sentences.append(f"rejected rows: {', '.join(rejected)}")
    if start.teacher is not None:
        teacher = start.teacher
        sentences.append(
            f"answers are written by a teacher, {teacher.source} ({teacher.parameters:,} parameters; "
            f"the model has {start.parameters:,})"
        )
    if start.smallest_gain is not None:
        points = 100 * start.smallest_gain
        sentences.append(
            f"smallest gain that validation can prove: {points:.1f} points"
        )
    return sentences


def start_of(view: RunView) -> StartSummary | None:
    """Return the summary of what prepare made of the data; None as long as there is none."""
    if view.state is None:
        return None
    # The start's own state names no start: its receipt is the one that holds it.
    receipt = view.receipts.get(view.state.start or view.state_ref)
    if receipt is None:
        return None
    try:
        return read_summary(receipt, StartSummary)
    except (Corrupt, OlderReceipt):
        # It is among the problems of the view already.
        return None


def outcome(view: RunView) -> tuple[str, str]:
    """Return (CSS class, words) of the label beside the run's name."""
    if view.failed:
        return "bad", "failed"
    if view.waits_for_approval:
        return "warn", "waiting for approval"
    if view.target_met:
        return "good", "target met"
    # A model may be published although the goal was not reached: the best one there is.
    has_ended = view.state is not None and view.state.stop is not None
    if view.status == "published" or has_ended:
        return "warn", "target not met"
    return "soft", "not finished" if view.tasks else "unknown"


def seconds_text(seconds: float) -> str:
    """Return a duration as `4.2 s`, `3 min 10 s` or `2 h 05 min`."""
    # Below 100 a fraction is worth reading.
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remaining_seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def cut(text: object, length: int = 200) -> str:
    """Return text from data, fit to be shown: at most `length` characters, all visible."""
    # Control characters could reorder or hide text of the page or the terminal.
    visible = _INVISIBLE.sub("\ufffd", str(text))
    if len(visible) <= length:
        return visible
    return visible[: length - 1] + "…"
