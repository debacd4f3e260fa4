"""The plan of the next round: bounded changes of a few settings, a review of the last changes, and
the level of the difficulty ladder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from components.contracts.recipe import Ladder, LoraSection, LoraStructure, Recipe
from components.contracts.state import Cause, Plan, RoundRecord, Verdict, base_plan
from components.decide.gate import Scores

Change = Literal[
    "learning_rate_down",
    "learning_rate_up",
    "steps_up",
    "steps_down",
    "temperature_up",
    "temperature_down",
    "weight_decay_up",
    "labelled_share_up",
    "labelled_share_down",
    "samples_up",
    "structure_up",
    "vote_share_up",
    "answer_tokens_up",
    "noise_up",
]
"""Changes that reflection may ask for. Each is one bounded step of one setting."""

MAX_CHANGES = 2
"""Settings changed per round: with more, nobody could say which one helped."""
MIN_CONFIDENCE = 0.5
"""Causes below this are reported and change nothing."""
TAKEN_BACK = "change_taken_back"
CONFIRMED = "change_confirmed"
MOVED = 0.05
"""A measure has moved if it changed by more than this share of itself."""
LOSS_MOVED = 0.01
"""The same for the dev loss, which has less noise: it is taken over the same rows every time."""

CHANGEABLE_SETTINGS = (
    "learning_rate",
    "steps",
    "weight_decay",
    "temperature",
    "samples_per_prompt",
    "labelled_share",
    "lora",
    "min_vote_share",
    "max_new_tokens",
    "neftune_alpha",
)
SettingValue = float | LoraStructure | None


@dataclass(frozen=True)
class Finding:
    """A cause before it is decided whether it changes the plan."""

    name: str
    evidence: str
    confidence: float
    change: Change | None
    predicted: str
    measure: str = ""
    """The measure that should move if the change helps; empty if accuracy alone decides."""
    direction: Literal["up", "down", ""] = ""
    otherwise: Change | None = None
    """Change to make if `change` is at its bound or was taken back before."""


def next_plan(
    recipe: Recipe,
    current: Plan,
    findings: Sequence[Finding],
    reviewed: Finding | None,
    previous: Plan,
    refuted: frozenset[str] = frozenset(),
) -> tuple[Plan, tuple[Cause, ...]]:
    """Return (next plan, every cause with what it changed).

    At most two settings change, those of the most confident causes.

    Args:
        recipe: Recipe as the person wrote it.
        current: Plan of this round.
        findings: Findings about this round.
        reviewed: `review` of the last change. A change that is taken back goes first, and its
            settings are not changed again this round.
        previous: Plan of the round before, whose values a change is taken back to.
        refuted: Changes that are not tried again.
    """
    plan = current
    causes: list[Cause] = []
    touched: set[str] = set()
    if reviewed is not None:
        restored: dict[str, SettingValue] = {}
        if reviewed.name == TAKEN_BACK:
            restored = {name: getattr(previous, name) for name in _differing(previous, current)}
        causes.append(_cause(reviewed, current, restored, None))
        plan = current.model_copy(update=restored)
        touched = set(restored)
    for finding in sorted(findings, key=lambda finding: (-finding.confidence, finding.name)):
        change = None
        if finding.confidence >= MIN_CONFIDENCE and len(touched) < MAX_CHANGES:
            change = _first_possible(finding, plan, recipe, touched, refuted)
        changed: dict[str, SettingValue] = {}
        if change is not None:
            setting, value = changed_setting(plan, recipe, change)
            changed = {setting: value}
        causes.append(_cause(finding, plan, changed, change))
        plan = plan.model_copy(update=changed)
        touched |= set(changed)
    return plan, tuple(causes)


def _first_possible(
    finding: Finding, plan: Plan, recipe: Recipe, touched: set[str], refuted: frozenset[str]
) -> Change | None:
    """Return the finding's first change that is not refuted and moves an untouched setting."""
    for change in (finding.change, finding.otherwise):
        if change is None or change in refuted:
            continue
        setting, value = changed_setting(plan, recipe, change)
        if setting not in touched and value != getattr(plan, setting):
            return change
    return None


def _differing(first: Plan, second: Plan) -> list[str]:
    """Return the changeable settings that differ between two plans."""
    return [name for name in CHANGEABLE_SETTINGS if getattr(first, name) != getattr(second, name)]


def changed_setting(plan: Plan, recipe: Recipe, change: Change) -> tuple[str, SettingValue]:
    """Return (setting, new value) of a change; the old value if the setting is at its bound.

    Bounds are relative to the recipe as the person wrote it: learning rate 0.1 to 4 times, steps a
    quarter to 4 times, weight decay up to 16 times (0.1 where the recipe has less), answers up to 4
    times as long (and no longer than train.max_length); temperature 0.1 to 1.5, labelled share 0.25
    to 0.9, samples up to 64, vote share up to 0.9, noise on embeddings up to 10. The bounds of the
    trained structure are in the recipe; it gets smaller only where its growth is taken back.
    """
    base = base_plan(recipe)
    match change:
        case "learning_rate_down":
            return "learning_rate", _down(
                plan.learning_rate, plan.learning_rate * 0.5, base.learning_rate * 0.1
            )
        case "learning_rate_up":
            return "learning_rate", _up(
                plan.learning_rate, plan.learning_rate * 2, min(1.0, base.learning_rate * 4)
            )
        case "steps_down":
            return "steps", int(
                _down(plan.steps, round(plan.steps * 0.67), max(1, base.steps // 4))
            )
        case "steps_up":
            return "steps", int(_up(plan.steps, round(plan.steps * 1.5), base.steps * 4))
        case "temperature_down":
            # Greedy sampling in the recipe is on purpose: only a lack of diversity moves it, and
            # that asks for a higher temperature.
            low = plan.temperature if base.temperature == 0.0 else 0.1
            return "temperature", _down(plan.temperature, round(plan.temperature - 0.2, 6), low)
        case "temperature_up":
            return "temperature", _up(plan.temperature, round(plan.temperature + 0.2, 6), 1.5)
        case "weight_decay_up":
            high = max(0.1, base.weight_decay * 16)
            return "weight_decay", _up(plan.weight_decay, max(0.01, plan.weight_decay * 2), high)
        case "labelled_share_up":
            return "labelled_share", _up(
                plan.labelled_share, round(plan.labelled_share + 0.1, 6), 0.9
            )
        case "labelled_share_down":
            return "labelled_share", _down(
                plan.labelled_share, round(plan.labelled_share - 0.1, 6), 0.25
            )
        case "vote_share_up":
            share = (
                recipe.select.min_vote_share if plan.min_vote_share is None else plan.min_vote_share
            )
            return "min_vote_share", _raised(
                plan.min_vote_share, share, max(0.5, round(share + 0.2, 6)), 0.9
            )
        case "answer_tokens_up":
            in_recipe = recipe.generate.max_new_tokens
            limit = plan.max_new_tokens or in_recipe
            highest = min(4 * in_recipe, recipe.train.max_length)
            longer = _raised(plan.max_new_tokens, limit, 2 * limit, highest)
            return "max_new_tokens", None if longer is None else int(longer)
        case "noise_up":
            alpha = recipe.train.neftune_alpha if plan.neftune_alpha is None else plan.neftune_alpha
            return "neftune_alpha", _raised(plan.neftune_alpha, alpha, max(5.0, 2 * alpha), 10.0)
        case "samples_up":
            return "samples_per_prompt", int(
                _up(plan.samples_per_prompt, plan.samples_per_prompt * 2, 64)
            )
        case "structure_up":
            return "lora", _grown(plan.lora, recipe.train.lora)


def review(
    previous: RoundRecord | None,
    previous_plan: Plan,
    current: Plan,
    verdict: Verdict,
    overall: float,
    measures: Mapping[str, float],
    interval: tuple[float, float] = (0.0, 0.0),
) -> Finding | None:
    """Return what became of the last round's change: confirmed, taken back, or None.

    | predicted measure  | candidate | accuracy                 | change     |
    |--------------------|-----------|--------------------------|------------|
    | moved as predicted | rejected  | fell beyond the interval | taken back |
    | moved as predicted | rejected  | did not fall so far      | confirmed  |
    | moved as predicted | promoted  | any                      | confirmed  |
    | did not move so    | rejected  | any                      | taken back |
    | did not move so    | promoted  | any                      | left alone |
    | none is known      | rejected  | fell                     | taken back |
    | none is known      | rejected  | did not fall             | left alone |
    | none is known      | promoted  | any                      | left alone |

    A change is not taken back right after another one was: a setting would swing to and fro.

    Args:
        previous: Record of the round before; None in round 0.
        previous_plan: Plan of the round before.
        current: Plan of this round.
        verdict: Verdict on this round's candidate.
        overall: Validation accuracy of this round's candidate.
        measures: This round in numbers.
        interval: 95 % interval of `overall`.
    """
    changed = _differing(previous_plan, current)
    if previous is None or not changed:
        return None
    causes = [cause for cause in previous.causes if cause.change]
    predictions = [
        prediction
        for cause in causes
        if (prediction := _prediction(cause, previous.measures, measures)) is not None
    ]
    came_true = all(prediction.came_true for prediction in predictions) if predictions else None
    match came_true, verdict == "rejected":
        case True, rejected:
            confirmed = not (rejected and previous.overall > interval[1] > 0.0)
            taken_back = not confirmed
        case False, rejected:
            confirmed = False
            taken_back = rejected
        case _, rejected:
            confirmed = False
            taken_back = rejected and overall < previous.overall
    course = "; ".join(prediction.text for prediction in predictions)
    accuracy = f"validation accuracy went from {previous.overall:.4f} to {overall:.4f}"
    subject = f"after {', '.join(changed)} changed"
    if confirmed:
        evidence = f"{subject}, {course}, as predicted; {accuracy}"
        return Finding(CONFIRMED, evidence, 0.9, None, "")
    if not taken_back or any(cause.name == TAKEN_BACK for cause in previous.causes):
        return None
    reason = f"{course}; {accuracy}" if predictions else accuracy
    evidence = f"{subject}, {reason} and the candidate was not promoted"
    return Finding(TAKEN_BACK, evidence, 0.9, None, "accuracy back at what it was before")


@dataclass(frozen=True)
class _Prediction:
    """The course of a measure that a change was to move."""

    text: str
    """The course in words."""
    came_true: bool


def _prediction(
    cause: Cause, previous: Mapping[str, float], current: Mapping[str, float]
) -> _Prediction | None:
    """Return the course of a cause's measure from round to round; None if it is not known."""
    if not cause.measure or cause.measure not in previous or cause.measure not in current:
        return None
    old, new = previous[cause.measure], current[cause.measure]
    gain = new - old if cause.direction == "up" else old - new
    least_share = LOSS_MOVED if cause.measure == "dev_loss" else MOVED
    return _Prediction(
        text=f"{cause.measure} went from {old:.4g} to {new:.4g}",
        came_true=gain > least_share * max(abs(old), 1e-6),
    )


def refuted_changes(history: Sequence[RoundRecord]) -> frozenset[str]:
    """Return the changes that were tried and taken back in this campaign."""
    refuted: set[str] = set()
    for tried, reviewed in itertools.pairwise(history):
        if any(cause.name == TAKEN_BACK for cause in reviewed.causes):
            refuted |= {cause.change_name for cause in tried.causes if cause.change_name}
    return frozenset(refuted)


def ladder_of(recipe: Recipe) -> Ladder | None:
    """Return the difficulty ladder of the first task that has one, or None."""
    return next((task.ladder for task in recipe.data.tasks if task.ladder is not None), None)


def next_level(recipe: Recipe, round_number: int, level: int, champion: Scores) -> int:
    """Return the length that the next samples are drawn at; 0 without a ladder.

    It begins at the first length beyond the labelled ones, and goes one further once the champion
    has mastered it (2502.01612). Without mastery errors would pile up from length to length, so the
    scores of a rejected candidate do not count.

    Args:
        recipe: Holds the ladder.
        round_number: The round that has finished.
        level: Length of its samples.
        champion: Validation scores of the champion after the round.
    """
    ladder = ladder_of(recipe)
    if ladder is None:
        return 0
    first, last = ladder.climb
    if round_number == 0:
        return first
    mastered = champion.accuracy(f"length={level}") >= ladder.mastery
    return min(last, max(first, level + mastered))


def _up(value: float, target: float, highest: float) -> float:
    """Return `target`, but not beyond `highest`; a value already beyond it stays."""
    return max(value, min(target, highest))


def _down(value: float, target: float, lowest: float) -> float:
    """Return `target`, but not below `lowest`; a value already below it stays."""
    return min(value, max(target, lowest))


def _raised(planned: float | None, value: float, target: float, highest: float) -> float | None:
    """Return `_up` of a setting that the plan need not hold.

    Args:
        planned: Value in the plan; None if it is the recipe's.
        value: Value in effect.
        target: Value to go to.
        highest: Bound.
    """
    raised = _up(value, target, highest)
    return planned if raised == value else raised


def _grown(structure: LoraStructure | None, bounds: LoraSection | None) -> LoraStructure | None:
    """Return a structure with twice the rank; at the highest rank, twice the unfrozen layers."""
    if structure is None or bounds is None:
        return structure
    if structure.rank < bounds.max_rank:
        return structure.model_copy(update={"rank": min(2 * structure.rank, bounds.max_rank)})
    layers = structure.unfrozen_layers
    more_layers = _up(layers, max(1, 2 * layers), bounds.max_unfrozen_layers)
    return structure.model_copy(update={"unfrozen_layers": int(more_layers)})


def setting_text(name: str, value: SettingValue) -> str:
    """Return a setting's value as a person would write it."""
    if value is None:
        return "none" if name == "lora" else "as in the recipe"
    return str(value) if isinstance(value, LoraStructure) else f"{value:g}"


def _cause(
    finding: Finding, plan: Plan, changed: Mapping[str, SettingValue], change: Change | None
) -> Cause:
    """Return the record of a finding.

    Args:
        finding: The finding.
        plan: Plan before the change.
        changed: Setting → new value.
        change: The change that was made; None if there was none, or one was taken back.
    """
    changes = []
    for setting, value in changed.items():
        old = setting_text(setting, getattr(plan, setting))
        changes.append(f"{setting} {old} → {setting_text(setting, value)}")
    return Cause(
        name=finding.name,
        evidence=finding.evidence,
        confidence=round(finding.confidence, 3),
        change=", ".join(changes),
        predicted=finding.predicted,
        change_name=change or "",
        measure=finding.measure,
        direction=finding.direction,
    )
