"""Costs of each kind of task of a recipe on one machine, as a trial or an earlier run showed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.contracts.recipe import Recipe

GROWTH = 4
"""Factor from a part of a measurement to the next one."""
FIRST_UNITS = 16
"""Prompts, or rows of a step, of the first part of a measurement."""
SHORT_SECONDS = 0.5
"""A part that takes less is measured twice."""


class Frozen(BaseModel):
    """Base: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cost(Frozen):
    """Cost of some work."""

    seconds: float = 0.0
    """Wall time; of shards side by side the longest counts."""
    tokens_trained: float = 0.0
    tokens_sampled: float = 0.0
    tokens_bought: float = 0.0
    """Those of the sampled tokens that an endpoint sells."""
    stored_bytes: float = 0.0
    """Bytes that the work adds to the store."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds,
            tokens_trained=self.tokens_trained + other.tokens_trained,
            tokens_sampled=self.tokens_sampled + other.tokens_sampled,
            tokens_bought=self.tokens_bought + other.tokens_bought,
            stored_bytes=self.stored_bytes + other.stored_bytes,
        )

    def times(self, factor: float) -> Cost:
        """Return the cost of `factor` times as much work."""
        return Cost(
            seconds=self.seconds * factor,
            tokens_trained=self.tokens_trained * factor,
            tokens_sampled=self.tokens_sampled * factor,
            tokens_bought=self.tokens_bought * factor,
            stored_bytes=self.stored_bytes * factor,
        )


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of costs."""
    return sum(costs, Cost())


def mean(costs: Sequence[Cost]) -> Cost:
    """Return the mean of costs; nothing of none."""
    return total(costs).times(1 / len(costs)) if costs else Cost()


class Rate(Frozen):
    """Cost of a task: a part that it always has, and a part for each unit of its work."""

    fixed: Cost = Cost()
    unit: Cost = Cost()

    def cost_of(self, num_units: float) -> Cost:
        """Return the cost of a task with so many units."""
        return self.fixed + self.unit.times(num_units)


class Part(Frozen):
    """A measured part of a task's work."""

    num_units: int
    cost: Cost


def rate_through(smaller: Part | None, larger: Part) -> Rate:
    """Return the rate by which two measured parts of one task grow.

    Args:
        smaller: Part with fewer units; None: nothing is known to be fixed.
        larger: Part with more units, whose cost the rate gives exactly.
    """
    num_units = max(1, larger.num_units)
    unit = larger.cost.times(1 / num_units)
    if smaller is None or smaller.num_units >= larger.num_units:
        return Rate(unit=unit)
    growth = larger.cost.seconds - smaller.cost.seconds
    unit_seconds = growth / (larger.num_units - smaller.num_units)
    # Noise of a short measurement may make the smaller part the slower one.
    unit_seconds = min(max(unit_seconds, 0.0), unit.seconds)
    fixed_seconds = larger.cost.seconds - unit_seconds * num_units
    return Rate(
        fixed=Cost(seconds=fixed_seconds),
        unit=unit.model_copy(update={"seconds": unit_seconds}),
    )


def measured_rate(
    measure: Callable[[int], Part], num_units: int, seconds: float
) -> Rate:
    """Return the rate of a task, from parts of it that grow until they take about `seconds`.

    Args:
        measure: Does a part of so many units.
        num_units: Units of the whole task.
        seconds: Time of the largest part, about.
    """
    size = min(FIRST_UNITS, num_units)
    smaller = None
    part = _undisturbed(measure, size)
    # Two parts at least: of a single short one nobody knows how much is fixed.
    while (
        size < num_units and part.cost.seconds * (GROWTH if smaller else 1) <= seconds
    ):
        smaller = part
        size = min(num_units, size * GROWTH)
        part = _undisturbed(measure, size)
    # The whole task, measured, needs no line through two parts of it.
    return rate_through(smaller if size < num_units else None, part)


def _undisturbed(measure: Callable[[int], Part], size: int) -> Part:
    """Return a part; of a short one, which any other process disturbs, the faster of two."""
    part = measure(size)
    if part.cost.seconds > SHORT_SECONDS:
        return part
    return min(part, measure(size), key=lambda tried: tried.cost.seconds)


class Calibration(Frozen):
    """Costs of the tasks of a recipe."""

    source: Literal["trial", "earlier run"]
    run_id: str = ""
    """The earlier run; empty for a trial."""
    uncertainty: float
    """Share by which a total may be wrong, 0 to 1."""
    cores: int
    gpus: int
    start: Cost
    """Start of a run on this machine: imports that are done once."""
    prepare: Cost
    evaluate_base: Cost
    evaluate: Cost
    """One candidate."""
    first_training: Rate
    """Round 0, by optimizer step."""
    round_training: Rate
    """A later round, by optimizer step."""
    generate: Rate
    """All shards of a round, by sample."""
    select: Rate
    """By sample."""
    decide: Cost
    publish: Cost
    num_samples: int
    """Samples of a round, those of audit prompts among them."""
    gaps: tuple[str, ...] = ()
    """Sentences: parts of the recipe whose cost is not in these numbers."""


class Trial(Frozen):
    """A recipe to try out, in a store that is thrown away."""

    recipe: Recipe
    rounds: int
    """Rounds that are unrolled after round 0."""
    store: str
    """URI."""
    folder: Path
    """Folder that the trial's processes share."""


def num_gpus() -> int:
    """Return the GPUs of this machine, by their device files: nobody here may start CUDA."""
    names = [path.name for path in Path("/dev").glob("nvidia*")]
    return sum(name.removeprefix("nvidia").isdigit() for name in names)
