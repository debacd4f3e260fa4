"""The end of a campaign, and the time that it has taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pydantic import ValidationError

from components.contracts.recipe import DecideSection
from components.contracts.recipe.decide import Budget
from components.contracts.state import State, StopReason
from components.errors import Corrupt
from components.measures import measure_of
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.storage import keys

# The plan after the first may mend its cause; after the second it has not.
MAX_BLOCKED = 2
"""Rounds in a row that alarms rejected, after which the campaign ends."""


class Minutes(NamedTuple):
    """Time of the attempts of a run, failed ones too."""

    spent: float
    last_round: float
    """Of the newest round alone."""


def stop_reason(
    section: DecideSection, state: State, reached: float, minutes: Callable[[], Minutes]
) -> StopReason | None:
    """Return the first reason to end the campaign after this round, or None to go on.

    Args:
        section: Goal, budget, rounds and patience.
        state: State after the round.
        reached: The champion's value of the goal's metric on validation, over its slice.
        minutes: Returns the minutes that the run has taken up to this round.
    """
    if measure_of(section.goal.metric).reaches(reached, section.goal.threshold):
        return "target"
    if _is_spent(section.budget, state, minutes):
        return "budget"
    if state.next_round > section.max_rounds:
        return "max_rounds"
    last_rounds = state.history[-MAX_BLOCKED:]
    if len(last_rounds) == MAX_BLOCKED and all(
        record.blocked for record in last_rounds
    ):
        return "alarm"
    if _is_at_its_end(state):
        return "weak"
    if state.rounds_without_gain >= section.patience:
        return "patience"
    return None


def _is_spent(budget: Budget, state: State, minutes: Callable[[], Minutes]) -> bool:
    """Return True if a round as dear as the last one would go beyond the budget."""
    if budget.tokens is not None:
        tokens = [
            record.tokens_generated + record.tokens_trained for record in state.history
        ]
        if sum(tokens) + tokens[-1] > budget.tokens:
            return True
    if budget.minutes is not None:
        # A call, because it reads a record of every attempt from the store.
        spent, last_round = minutes()
        return spent + last_round > budget.minutes
    return False


def _is_at_its_end(state: State) -> bool:
    """Return True if the last round was weak and the next one would be sampled in the same way."""
    last = state.history[-1]
    # Prompts that wait for a hint are asked in another way next time.
    num_waiting = last.measures.get("too_hard", 0.0)
    return last.weak and state.plan == last.plan and not num_waiting


def minutes_spent(context: Context, run_id: str, round_number: int) -> Minutes:
    """Return the minutes of a run's attempts up to a round, that one included."""
    spent = 0.0
    last_round = 0.0
    for key in context.store.list(keys.attempts_prefix(run_id)):
        attempt = _attempt(context, key)
        if attempt is None or attempt.round > round_number:
            continue
        spent += attempt.seconds
        if attempt.round == round_number:
            last_round += attempt.seconds
    return Minutes(spent / 60.0, last_round / 60.0)


def _attempt(context: Context, key: str) -> Attempt | None:
    # Attempts are records for people: a broken one must not end a campaign.
    try:
        return Attempt.from_bytes(context.store.get_bytes(key))
    except (ValidationError, Corrupt):
        context.progress.note(
            f"{key} is not an attempt record, or a changed one; its time is not counted"
        )
        return None
