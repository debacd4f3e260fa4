"""The plan of the next round: bounded changes of a few settings, a review of the last changes, and
the level of the difficulty ladder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from components.contracts.recipe import LoraSection, LoraStructure, Recipe
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

# With more, nobody could say which one helped.
MAX_CHANGES = 2
"""Settings changed per round, at most."""
MIN_CONFIDENCE = 0.5
"""Causes below this are reported and change nothing."""
TAKEN_BACK = "change_taken_back"
CONFIRMED = "change_confirmed"
MOVED = 0.05
"""A measure has moved if it changed by more than this share of itself."""
# The dev loss is taken over the same rows every time, so it has less noise than the others.
LOSS_MOVED = 0.01
"""The same for the dev loss."""

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
    predicted: str | None
    """The effect that the change should have, in words."""
    measure: str | None = None
    """The measure that should move if the change helps; None if accuracy alone decides."""
    direction: Literal["up", "down"] | None = None
    """The way it should move."""
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
            for name in _differing(previous, current):
                restored[name] = getattr(previous, name)
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
            lowest_rate = 0.1 * base.learning_rate
            learning_rate = _down(plan.learning_rate, 0.5 * plan.learning_rate, lowest_rate)
            return "learning_rate", learning_rate
        case "learning_rate_up":
            highest_rate = min(1.0, 4 * base.learning_rate)
            learning_rate = _up(plan.learning_rate, 2 * plan.learning_rate, highest_rate)
            return "learning_rate", learning_rate
        case "steps_down":
            fewer_steps = round(0.67 * plan.steps)
            fewest_steps = max(1, base.steps // 4)
            return "steps", int(_down(plan.steps, fewer_steps, fewest_steps))
        case "steps_up":
            more_steps = round(1.5 * plan.steps)
            return "steps", int(_up(plan.steps, more_steps, 4 * base.steps))
        case "temperature_down":
            # Greedy sampling in the recipe is on purpose: only a lack of diversity moves it, and
            # that asks for a higher temperature.
            coldest = plan.temperature if base.temperature == 0.0 else 0.1
            colder = round(plan.temperature - 0.2, 6)
            return "temperature", _down(plan.temperature, colder, coldest)
        case "temperature_up":
            # Rounded: sums of 0.2 would show as 0.8999999999999999 in cards and step keys.
            hotter = round(plan.temperature + 0.2, 6)
            return "temperature", _up(plan.temperature, hotter, 1.5)
        case "weight_decay_up":
            # A recipe without weight decay has nothing to double: begin at 0.01.
            decay = max(0.01, 2 * plan.weight_decay)
            highest_decay = max(0.1, 16 * base.weight_decay)
            return "weight_decay", _up(plan.weight_decay, decay, highest_decay)
        case "labelled_share_up":
            larger_share = round(plan.labelled_share + 0.1, 6)
            return "labelled_share", _up(plan.labelled_share, larger_share, 0.9)
        case "labelled_share_down":
            # Replacing labelled rows leads to collapse (2305.17493). The floor is our own: no
            # source gives one.
            smaller_share = round(plan.labelled_share - 0.1, 6)
            return "labelled_share", _down(plan.labelled_share, smaller_share, 0.25)
        case "vote_share_up":
            vote_share = plan.min_vote_share
            if vote_share is None:
                vote_share = recipe.select.min_vote_share
            stricter = max(0.5, round(vote_share + 0.2, 6))
            return "min_vote_share", _raised(plan.min_vote_share, vote_share, stricter, 0.9)
        case "answer_tokens_up":
            in_recipe = recipe.generate.max_new_tokens
            limit = plan.max_new_tokens or in_recipe
            highest = min(4 * in_recipe, recipe.train.max_length)
            longer = _raised(plan.max_new_tokens, limit, 2 * limit, highest)
            return "max_new_tokens", None if longer is None else int(longer)
        case "noise_up":
            alpha = plan.neftune_alpha
            if alpha is None:
                alpha = recipe.train.neftune_alpha
            # 5 is the least that the authors of NEFTune tried (2310.05914).
            noisier = max(5.0, 2 * alpha)
            return "neftune_alpha", _raised(plan.neftune_alpha, alpha, noisier, 10.0)
        case "samples_up":
            samples = _up(plan.samples_per_prompt, 2 * plan.samples_per_prompt, 64)
            return "samples_per_prompt", int(samples)
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
    rejected = verdict == "rejected"
    _, highest_accuracy = interval
    fell_beyond_interval = previous.overall > highest_accuracy > 0.0
    confirmed = False
    if not predictions:
        taken_back = rejected and overall < previous.overall
    elif all(prediction.came_true for prediction in predictions):
        taken_back = rejected and fell_beyond_interval
        confirmed = not taken_back
    else:
        taken_back = rejected
    course = "; ".join(prediction.text for prediction in predictions)
    accuracy = f"validation accuracy went from {previous.overall:.4f} to {overall:.4f}"
    subject = f"after {', '.join(changed)} changed"
    if confirmed:
        evidence = f"{subject}, {course}, as predicted; {accuracy}"
        return Finding(CONFIRMED, evidence, 0.9, None, None)
    just_taken_back = any(cause.name == TAKEN_BACK for cause in previous.causes)
    if not taken_back or just_taken_back:
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
    if cause.measure is None or cause.measure not in previous or cause.measure not in current:
        return None
    old = previous[cause.measure]
    new = current[cause.measure]
    gain = new - old
    if cause.direction != "up":
        gain = -gain
    least_share = LOSS_MOVED if cause.measure == "dev_loss" else MOVED
    # A measure that was 0 has no share of itself to move by.
    least_gain = least_share * max(abs(old), 1e-6)
    text = f"{cause.measure} went from {old:.4g} to {new:.4g}"
    return _Prediction(text, came_true=gain > least_gain)


def refuted_changes(history: Sequence[RoundRecord]) -> frozenset[str]:
    """Return the changes that were tried and taken back in this campaign."""
    # A round reviews the changes of the one before it.
    refuted: set[str] = set()
    for tried, reviewed in itertools.pairwise(history):
        if any(cause.name == TAKEN_BACK for cause in reviewed.causes):
            refuted |= {cause.change_name for cause in tried.causes if cause.change_name}
    return frozenset(refuted)


def next_level(recipe: Recipe, level: int, champion: Scores) -> int:
    """Return the length that the next samples are drawn at; 0 without a ladder.

    It begins at the first length beyond the labelled ones, even if these are not mastered, goes one
    further once the champion has mastered it (2502.01612), and never leaves the ladder.

    Args:
        recipe: Holds the ladder.
        level: Length of the samples of the round that has finished.
        champion: Validation scores of the champion after the round.
    """
    ladder = recipe.data.ladder
    if ladder is None:
        return 0
    first, last = ladder.climb
    # Without mastery errors pile up from length to length, so the scores of a rejected candidate
    # do not count.
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
    # First the rank, which costs least memory.
    if structure.rank < bounds.max_rank:
        rank = min(2 * structure.rank, bounds.max_rank)
        return structure.model_copy(update={"rank": rank})
    layers = structure.unfrozen_layers
    twice_as_many = max(1, 2 * layers)
    more_layers = _up(layers, twice_as_many, bounds.max_unfrozen_layers)
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
        new = setting_text(setting, value)
        changes.append(f"{setting} {old} → {new}")
    return Cause(
        name=finding.name,
        evidence=finding.evidence,
        confidence=round(finding.confidence, 3),
        change=", ".join(changes) or None,
        predicted=finding.predicted,
        change_name=change,
        measure=finding.measure,
        direction=finding.direction,
    )
