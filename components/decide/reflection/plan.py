"""The plan of the next round: bounded changes of a few settings, what became of the last ones, the
rung of the ladder."""

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
"""What reflection may ask for. Each is one bounded step of one setting."""

MAX_CHANGES = 2
"""Settings changed per round: of more, nobody could say which one helped."""
MIN_CONFIDENCE = 0.5
"""Causes below this are reported and change nothing."""
TAKEN_BACK = "change_taken_back"
CONFIRMED = "change_confirmed"
MOVED, LOSS_MOVED = 0.05, 0.01
"""Relative change of a measure from which it has moved; of the dev loss, which is taken over
the same rows every time."""

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
    measure: str | None = None
    """The measure that should move if the change helps; None: accuracy alone is asked."""
    direction: Literal["up", "down"] | None = None
    otherwise: Change | None = None
    """What to change where `change` is at its bound or was taken back before."""


def next_plan(
    recipe: Recipe,
    current: Plan,
    findings: Sequence[Finding],
    reviewed: Finding | None,
    before: Plan,
    refuted: frozenset[str] = frozenset(),
) -> tuple[Plan, tuple[Cause, ...]]:
    """Change at most two settings of `current`, most confident causes first, and say of every cause
    what it changed.

    `reviewed` is what became of the last change. One that is taken back (to what `before` had) goes
    first, and its settings are not changed again this round. Changes in `refuted` are not tried
    again.
    """
    plan, causes, touched = current, list[Cause](), set[str]()
    changed: dict[str, SettingValue]
    if reviewed is not None:
        changed = {}
        if reviewed.name == TAKEN_BACK:
            changed = {
                name: getattr(before, name)
                for name in CHANGEABLE_SETTINGS
                if getattr(before, name) != getattr(current, name)
            }
        plan, touched = current.model_copy(update=changed), set(changed)
        causes.append(_cause(reviewed, current, changed, None))
    for finding in sorted(findings, key=lambda one: (-one.confidence, one.name)):
        changed, used = {}, None
        for change in (finding.change, finding.otherwise):
            if (
                changed
                or change is None
                or change in refuted
                or finding.confidence < MIN_CONFIDENCE
            ):
                continue
            setting, value = changed_setting(plan, recipe, change)
            if (
                setting not in touched
                and len(touched) < MAX_CHANGES
                and value != getattr(plan, setting)
            ):
                changed, used = {setting: value}, change
        causes.append(_cause(finding, plan, changed, used))
        plan = plan.model_copy(update=changed)
        touched |= set(changed)
    return plan, tuple(causes)


def changed_setting(plan: Plan, recipe: Recipe, change: Change) -> tuple[str, SettingValue]:
    """The setting that a change is about and its new value, the same where it is at its bound.

    Bounds are relative to the recipe as the person wrote it: learning rate 0.1 to 4 times, steps a
    quarter to 4 times, weight decay up to 16 times (0.1 where the recipe has less), answers up to 4
    times as long (and no longer than train.max_length); temperature 0.1 to 1.5, labelled share 0.25
    to 0.9, samples up to 64, vote share up to 0.9, noise on embeddings up to 10. The bounds of the
    trained structure are in the recipe; nothing makes it smaller but that growth which did harm is
    taken back.
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
            # Greedy in the recipe is on purpose; only a lack of diversity, which asks for more,
            # moves it.
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
            first = recipe.generate.max_new_tokens
            now, most = plan.max_new_tokens or first, min(4 * first, recipe.train.max_length)
            longer = _raised(plan.max_new_tokens, now, 2 * now, most)
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
    before: Plan,
    current: Plan,
    verdict: Verdict,
    overall: float,
    measures: Mapping[str, float],
    interval: tuple[float, float] = (0.0, 0.0),
) -> Finding | None:
    """What became of the last round's change: confirmed, taken back, or neither (nothing was
    changed, or the candidate was promoted without the prediction coming true: what works is left
    alone).

    It is confirmed if what it was to move has moved the right way. It is taken back if the
    candidate was not promoted and that has not moved or, where nothing of the kind was predicted,
    accuracy fell; and if accuracy fell beyond the 95 % `interval` of this round's whatever has
    moved. Nothing is taken back twice in a row, or a setting would swing to and fro.
    """
    changed = [
        name for name in CHANGEABLE_SETTINGS if getattr(before, name) != getattr(current, name)
    ]
    if previous is None or not changed:
        return None
    told = [
        (cause, *_moved(cause, previous.measures, measures))
        for cause in previous.causes
        if cause.change
    ]
    known = [(cause, said, right) for cause, said, right in told if right is not None]
    said = "; ".join(text for _, text, _ in known)
    came_true = bool(known) and all(right for _, _, right in known)
    accuracy = f"validation accuracy went from {previous.overall:.4f} to {overall:.4f}"
    if came_true and not (verdict == "rejected" and previous.overall > interval[1] > 0.0):
        return Finding(
            CONFIRMED,
            f"after {', '.join(changed)} changed, {said}, as predicted; {accuracy}",
            0.9,
            None,
            None,
        )
    swings = any(cause.name == TAKEN_BACK for cause in previous.causes)
    if verdict != "rejected" or swings or (not known and overall >= previous.overall):
        return None
    why = f"{said}; " if known else ""
    return Finding(
        TAKEN_BACK,
        f"after {', '.join(changed)} changed, {why}{accuracy} and the candidate was not promoted",
        0.9,
        None,
        "accuracy back at what it was before",
    )


def _moved(
    cause: Cause, before: Mapping[str, float], now: Mapping[str, float]
) -> tuple[str, bool | None]:
    """What the measure of a cause did, in words, and whether it went where it should; None if that
    is not known."""
    if cause.measure is None or cause.measure not in before or cause.measure not in now:
        return "", None
    old, new = before[cause.measure], now[cause.measure]
    gain = new - old if cause.direction == "up" else old - new
    least = LOSS_MOVED if cause.measure == "dev_loss" else MOVED
    return f"{cause.measure} went from {old:.4g} to {new:.4g}", gain > least * max(abs(old), 1e-6)


def refuted_changes(history: Sequence[RoundRecord]) -> frozenset[str]:
    """Changes that were tried and taken back in this campaign."""
    return frozenset(
        cause.change_name
        for tried, reviewed in itertools.pairwise(history)
        if any(one.name == TAKEN_BACK for one in reviewed.causes)
        for cause in tried.causes
        if cause.change_name
    )


def next_level(recipe: Recipe, level: int, champion: Scores) -> int:
    """The length the next samples are drawn at: one more once the champion has mastered this one
    (2502.01612).

    It begins at the first length beyond the labelled ones, even if these are not mastered, and
    never leaves the ladder. Going on
    without mastery ends in an avalanche of errors, so a candidate that was not promoted does not
    count.
    """
    ladder = recipe.data.ladder
    if ladder is None:
        return 0
    first, last = ladder.climb
    mastered = champion.accuracy(f"length={level}") >= ladder.mastery
    return min(last, max(first, level + mastered))


def _up(value: float, wanted: float, high: float) -> float:
    """`wanted`, but not beyond `high`; a value already beyond it stays."""
    return max(value, min(wanted, high))


def _down(value: float, wanted: float, low: float) -> float:
    return min(value, max(wanted, low))


def _raised(planned: float | None, now: float, wanted: float, high: float) -> float | None:
    """As `_up`, for a setting that is as the recipe says (`planned` None) until it is changed."""
    value = _up(now, wanted, high)
    return planned if value == now else value


def _grown(structure: LoraStructure | None, bounds: LoraSection | None) -> LoraStructure | None:
    """Twice the rank; at the highest rank, twice the layers that are trained in full, one at first."""
    if structure is None or bounds is None:
        return structure
    if structure.rank < bounds.max_rank:
        return structure.model_copy(update={"rank": min(2 * structure.rank, bounds.max_rank)})
    layers = int(
        _up(
            structure.unfrozen_layers,
            max(1, 2 * structure.unfrozen_layers),
            bounds.max_unfrozen_layers,
        )
    )
    return structure.model_copy(update={"unfrozen_layers": layers})


def setting_text(name: str, value: SettingValue) -> str:
    """A setting's value as a person would write it."""
    if value is None:
        return "none" if name == "lora" else "as in the recipe"
    return str(value) if isinstance(value, LoraStructure) else f"{value:g}"


def _cause(
    finding: Finding, plan: Plan, changed: Mapping[str, SettingValue], used: Change | None
) -> Cause:
    changes = [
        f"{setting} {setting_text(setting, getattr(plan, setting))} → {setting_text(setting, value)}"
        for setting, value in changed.items()
    ]
    return Cause(
        name=finding.name,
        evidence=finding.evidence,
        confidence=round(finding.confidence, 3),
        change=", ".join(changes) or None,
        predicted=finding.predicted,
        change_name=used,
        measure=finding.measure,
        direction=finding.direction,
    )
