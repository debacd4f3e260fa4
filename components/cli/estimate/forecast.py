"""The cost of a whole campaign: a recipe's amounts of work at calibrated rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.cli.estimate.calibration import Calibration, Cost, total
from components.contracts.recipe import Recipe
from components.errors import UserError

TASK_GAP_SECONDS = 0.15
"""On this machine kfp.local needs so long from the end of a task to the begin of the next one
(measured on 2 cores)."""
PRICED = {
    "machine-hour": "an hour of the machine",
    "core-hour": "an hour of one core",
    "gpu-hour": "an hour of one GPU",
    "million-tokens": "a million tokens of answers of `generate.endpoint`",
}
"""Name in a price table → what is paid for."""


@dataclass(frozen=True)
class Line:
    """One task of the graph."""

    task: str
    cost: Cost


@dataclass(frozen=True)
class Forecast:
    """What a campaign costs, by task."""

    before: tuple[Line, ...]
    """Tasks up to the first decision of round 0."""
    each_round: tuple[Line, ...]
    """Tasks of one later round."""
    after: tuple[Line, ...]
    num_rounds: int
    """Rounds after round 0, at most."""

    def cost_of(self, num_rounds: int) -> Cost:
        """Return the cost of a campaign that ends after so many rounds after round 0."""
        of_round = total([line.cost for line in self.each_round])
        once = total([line.cost for line in (*self.before, *self.after)])
        return once + of_round.times(num_rounds)

    @property
    def least(self) -> Cost:
        """The cost of a campaign that reaches its goal in its first round after round 0."""
        return self.cost_of(min(1, self.num_rounds))

    @property
    def most(self) -> Cost:
        """The cost of a campaign that takes all of its rounds."""
        return self.cost_of(self.num_rounds)


def forecast(recipe: Recipe, calibration: Calibration, rounds: int) -> Forecast:
    """Return what a campaign costs.

    Args:
        recipe: The recipe.
        calibration: Costs of its tasks.
        rounds: Rounds that are unrolled; `decide.max_rounds` may be fewer.
    """
    train = recipe.train
    before = [
        Line("start", calibration.start),
        Line("prepare", calibration.prepare),
        Line("evaluate-base", calibration.evaluate_base),
        Line("first-champion", Cost()),
    ]
    if train.has_supervised_stage:
        num_steps = train.first.steps + (train.pretrain.steps if train.pretrain else 0)
        before += [
            Line("train-r0", calibration.first_training.cost_of(num_steps)),
            Line("evaluate-r0", calibration.evaluate),
            Line("decide-r0", calibration.decide),
        ]
    each_round = [
        Line("generate", calibration.generate.cost_of(calibration.num_samples)),
        Line("select", calibration.select.cost_of(calibration.num_samples)),
        Line("train", calibration.round_training.cost_of(train.rounds.steps)),
        Line("evaluate", calibration.evaluate),
        Line("decide", calibration.decide),
    ]
    return Forecast(
        before=tuple(_with_gap(line) for line in before),
        each_round=tuple(_with_gap(line) for line in each_round),
        after=(
            _with_gap(Line("publish", calibration.publish)),
            _with_gap(Line("report", Cost())),
        ),
        num_rounds=min(rounds, recipe.decide.max_rounds),
    )


def _with_gap(line: Line) -> Line:
    return Line(line.task, line.cost + Cost(seconds=TASK_GAP_SECONDS))


def price_table(prices: tuple[str, ...]) -> dict[str, float]:
    """Return name → price of `NAME=AMOUNT` texts. Raises UserError for a name or amount that is none."""
    table = {}
    for text in prices:
        name, _, amount_text = text.partition("=")
        if name not in PRICED:
            raise UserError(
                f"--price {text}: use NAME=AMOUNT with one of {', '.join(PRICED)}"
            )
        try:
            amount = float(amount_text)
        except ValueError:
            amount = math.nan
        if not 0 <= amount < math.inf:
            raise UserError(
                f"--price {text}: {amount_text or 'nothing'!r} is no price; use {name}=2.5"
            )
        table[name] = amount
    return table


def money_of(
    cost: Cost, calibration: Calibration, prices: Mapping[str, float]
) -> float:
    """Return the price of a cost by a table of `price_table`."""
    hours = cost.seconds / 3600
    amounts = {
        "machine-hour": hours,
        "core-hour": hours * calibration.cores,
        "gpu-hour": hours * calibration.gpus,
        "million-tokens": cost.tokens_bought / 1e6,
    }
    return sum(price * amounts[name] for name, price in prices.items())


def rounds_within(recipe: Recipe, plan: Forecast) -> int | None:
    """Return the rounds after round 0 that are done when `decide.budget` ends the campaign.

    A round is begun if the one before it would fit once more. None without a budget, or if all
    rounds are within it.
    """
    budget = recipe.decide.budget
    once = [line for line in plan.before if line.task != "start"]
    first_round = [line for line in once if line.task.endswith("-r0")]
    # Without a first stage nothing is decided before round 1 has ended.
    for number in range(0 if first_round else 1, plan.num_rounds):
        last_round = plan.each_round if number else first_round
        next_seconds = (
            _seconds(once) + number * _seconds(plan.each_round) + _seconds(last_round)
        )
        next_tokens = (
            _tokens(once) + number * _tokens(plan.each_round) + _tokens(last_round)
        )
        if budget.minutes is not None and next_seconds > 60 * budget.minutes:
            return number
        if budget.tokens is not None and next_tokens > budget.tokens:
            return number
    return None


def _seconds(lines: Sequence[Line]) -> float:
    return sum(line.cost.seconds for line in lines)


def _tokens(lines: Sequence[Line]) -> float:
    """Return the tokens that `decide.budget.tokens` counts: none of evaluations."""
    return sum(
        line.cost.tokens_trained + line.cost.tokens_sampled
        for line in lines
        if not line.task.startswith("evaluate")
    )
