"""Simulated campaigns whose plan is steered by results, with changes that truly do nothing.

A change of the plan makes other prompts right and wrong, in equal numbers on average, and the same
ones in every round that it stays in. `review` keeps a change after which accuracy did not fall, and
takes others back. Where it reads the prompts that the gate decides on, luck on these prompts is
chosen until the gate takes it for a gain; so it reads dev prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from components.contracts.state import Cause, Plan, RoundRecord
from components.contracts.summaries.evaluate import Estimate
from components.decide.alpha_account import opened
from components.decide.reflection.plan import TAKEN_BACK, review
from components.measures import Scores, measure_of
from components.statistics import binomial_upper, wilson_interval
from tests.benchmarks.gate_rounds import PROMPTS, ROUNDS, SECTION, judged

ADAPTIVE_CAMPAIGNS = 10_000
ACCURACY = 0.6
PERSISTENT = (0.02, 0.05)
"""Shares of the prompts that a change makes another answer to, in every round that it stays in."""
FRESH = 0.02
"""Share of the prompts whose answer differs by the seed of a training alone."""
STAYS = 0.9
"""Chance that such an answer differs in a given round too."""


class Counts(NamedTuple):
    """Prompts of one split that only the candidate, and only the champion, is right on."""

    wins: int
    losses: int

    @property
    def accuracy(self) -> float:
        """The candidate's."""
        return ACCURACY + (self.wins - self.losses) / PROMPTS


def counts_of_change(dice: np.random.Generator, persistent: float) -> Counts:
    """Return what a change that does nothing happens to do on one split."""
    wins, losses = dice.binomial(PROMPTS, persistent / 2, 2).tolist()
    return Counts(wins, losses)


def counts_of_round(dice: np.random.Generator, changes: Sequence[Counts]) -> Counts:
    """Return what a round with these changes shows on the same split."""
    fresh = dice.binomial(PROMPTS, FRESH / 2, 2)
    stay = (
        dice.binomial(np.sum(changes, axis=0, dtype=np.int64), STAYS) if changes else 0
    )
    wins, losses = (stay + fresh).tolist()
    return Counts(wins, losses)


def plan_of(change: int) -> Plan:
    """Return a plan that differs from that of any other change in one setting."""
    return Plan(
        learning_rate=0.001,
        steps=100 + change,
        weight_decay=0.0,
        temperature=0.7,
        samples_per_prompt=4,
        labelled_share=0.5,
        level=0,
    )


def rejected_round(
    plan: Plan, accuracy: float, causes: tuple[Cause, ...]
) -> RoundRecord:
    """Return the record of a round whose changes were reviewed by this accuracy."""
    return RoundRecord(
        round=0,
        verdict="rejected",
        why="",
        plan=plan,
        score=accuracy,
        interval=(0.0, 1.0),
        overall=accuracy,
        test_score=accuracy,
        dev_score=accuracy,
        causes=causes,
    )


def promotes(
    dice: np.random.Generator, persistent: float, *, by_validation: bool
) -> bool:
    """Return whether a campaign of changes that do nothing ever promotes.

    Args:
        dice: Source of randomness.
        persistent: Share of the prompts that a change makes another answer to.
        by_validation: Whether changes are reviewed by the prompts that the gate decides on.
    """
    account = opened(None, SECTION)
    # What the changes of the plan do on (validation, dev); the last one is on trial.
    changes: list[tuple[Counts, Counts]] = []
    previous_plan = plan = plan_of(0)
    record: RoundRecord | None = None
    for number in range(ROUNDS + 1):
        validation = counts_of_round(
            dice, [on_validation for on_validation, _ in changes]
        )
        dev = counts_of_round(dice, [on_dev for _, on_dev in changes])
        account, promoted = judged(
            account, number, ROUNDS, 0, validation.wins, validation.losses
        )
        if promoted:
            return True
        accuracy = (validation if by_validation else dev).accuracy
        low, high = wilson_interval(round(accuracy * PROMPTS), PROMPTS)
        estimate = Estimate(value=accuracy, low=low, high=high, n=PROMPTS)
        scores = Scores(measure_of("accuracy"), {"": estimate})
        reviewed = review(record, previous_plan, plan, "rejected", scores, {})
        causes: tuple[Cause, ...] = ()
        if reviewed is not None and reviewed.name == TAKEN_BACK:
            changes.pop()
            causes = (Cause(name=TAKEN_BACK, evidence="", priority=1.0, change=None),)
        record = rejected_round(plan, accuracy, causes)
        # What seemed to help stays, and another change is tried beside it.
        changes.append(
            (counts_of_change(dice, persistent), counts_of_change(dice, persistent))
        )
        previous_plan, plan = plan, plan_of(number + 1)
    return False


def adaptive_figures(dice: np.random.Generator) -> dict[str, tuple[float, str, str]]:
    """Name → (value, bound, note)."""
    uppers: dict[float, float] = {}
    shares: dict[str, float] = {}
    for persistent in PERSISTENT:
        for by_validation in (False, True):
            fooled = sum(
                promotes(dice, persistent, by_validation=by_validation)
                for _ in range(ADAPTIVE_CAMPAIGNS)
            )
            split = "validation" if by_validation else "dev"
            name = f"{persistent:.0%} of the prompts, steered by {split}"
            shares[name] = fooled / ADAPTIVE_CAMPAIGNS
            print(f"{name}: {shares[name]:.4f} of campaigns promote falsely")
            if not by_validation:
                uppers[persistent] = binomial_upper(fooled, ADAPTIVE_CAMPAIGNS)
    told = ", ".join(f"{name}: {share:.4f}" for name, share in shares.items())
    return {
        "gate.adaptive_false_promotion": (
            max(uppers.values()),
            "≤ 0.05",
            "exact 95 % upper bound of the share of campaigns that promote, changes that do nothing "
            f"on average and the same in every round; steered by dev prompts, as the product is; "
            f"{told}",
        )
    }
