"""The end of a campaign, and the time that it has taken."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from components.contracts.recipe import DecideSection
from components.contracts.state import State, StopReason
from components.errors import Corrupt
from components.measures import measure_of
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.storage import keys

# The plan after the first may mend its cause; after the second it has not.
MAX_BLOCKED = 2
"""Rounds in a row that alarms rejected, after which the campaign ends."""


def stop_reason(
    section: DecideSection, state: State, reached: float, minutes: Callable[[], float]
) -> StopReason | None:
    """Return the first reason to end the campaign after this round, or None to go on.

    Args:
        section: Goal, budget, rounds and patience.
        state: State after the round.
        reached: The champion's value of the goal's metric on validation, over its slice.
        minutes: Returns the minutes that the campaign has taken.
    """
    if measure_of(section.goal.metric).reaches(reached, section.goal.threshold):
        return "target"
    tokens = sum(record.tokens_generated + record.tokens_trained for record in state.history)
    if section.budget.tokens is not None and tokens >= section.budget.tokens:
        return "budget"
    # A call, because it reads a record of every attempt from the store.
    if section.budget.minutes is not None and minutes() >= section.budget.minutes:
        return "budget"
    if state.next_round > section.max_rounds:
        return "max_rounds"
    last_rounds = state.history[-MAX_BLOCKED:]
    if len(last_rounds) == MAX_BLOCKED and all(record.blocked for record in last_rounds):
        return "alarm"
    if _is_at_its_end(state):
        return "weak"
    if state.rounds_without_gain >= section.patience:
        return "patience"
    return None


def _is_at_its_end(state: State) -> bool:
    """Return True if the last round was weak and the next one would be sampled in the same way."""
    last = state.history[-1]
    # Prompts that wait for a hint are asked in another way next time.
    num_waiting = last.measures.get("too_hard", 0.0)
    return last.weak and state.plan == last.plan and not num_waiting


def minutes_spent(context: Context, run_id: str) -> float:
    """Return the minutes of all attempts of a run, failed ones too."""
    seconds = 0.0
    for key in context.store.list(keys.attempts_prefix(run_id)):
        attempt = _attempt(context, key)
        if attempt is not None:
            seconds += attempt.seconds
    return seconds / 60.0


def _attempt(context: Context, key: str) -> Attempt | None:
    # Attempts are records for people: a broken one must not end a campaign.
    try:
        return Attempt.from_bytes(context.store.get_bytes(key))
    except (ValidationError, Corrupt):
        context.progress.note(
            f"{key} is not an attempt record, or a changed one; its time is not counted"
        )
        return None
