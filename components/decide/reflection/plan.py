"""The plan of the next round: a few changes, a review of the last ones, and the ladder's level."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from components.contracts.recipe import Recipe
from components.contracts.state import Cause, Plan, RoundRecord, Verdict
from components.decide.reflection.changes import (
    CHANGEABLE_SETTINGS,
    Change,
    SettingValue,
    changed_setting,
    setting_text,
)
from components.measures import Scores

# With more, nobody could say which one helped.
MAX_CHANGES = 2
"""Settings changed per round, at most."""
# A change that helps nothing costs a round, and another one to take it back.
MIN_PRIORITY = 0.5
"""Causes of a lower priority are reported and change nothing."""
TAKEN_BACK = "change_taken_back"
CONFIRMED = "change_confirmed"
MOVED = 0.05
"""A measure has moved if it changed by more than this share of itself."""
# The dev loss is taken over the same rows every time, so it has less noise than the others.
LOSS_MOVED = 0.01
"""The same for the dev loss."""


@dataclass(frozen=True)
class Finding:
    """A cause before it is decided whether it changes the plan."""

    name: str
    evidence: str
    priority: float
    """Place among the causes, 0 to 1: a constant of the rule, and no probability."""
    change: Change | None
    predicted: str | None
    """The effect that the change should have, in words."""
    measure: str | None = None
    """The measure that should move if the change helps; None if the dev score alone decides."""
    direction: Literal["up", "down"] | None = None
    """The way it should move."""
    otherwise: Change | None = None
    """Change to make if `change` is at its bound or was taken back before."""
    further: tuple[Change, ...] = ()
    """Changes to make if that one is too, in this order."""


def next_plan(
    recipe: Recipe,
    current: Plan,
    findings: Sequence[Finding],
    reviewed: Finding | None,
    previous: Plan,
    refuted: frozenset[str] = frozenset(),
) -> tuple[Plan, tuple[Cause, ...]]:
    """Return (next plan, every cause with what it changed).

    At most two settings change, those of the causes with the highest priority.

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
    for finding in sorted(
        findings, key=lambda finding: (-finding.priority, finding.name)
    ):
        change = None
        if finding.priority >= MIN_PRIORITY and len(touched) < MAX_CHANGES:
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
    finding: Finding,
    plan: Plan,
    recipe: Recipe,
    touched: set[str],
    refuted: frozenset[str],
) -> Change | None:
    """Return the finding's first change that is not refuted and moves an untouched setting."""
    for change in (finding.change, finding.otherwise, *finding.further):
        if change is None or change in refuted:
            continue
        setting, value = changed_setting(plan, recipe, change)
        if setting not in touched and value != getattr(plan, setting):
            return change
    return None


def _differing(first: Plan, second: Plan) -> list[str]:
    """Return the changeable settings that differ between two plans."""
    names = []
    for name in CHANGEABLE_SETTINGS:
        if getattr(first, name) != getattr(second, name):
            names.append(name)
    return names


def review(
    previous: RoundRecord | None,
    previous_plan: Plan,
    current: Plan,
    verdict: Verdict,
    dev_scores: Scores | None,
    measures: Mapping[str, float],
) -> Finding | None:
    """Return what became of the last round's change: confirmed, taken back, or None.

    | predicted measure  | candidate | dev score                | change     |
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
    A weak round trains nothing, so it tells nothing of a change of the training before it: that
    change is left alone.

    Args:
        previous: Record of the round before; None in round 0.
        previous_plan: Plan of the round before.
        current: Plan of this round.
        verdict: Verdict on this round's candidate.
        dev_scores: Scores of this round's candidate on dev prompts; None without any, and then no
            score counts.
        measures: This round in numbers.
    """
    changed = _differing(previous_plan, current)
    if previous is None or not changed:
        return None
    # Only of a cause that changed the plan was an effect predicted.
    causes = [cause for cause in previous.causes if cause.change]
    predictions = [
        prediction
        for cause in causes
        if (prediction := _prediction(cause, previous.measures, measures)) is not None
    ]
    rejected = verdict == "rejected"
    fell = False
    fell_beyond_interval = False
    score = "no dev prompts tell the score"
    # The scores of a weak round are the champion's.
    if previous.weak:
        score = "the round before had no candidate to compare with"
    elif dev_scores is not None and previous.dev_score is not None:
        measure = dev_scores.measure
        value = dev_scores.value()
        low, high = dev_scores.interval()
        best = high if measure.higher_is_better else low
        fell = measure.improves(previous.dev_score, value)
        fell_beyond_interval = measure.improves(previous.dev_score, best)
        score = f"dev {measure.name} went from {previous.dev_score:.4f} to {value:.4f}"
    confirmed = False
    if not predictions:
        taken_back = rejected and fell
    elif all(prediction.came_true for prediction in predictions):
        taken_back = rejected and fell_beyond_interval
        confirmed = not taken_back
    else:
        taken_back = rejected
    course = "; ".join(prediction.text for prediction in predictions)
    subject = f"after {', '.join(changed)} changed"
    if confirmed:
        evidence = f"{subject}, {course}, as predicted; {score}"
        return Finding(CONFIRMED, evidence, 0.9, None, None)
    just_taken_back = any(cause.name == TAKEN_BACK for cause in previous.causes)
    if not taken_back or just_taken_back:
        return None
    reason = f"{course}; {score}" if predictions else score
    evidence = f"{subject}, {reason} and the candidate was not promoted"
    return Finding(TAKEN_BACK, evidence, 0.9, None, "a dev score as it was before")


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
    if cause.measure is None:
        return None
    old = previous.get(cause.measure)
    new = current.get(cause.measure)
    if old is None or new is None:
        return None
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
            refuted |= {
                cause.change_name for cause in tried.causes if cause.change_name
            }
    return frozenset(refuted)


def next_level(
    recipe: Recipe, level: int, champion: Scores | None, *, too_hard: bool = False
) -> int:
    """Return the length that the next samples are drawn at; 0 without a ladder.

    It begins at the first length beyond the labelled ones, even if these are not mastered, goes one
    further once the champion has mastered it (2502.01612), one back where it was too hard, and
    never leaves the ladder.

    Args:
        recipe: Holds the ladder.
        level: Length of the samples of the round that has finished.
        champion: Scores on dev prompts of the champion after the round; None without any: no length
            is mastered then.
        too_hard: Hardly any of the round's samples was good enough, and nothing was trained.
    """
    ladder = recipe.data.ladder
    if ladder is None:
        return 0
    first, last = ladder.climb
    if too_hard:
        return max(first, level - 1)
    # Without mastery errors pile up from length to length, so the scores of a rejected candidate
    # do not count.
    name = f"length={level}"
    mastered = champion is not None and champion.value(name) >= ladder.mastery
    return min(last, max(first, level + mastered))


def _cause(
    finding: Finding,
    plan: Plan,
    changed: Mapping[str, SettingValue],
    change: Change | None,
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
        priority=round(finding.priority, 3),
        change=", ".join(changes) or None,
        predicted=finding.predicted,
        change_name=change,
        measure=finding.measure,
        direction=finding.direction,
    )
