"""Reflection: from a round's numbers to likely causes, each with evidence, confidence and one bounded change.

Every check is a small function of the evidence that returns a finding or None; thresholds are named at the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from components.common.recipe import Recipe
from components.common.state import Plan, Verdict
from components.common.statistics import mcnemar_two_sided
from components.decide.gate import Comparison, Scores
from components.decide.plan import Finding, Turn, ladder_of

HELDOUT_RISE = 1.05
"""Final over best held-out loss from which training went on too long."""
NOTICEABLE_NATS = 0.01
"""A smaller change of a loss says nothing: on a solved task a loss of 0.0004 may well double."""
STILL_FALLING = 0.05
"""Relative fall of the training loss from the fourth to the last fifth of the steps that says it was cut short."""
STUCK = 0.9
"""Last over first training loss above which hardly anything was learned."""
HIGH_LOSS = 0.3
"""Nats per token: below it there is little left to learn, so a flat curve says nothing."""
FITS_ALIKE = 1.1
"""Held-out over training loss up to which a model has not begun to memorise: more of it could be learned."""
FEW_PASSED = 0.1
FEW_DISTINCT = 0.1
"""Share of the samples beyond each prompt's first that say something new."""
SOLVED = 0.9
"""Share of prompts with an accepted answer above which sameness is no problem."""
FINISHED = 0.9
SETTLED = 0.6
"""Confidence in a cause is multiplied by this when the round was good all the same: do not mend what works."""
ONLY_REPEATED = ("duplicate", "near_duplicate", "cap")
"""Reasons that refuse a good answer because there are enough like it."""


@dataclass(frozen=True)
class Evidence:
    """What reflection looks at: one finished round."""

    recipe: Recipe
    round: int
    verdict: Verdict
    plan: Plan
    """The knobs of this round."""
    train: dict[str, Any]
    """Summary of the train receipt."""
    losses: Sequence[float | None]
    """Training loss step by step; None or not finite where a step was skipped."""
    finished_share: float
    """Of this round's samples; of the evaluation in round 0."""
    candidate: Scores
    select: dict[str, Any] | None = None
    """Summary of the select receipt; None in round 0."""
    comparison: Comparison | None = None


def diagnose(evidence: Evidence) -> list[Finding]:
    """All findings, most confident first. None if the candidate was promoted and nothing stands out."""
    found = [finding for check in CHECKS if (finding := check(evidence)) is not None]
    return sorted(found, key=lambda one: (-one.confidence, one.name))


def optimizer_trouble(evidence: Evidence) -> Finding | None:
    """Steps whose loss or gradient was not finite."""
    skipped = int(evidence.train.get("skipped_steps") or 0)
    wild = sum(loss is None or not math.isfinite(loss) for loss in evidence.losses)
    if not skipped and not wild:
        return None
    return _finding(
        evidence, "optimizer_trouble", 0.95, "learning_rate_down",
        f"{skipped} steps skipped and {wild} losses not finite of {evidence.train['steps']} steps",
        "no skipped steps",
    )  # fmt: skip


def base_not_mastered(evidence: Evidence) -> Finding | None:
    """The ladder is to be climbed from a base that is not solved."""
    ladder = ladder_of(evidence.recipe)
    if evidence.round != 0 or ladder is None:
        return None
    name = f"length={ladder.labelled[1]}"
    accuracy = evidence.candidate.accuracy(name)
    if accuracy >= ladder.mastery:
        return None
    return _finding(
        evidence, "base_not_mastered", 0.9, "steps_up",
        f"the longest labelled problems ({name}) are at {accuracy:.4f}, mastery is {ladder.mastery:.2f}: the base is "
        "not solved, and what it teaches itself will hold its errors; raise train.first.steps or data.tasks.labelled",
        f"{name} at {ladder.mastery:.2f} or above",
    )  # fmt: skip


def truncation(evidence: Evidence) -> Finding | None:
    """Answers are cut off: hot sampling rambles, or the limit is too low."""
    if evidence.finished_share >= FINISHED:
        return None
    turn: Turn | None = "temperature_down" if evidence.round > 0 else None
    return _finding(
        evidence, "truncation", 0.9, turn,
        f"only {evidence.finished_share:.3f} of the answers ended before generate.max_new_tokens "
        f"({evidence.recipe.generate.max_new_tokens})",
        f"at least {FINISHED} of the answers end by themselves; if not, raise generate.max_new_tokens",
    )  # fmt: skip


def too_few_accepted(evidence: Evidence) -> Finding | None:
    """Hardly any sample was good enough to teach."""
    select, least = evidence.select, evidence.recipe.select.min_accepted
    if select is None:
        return None
    repeated = sum(select["dropped"].get(reason, 0) for reason in ONLY_REPEATED)
    passed = (select["accepted"] + repeated) / max(1, select["generated"])
    if passed >= FEW_PASSED and select["accepted"] >= 2 * least:
        return None
    # Greedy samples of one prompt are all the same: more of them would find nothing new.
    turn: Turn | None = "samples_up" if evidence.plan.temperature > 0 else None
    reasons = ", ".join(f"{name} {count}" for name, count in select["dropped"].items())
    return _finding(
        evidence, "too_few_accepted", 0.85, turn,
        f"{select['accepted']} of {select['generated']} samples accepted ({passed:.3f} passed the quality filters; "
        f"select.min_accepted is {least}; dropped: {reasons or 'none'})",
        "more accepted rows; if not, easier prompts or a longer first stage",
    )  # fmt: skip


def low_diversity(evidence: Evidence) -> Finding | None:
    """Several samples per prompt that nearly all say the same, while prompts are left unsolved."""
    select, samples = evidence.select, evidence.plan.samples_per_prompt
    if evidence.recipe.train.num_peers > 1:
        return None  # the samples are votes of several models: that they agree is what is asked for
    if select is None or samples < 2 or select["prompts_accepted"] / max(1, select["prompts"]) >= SOLVED:
        return None
    fresh = (select["distinct_share"] - 1 / samples) / (1 - 1 / samples)
    greedy = evidence.plan.temperature == 0.0
    if fresh >= FEW_DISTINCT and not greedy:
        return None
    return _finding(
        evidence, "low_diversity", 0.9 if greedy else 0.7, "temperature_up",
        f"{samples} samples per prompt at temperature {evidence.plan.temperature:g}, {select['distinct_share']:.3f} of "
        f"them distinct ({1 / samples:.3f} is the least), and {select['prompts'] - select['prompts_accepted']} of "
        f"{select['prompts']} prompts without an accepted answer",
        "more distinct answers and more prompts with an accepted one",
    )  # fmt: skip


def overfitting(evidence: Evidence) -> Finding | None:
    """Training loss fell while held-out loss rose again, or training was stopped early because it did."""
    train = evidence.train
    best, final = train.get("best_heldout_loss"), train.get("final_heldout_loss")
    if best is None or final is None or final - best <= NOTICEABLE_NATS or train["final_loss"] >= train["first_loss"]:
        return None
    early = bool(train["stopped_early"]) and train["best_step"] < 0.5 * evidence.plan.steps
    if final <= HELDOUT_RISE * best and not early:
        return None
    return _finding(
        evidence, "overfitting", 0.8, "steps_down" if early else "weight_decay_up",
        f"held-out loss rose from {best:.4f} (step {train['best_step']}) to {final:.4f} while training loss fell from "
        f"{train['first_loss']:.4f} to {train['final_loss']:.4f}"
        + (f"; stopped at step {train['steps']} of {evidence.plan.steps}" if early else ""),
        "the final held-out loss stays near the best",
    )  # fmt: skip


def underfitting(evidence: Evidence) -> Finding | None:
    """Training ended before the loss had settled, or hardly moved it, and brought no gain."""
    train = evidence.train
    if evidence.verdict == "promoted" or train["stopped_early"]:
        return None
    falling = still_falling(evidence.losses)
    stuck = train["final_loss"] > HIGH_LOSS and train["final_loss"] > STUCK * train["first_loss"]
    if falling is None and not stuck:
        return None
    if stuck:
        said = f"training loss went only from {train['first_loss']:.4f} to {train['final_loss']:.4f}"
        return _finding(evidence, "underfitting", 0.7, "learning_rate_up", said, "a clearly lower training loss")
    return _finding(
        evidence, "underfitting", 0.7, "steps_up",
        f"training loss was still falling when the {train['steps']} steps ended ({falling:.1%} over the last fifth, "
        f"final {train['final_loss']:.4f})",
        "a lower final training loss and a gain in accuracy",
    )  # fmt: skip


def too_little_capacity(evidence: Evidence) -> Finding | None:
    """Adapters that cannot take in what they are shown: the training loss is high and flat, on rows never seen too, or
    the round is underfitted anyhow. Only where a frozen base leaves room to train more."""
    train, structure = evidence.train, evidence.plan.lora
    if structure is None or evidence.verdict == "promoted" or train["stopped_early"]:
        return None
    loss, heldout = train["final_loss"], train.get("final_heldout_loss")
    falling = still_falling(evidence.losses) is not None
    flat = not falling and loss > HIGH_LOSS and (heldout is None or heldout <= FITS_ALIKE * loss)
    if not flat and underfitting(evidence) is None:
        return None
    course = "was still falling" if falling else "had flattened"
    alike = f", held-out loss is {heldout:.4f}" if heldout is not None else ""
    # A loss that still falls may only want more steps, which `underfitting` asks for with more confidence.
    return _finding(
        evidence, "too_little_capacity", 0.6 if falling else 0.7, "structure_up",
        f"with {structure} beside the frozen base the training loss {course} at {loss:.4f}{alike}",
        "a lower final training loss; if the structure is at its bounds, raise train.lora.max_rank",
    )  # fmt: skip


def forgetting(evidence: Evidence) -> Finding | None:
    """The candidate is significantly worse: what it learned from itself pushed out what it knew."""
    comparison = evidence.comparison
    if comparison is None or comparison.wins >= comparison.losses:
        return None
    p_value = mcnemar_two_sided(comparison.wins, comparison.losses)
    if p_value > 0.05:
        return None
    lost = comparison.losses / comparison.pairs
    return _finding(
        evidence, "forgetting", 0.75, "learning_rate_down" if lost > 0.1 else "human_share_up",
        f"{comparison.losses} of {comparison.pairs} prompts lost, {comparison.wins} won (two-sided p = {p_value:.2g})",
        "fewer lost prompts",
    )  # fmt: skip


CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    optimizer_trouble, base_not_mastered, truncation, too_few_accepted, low_diversity, overfitting, underfitting,
    too_little_capacity, forgetting,
)  # fmt: skip


def still_falling(losses: Sequence[float | None]) -> float | None:
    """Relative fall of the mean loss from the fourth to the last fifth of the steps, None if it had settled."""
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    fifth = len(finite) // 5
    if fifth < 2:
        return None
    earlier, last = fmean(finite[-2 * fifth : -fifth]), fmean(finite[-fifth:])
    if earlier - last <= NOTICEABLE_NATS or earlier - last <= STILL_FALLING * earlier:
        return None
    return (earlier - last) / earlier


def _finding(evidence: Evidence, name: str, confidence: float, turn: Turn | None, said: str, predicted: str) -> Finding:
    settled = SETTLED if evidence.verdict in ("promoted", "first") else 1.0
    return Finding(name=name, evidence=said, confidence=confidence * settled, turn=turn, predicted=predicted)
