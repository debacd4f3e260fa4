"""The plan of the next round: bounded turns of a few knobs, and the rung of the ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from components.common.recipe import Ladder, LoraSection, LoraStructure, Recipe
from components.common.state import Cause, Plan, RoundRecord, Verdict, base_plan
from components.decide.gate import Scores

Turn = Literal[
    "learning_rate_down", "learning_rate_up", "steps_up", "steps_down", "temperature_up", "temperature_down",
    "weight_decay_up", "human_share_up", "samples_up", "structure_up",
]  # fmt: skip
"""What reflection may ask for. Each is one bounded step of one knob."""

MAX_TURNS = 2
"""Knobs turned per round: of more, nobody could say which one helped."""
MIN_CONFIDENCE = 0.5
"""Causes below this are reported and change nothing."""
TAKEN_BACK = "change_taken_back"

KNOBS = ("learning_rate", "steps", "weight_decay", "temperature", "samples_per_prompt", "human_share", "lora")
Knob = float | LoraStructure | None


@dataclass(frozen=True)
class Finding:
    """A cause before it is decided whether it changes the plan."""

    name: str
    evidence: str
    confidence: float
    turn: Turn | None
    predicted: str


def next_plan(
    recipe: Recipe, current: Plan, findings: Sequence[Finding], takes_back: Finding | None, before: Plan
) -> tuple[Plan, tuple[Cause, ...]]:
    """Turn at most two knobs of `current`, most confident causes first, and say of every cause what it changed.

    A change that is taken back (to what `before` had) goes first, and its knobs are not turned again this round.
    """
    plan, causes, touched = current, list[Cause](), set[str]()
    changed: dict[str, Knob]
    if takes_back is not None:
        changed = {name: getattr(before, name) for name in KNOBS if getattr(before, name) != getattr(current, name)}
        plan, touched = current.model_copy(update=changed), set(changed)
        causes.append(_cause(takes_back, current, changed))
    for finding in sorted(findings, key=lambda one: (-one.confidence, one.name)):
        changed = {}
        if finding.turn is not None and finding.confidence >= MIN_CONFIDENCE and len(touched) < MAX_TURNS:
            knob, value = turned(plan, recipe, finding.turn)
            if knob not in touched and value != getattr(plan, knob):
                changed = {knob: value}
        causes.append(_cause(finding, plan, changed))
        plan = plan.model_copy(update=changed)
        touched |= set(changed)
    return plan, tuple(causes)


def turned(plan: Plan, recipe: Recipe, turn: Turn) -> tuple[str, Knob]:
    """The knob that a turn is about and its new value, unchanged where the knob is at its bound.

    Bounds are relative to the recipe: learning rate 0.1 to 4 times, steps a quarter to 4 times, weight decay up to 16
    times (0.1 where the recipe has less); temperature 0.1 to 1.5, human share up to 0.9, samples up to 64. The bounds
    of the trained structure are in the recipe; nothing makes it smaller but that growth which did harm is taken back.
    """
    base = base_plan(recipe)
    match turn:
        case "learning_rate_down":
            return "learning_rate", _down(plan.learning_rate, plan.learning_rate * 0.5, base.learning_rate * 0.1)
        case "learning_rate_up":
            return "learning_rate", _up(plan.learning_rate, plan.learning_rate * 2, min(1.0, base.learning_rate * 4))
        case "steps_down":
            return "steps", int(_down(plan.steps, round(plan.steps * 0.67), max(1, base.steps // 4)))
        case "steps_up":
            return "steps", int(_up(plan.steps, round(plan.steps * 1.5), base.steps * 4))
        case "temperature_down":
            # Greedy in the recipe is on purpose; only a lack of diversity, which asks for more, moves it.
            low = plan.temperature if base.temperature == 0.0 else 0.1
            return "temperature", _down(plan.temperature, round(plan.temperature - 0.2, 6), low)
        case "temperature_up":
            return "temperature", _up(plan.temperature, round(plan.temperature + 0.2, 6), 1.5)
        case "weight_decay_up":
            high = max(0.1, base.weight_decay * 16)
            return "weight_decay", _up(plan.weight_decay, max(0.01, plan.weight_decay * 2), high)
        case "human_share_up":
            return "human_share", _up(plan.human_share, round(plan.human_share + 0.1, 6), 0.9)
        case "samples_up":
            return "samples_per_prompt", int(_up(plan.samples_per_prompt, plan.samples_per_prompt * 2, 64))
        case "structure_up":
            return "lora", _grown(plan.lora, recipe.train.lora)


def change_to_take_back(
    previous: RoundRecord | None, before: Plan, current: Plan, verdict: Verdict, overall: float
) -> Finding | None:
    """Whether the last round's change did harm: the candidate was not promoted and worse than the one before it.

    Not asked twice in a row, or a knob would swing to and fro.
    """
    changed = [name for name in KNOBS if getattr(before, name) != getattr(current, name)]
    if verdict != "kept" or previous is None or overall >= previous.overall or not changed:
        return None
    if any(cause.name == TAKEN_BACK for cause in previous.causes):
        return None
    return Finding(
        TAKEN_BACK,
        f"after {', '.join(changed)} changed, validation accuracy went from {previous.overall:.4f} to {overall:.4f} "
        "and the candidate was not promoted",
        0.9, None, "accuracy back at what it was before",
    )  # fmt: skip


def ladder_of(recipe: Recipe) -> Ladder | None:
    """The difficulty ladder of the campaign: that of the first task that has one."""
    return next((task.ladder for task in recipe.data.tasks if task.ladder is not None), None)


def next_level(recipe: Recipe, round_number: int, level: int, champion: Scores) -> int:
    """The length the next samples are drawn at: one more once the champion has mastered this one (2502.01612).

    It begins at the first length beyond the labelled ones and never leaves the ladder. Going on without mastery ends in
    an avalanche of errors, so a candidate that was not promoted does not count.
    """
    ladder = ladder_of(recipe)
    if ladder is None:
        return 0
    first, last = ladder.climb
    if round_number == 0:
        return first
    mastered = champion.accuracy(f"length={level}") >= ladder.mastery
    return min(last, max(first, level + mastered))


def _up(value: float, wanted: float, high: float) -> float:
    """`wanted`, but not beyond `high`; a value already beyond it stays."""
    return max(value, min(wanted, high))


def _down(value: float, wanted: float, low: float) -> float:
    return min(value, max(wanted, low))


def _grown(structure: LoraStructure | None, bounds: LoraSection | None) -> LoraStructure | None:
    """Twice the rank; at the highest rank, twice the layers that are trained in full, one at first."""
    if structure is None or bounds is None:
        return structure
    if structure.rank < bounds.max_rank:
        return structure.model_copy(update={"rank": min(2 * structure.rank, bounds.max_rank)})
    layers = int(_up(structure.unfrozen_layers, max(1, 2 * structure.unfrozen_layers), bounds.max_unfrozen_layers))
    return structure.model_copy(update={"unfrozen_layers": layers})


def knob_text(value: Knob) -> str:
    """A knob's value as a person would write it."""
    if value is None:
        return "none"
    return str(value) if isinstance(value, LoraStructure) else f"{value:g}"


def _cause(finding: Finding, plan: Plan, changed: Mapping[str, Knob]) -> Cause:
    turns = [f"{knob} {knob_text(getattr(plan, knob))} → {knob_text(value)}" for knob, value in changed.items()]
    return Cause(
        name=finding.name, evidence=finding.evidence, confidence=round(finding.confidence, 3),
        change=", ".join(turns), predicted=finding.predicted,
    )  # fmt: skip
