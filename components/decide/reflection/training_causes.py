"""Causes in the training of the candidate.

Each check is a function of the evidence that returns a finding or None. Thresholds are named at the
top. No source gives them: they were chosen on the first three seeds of `tests.benchmarks.diagnosis`,
and its figures say what they are worth on other seeds, milder faults and other kinds of fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from components.decide.reflection.changes import Change
from components.decide.reflection.evidence import HIGH_LOSS, NOTICEABLE_NATS, Evidence
from components.decide.reflection.plan import Finding
from components.statistics import mcnemar_two_sided

DEV_RISE = 1.05
"""Final over best dev loss above which training went on too long."""
FAR_RISE = 1.2
"""The same, for much too long."""
STILL_FALLING = 0.05
"""Relative fall of the training loss from the fourth to the last fifth of the steps, above which
training ended too early."""
STILL_FALLING_OF_FEW = 0.15
"""The same where a fifth is a single step, whose loss is noisy."""
STUCK = 0.9
"""Last over first training loss above which hardly anything was learned."""
CLIMBED_NATS = 0.2
CLIMBED = 1.1
"""A training loss climbs if it rises by this many nats, and by this factor, above its beginning."""
EXPLODED_NATS = 1.5
EXPLODED = 4.0
"""A loss that rises by this much, and by this factor, has lost what the champion knew on the way,
even if it falls again."""
FITTED_NATS = 0.02
"""Training loss, in nats per token, below which the rows are learned: their tokens have a probability
of 98 % on average, so a loss that still falls lacks no steps."""
UNCHANGED_ANSWERS = 0.97
"""Share of validation answers equal to the champion's from which training has moved nothing."""
MOSTLY_UNCHANGED = 0.6
"""The same, where the loss on human text has not changed either."""
UNCHANGED_LOSS = 0.06
"""Relative change of the loss on human text up to which it has not changed."""
FEW_SPIKES = 2
"""Spikes of the loss that may be odd batches."""


def optimizer_trouble(evidence: Evidence) -> Finding | None:
    """Report steps whose loss or gradient was not finite, and losses that spike."""
    num_skipped = evidence.training.skipped_steps
    num_not_finite = sum(
        loss is None or not math.isfinite(loss) for loss in evidence.losses
    )
    spiked = evidence["loss_spikes"] > FEW_SPIKES
    if not num_skipped and not num_not_finite and not spiked:
        return None
    description = (
        f"{num_skipped} steps skipped and {num_not_finite} losses not finite "
        f"of {evidence.training.steps} steps"
    )
    if spiked:
        description += (
            f", {evidence['loss_spikes']:.0f} losses far above those around them"
        )
    has_lost_steps = num_skipped > 0 or num_not_finite > 0
    return evidence.finding(
        "optimizer_trouble",
        0.95 if has_lost_steps else 0.8,
        "learning_rate_down",
        description,
        "no skipped steps" if has_lost_steps else "fewer spikes",
        measure="skipped_steps" if has_lost_steps else "loss_spikes",
        direction="down",
        # Loss and gradient of more rows are less noisy; one that is not finite stays so.
        otherwise=None if has_lost_steps else "batch_size_up",
    )


def learning_rate_too_high(evidence: Evidence) -> Finding | None:
    """Report a training loss that ends, or climbs on the way, well above its beginning."""
    first = evidence["first_loss"]
    last = evidence["last_loss"]
    peak = evidence["peak_loss"]
    # A loss also rises on rows that are hard to learn; but then human text does not suffer.
    human_loss_rise = evidence["human_loss_rise"]
    ends_higher = last > first + CLIMBED_NATS and last > CLIMBED * first
    ends_higher = ends_higher and human_loss_rise > CLIMBED_NATS
    climbs = peak > first + 3 * CLIMBED_NATS and peak > 2 * CLIMBED * first
    climbs = climbs and human_loss_rise > 0.0
    explodes = peak > first + EXPLODED_NATS and peak > EXPLODED * first
    if not ends_higher and not explodes and not climbs:
        return None
    return evidence.finding(
        "learning_rate_too_high",
        0.9 if ends_higher or explodes else 0.8,
        "learning_rate_down",
        f"training loss began at {first:.4f}, climbed to {peak:.4f} and ended at {last:.4f}, "
        f"and the loss on human text changed by {human_loss_rise:+.4f}, "
        f"at learning rate {evidence.plan.learning_rate:g}",
        "a lower final training loss",
        measure="last_loss",
        direction="down",
    )


def learning_rate_too_low(evidence: Evidence) -> Finding | None:
    """Report a training that moves neither the loss nor the answers, with much left to learn."""
    same = evidence["same_answers"]
    # Greedy answers of a model that has hardly moved still flip on prompts where it was undecided.
    # Adapters that take in nothing are `too_little_capacity`.
    human_loss_unchanged = (
        abs(evidence["human_loss_rise"]) <= UNCHANGED_LOSS * evidence["human_loss"]
    )
    mostly_unmoved = (
        same >= MOSTLY_UNCHANGED and human_loss_unchanged and evidence.plan.lora is None
    )
    unmoved = same >= UNCHANGED_ANSWERS or mostly_unmoved
    stuck = evidence["loss_fall"] <= 1 - STUCK
    if not unmoved or not stuck or evidence.improved:
        return None
    # With little left to learn nothing needs to move, and rows not seen once could move nothing.
    if evidence["last_loss"] <= HIGH_LOSS or evidence["epochs"] < 1.0:
        return None
    return evidence.finding(
        "learning_rate_too_low",
        0.85,
        "learning_rate_up",
        f"{same:.1%} of the answers are the champion's, and training loss went only "
        f"from {evidence['first_loss']:.4f} to {evidence['last_loss']:.4f} "
        f"in {evidence.training.steps} steps at learning rate {evidence.plan.learning_rate:g}",
        "a candidate that answers differently, with a lower training loss",
        measure="dev_loss",
        direction="down",
        otherwise="steps_up",
    )


def base_not_mastered(evidence: Evidence) -> Finding | None:
    """Report a ladder whose labelled lengths are not mastered by the supervised training."""
    ladder = evidence.recipe.data.ladder
    candidate = evidence.candidate
    if evidence.plan.training != "supervised" or ladder is None or candidate is None:
        return None
    name = f"length={ladder.labelled[1]}"
    accuracy = candidate.value(name)
    if accuracy >= ladder.mastery:
        return None
    return evidence.finding(
        "base_not_mastered",
        0.9,
        "steps_up",
        f"the longest labelled problems ({name}) are at {accuracy:.4f}, "
        f"mastery is {ladder.mastery:.2f}: "
        "the base is not solved, and what it teaches itself will hold its errors; "
        "raise train.first.steps or data.tasks.labelled",
        f"{name} at {ladder.mastery:.2f} or above",
    )


def overfitting(evidence: Evidence) -> Finding | None:
    """Report a dev loss that rose again while training loss fell, or stopped the training early."""
    train = evidence.training
    best = train.best_dev_loss
    final = train.final_dev_loss
    if best is None or final is None or final - best <= NOTICEABLE_NATS:
        return None
    # Where training loss rises too, the learning rate is to blame, not memory.
    if train.final_loss >= train.first_loss:
        return None
    # Stopping early is what early stopping is for; well before half of the steps it is a sign.
    early = train.stopped_early and train.best_step < 0.5 * evidence.plan.steps
    if final <= DEV_RISE * best and not early:
        return None
    description = (
        f"dev loss rose from {best:.4f} (step {train.best_step}) to {final:.4f} "
        f"while training loss fell from {train.first_loss:.4f} to {train.final_loss:.4f}"
    )
    if early:
        description += f"; stopped at step {train.steps} of {evidence.plan.steps}"
    far = early or final > FAR_RISE * best
    changes: list[Change] = (
        ["steps_down", "noise_up"] if far else ["weight_decay_up", "steps_down"]
    )
    if _may_drop_more_words(evidence):
        # New copies of the rows take away what there is to memorise, and leave the model its steps.
        changes.insert(0, "word_dropout_up")
    change, otherwise, *further = changes
    return evidence.finding(
        "overfitting",
        0.9 if final > FAR_RISE * best else 0.8,
        change,
        description,
        "the final dev loss stays near the best",
        measure="dev_rise",
        direction="down",
        otherwise=otherwise,
        further=(
            *further,
            "dropout_up",
            "structure_down",
            "trained_layers_down",
            "layers_down",
            "patience_down",
        ),
    )


def _may_drop_more_words(evidence: Evidence) -> bool:
    """Return True if the recipe has an augmentation whose word dropout is below its bound."""
    augmentation = evidence.recipe.train.rounds.augmentation
    return (
        augmentation is not None
        and augmentation.word_dropout < augmentation.max_word_dropout
    )


def underfitting(evidence: Evidence) -> Finding | None:
    """Report a training that ended before the loss settled, or hardly moved it, without a gain."""
    train = evidence.training
    if evidence.improved or train.stopped_early:
        return None
    # A model that memorises its rows has had steps enough.
    if overfitting(evidence) is not None:
        return None
    falling = still_falling(evidence.losses)
    stuck = train.final_loss > HIGH_LOSS and train.final_loss > STUCK * train.first_loss
    rising = evidence["human_loss_rise"] > UNCHANGED_LOSS * evidence["human_loss"]
    # Rows that were never drawn could not be learned, whatever the curve looks like. But where
    # human text suffers, more steps of the same would do more harm.
    if evidence["epochs"] < 1.0 and evidence["last_loss"] > HIGH_LOSS and not rising:
        return evidence.finding(
            "underfitting",
            0.75,
            "steps_up",
            f"{train.steps} steps saw {evidence['epochs']:.2f} of the mix once, "
            f"the loss is still {evidence['last_loss']:.4f}, and on human text it does not rise",
            "a lower final training loss and a gain in accuracy",
            measure="dev_loss",
            direction="down",
            otherwise="learning_rate_up",
            further=("dropout_down",),
        )
    if falling is None and not stuck:
        return None
    if stuck:
        return evidence.finding(
            "underfitting",
            0.6,
            "learning_rate_up",
            f"training loss went only from {train.first_loss:.4f} to {train.final_loss:.4f}",
            "a clearly lower training loss",
            measure="dev_loss",
            direction="down",
            otherwise="steps_up",
            further=("dropout_down",),
        )
    return evidence.finding(
        "underfitting",
        0.7,
        "steps_up",
        f"training loss was still falling when the {train.steps} steps ended "
        f"({falling:.1%} over the last fifth, final {train.final_loss:.4f})",
        "a lower final training loss and a gain in accuracy",
        measure="dev_loss",
        direction="down",
        otherwise="learning_rate_up",
        further=("dropout_down",),
    )


def forgetting(evidence: Evidence) -> Finding | None:
    """Report a candidate that is significantly worse: new rows pushed out the old knowledge."""
    comparison = evidence.comparison
    if comparison is None or comparison.wins >= comparison.losses:
        return None
    p_value = mcnemar_two_sided(comparison.wins, comparison.losses)
    if p_value > 0.05:
        return None
    # Many lost prompts say that training went too far, a few that old rows came too seldom.
    lost_share = comparison.losses / comparison.pairs
    return evidence.finding(
        "forgetting",
        0.65,
        "learning_rate_down" if lost_share > 0.1 else "labelled_share_up",
        f"{comparison.losses} of {comparison.pairs} prompts lost, {comparison.wins} won "
        f"(two-sided p = {p_value:.2g})",
        "fewer lost prompts",
        measure="accuracy",
        direction="up",
        otherwise="labelled_share_up" if lost_share > 0.1 else "learning_rate_down",
        further=("kl_beta_up",),
    )


def still_falling(losses: Sequence[float | None]) -> float | None:
    """Return the relative fall of the mean loss from the fourth to the last fifth of the steps.

    None if the loss had settled, or left nothing to learn, or with fewer than five steps.
    """
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    fifth = len(finite) // 5
    if fifth < 1:
        return None
    fourth_mean = fmean(finite[-2 * fifth : -fifth])
    last_mean = fmean(finite[-fifth:])
    fall = fourth_mean - last_mean
    least_share = STILL_FALLING if fifth > 1 else STILL_FALLING_OF_FEW
    if (
        fall <= NOTICEABLE_NATS
        or fall <= least_share * fourth_mean
        or last_mean <= FITTED_NATS
    ):
        return None
    return fall / fourth_mean
