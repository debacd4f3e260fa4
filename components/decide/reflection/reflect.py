"""Reflection on a round: from its numbers to causes, and to the plan of the next round."""

from __future__ import annotations

from collections.abc import Sequence

from components.contracts.recipe import DecideSection, Recipe
from components.contracts.state import TRAIN_SETTINGS, Cause, Plan, base_plan
from components.decide.finished_round import FinishedRound, Outcome
from components.decide.gate import Comparison, compare
from components.decide.reflection.data_causes import FEW_PASSED, passed
from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.plan import (
    next_level,
    next_plan,
    refuted_changes,
    review,
)
from components.decide.reflection.round_measures import champion_answer_measures

# No stage has these of its own, so a change after round 0 is a change for all rounds.
SHARED_BY_STAGES = ("min_vote_share", "max_new_tokens", *TRAIN_SETTINGS)
"""Settings of the first training's plan that improvement rounds take over."""


def reflect(
    finished: FinishedRound, outcome: Outcome, losses: Sequence[float | None]
) -> tuple[Plan, tuple[Cause, ...]]:
    """Return (plan of the next round, causes of this round's result).

    Args:
        finished: The round.
        outcome: Its verdict and measures.
        losses: Training loss of each step, in nats per token.
    """
    campaign = finished.campaign
    used_plan = campaign.state.plan
    history = campaign.state.history
    # Dev prompts alone from here on: what validation prompts steer, they cannot decide.
    scores = outcome.candidate.dev_scores
    mix = finished.summaries.mix
    measures = dict(outcome.measures)
    if finished.is_weak:
        # The champion's own answers tell whether it knows how to end.
        measures |= champion_answer_measures(
            finished.context, campaign, outcome.champion
        )
    finished_share = mix.finished_share
    if finished_share is None:
        # A round without samples, such as the first, has nothing but the evaluation's answers.
        finished_share = measures.get("finished_share", 1.0)
    evidence = Evidence(
        recipe=campaign.recipe,
        round=campaign.next_round,
        verdict=outcome.verdict,
        plan=used_plan,
        train=finished.summaries.train,
        losses=losses,
        finished_share=finished_share,
        candidate=scores,
        select=mix,
        comparison=compare_dev(outcome, campaign.recipe.decide),
        measures=measures,
    )
    # Bounds of changes are relative to what the person wrote, not to what plans have made of it.
    recipe = campaign.written
    current = _improvement_plan(used_plan, recipe)
    previous_record = history[-1] if history else None
    previous_plan = current
    if previous_record is not None:
        previous_plan = _improvement_plan(previous_record.plan, recipe)
    # Without a candidate no accuracy tells for or against the last change.
    judged_scores = None if finished.is_weak else scores
    reviewed = review(
        previous_record,
        previous_plan,
        current,
        outcome.verdict,
        judged_scores,
        outcome.measures,
    )
    refuted = refuted_changes(history)
    findings = diagnose(evidence)
    plan, causes = next_plan(
        recipe, current, findings, reviewed, previous_plan, refuted
    )
    # By the scores of the champion: it draws the samples of the next round.
    too_hard = finished.is_weak and passed(mix) < FEW_PASSED
    level = next_level(
        recipe, used_plan.level, outcome.best.dev_scores, too_hard=too_hard
    )
    return plan.model_copy(update={"level": level}), causes


def compare_dev(outcome: Outcome, section: DecideSection) -> Comparison | None:
    """Return candidate and champion, dev prompt by dev prompt; None if one was not measured, or
    there is no candidate."""
    champion = outcome.champion.dev
    candidate = outcome.candidate.dev
    if not champion or not candidate or outcome.comparison is None:
        return None
    # Causes count prompts won and lost, so families have no say. A dev row need not be a number.
    numeric = all(row.numeric for row in candidate)
    changes = {"family": "", "score": section.score if numeric else "right"}
    level = outcome.comparison.level
    return compare(champion, candidate, section.model_copy(update=changes), level)


def _improvement_plan(plan: Plan, recipe: Recipe) -> Plan:
    """Return a round's settings as they would be in an improvement round."""
    if plan.training == "improvement":
        return plan
    # The supervised training has the settings of a stage of its own; later rounds begin from the
    # recipe's.
    retained = {name: getattr(plan, name) for name in SHARED_BY_STAGES}
    return base_plan(recipe).model_copy(update=retained)
