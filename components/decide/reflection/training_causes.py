"""Causes that lie in how the candidate was trained. Each check is a small function of the evidence
that returns a finding or None; thresholds are named at the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from components.decide.reflection.evidence import HIGH_LOSS, NOTICEABLE_NATS, Evidence
from components.decide.reflection.plan import Finding
from components.statistics import mcnemar_two_sided

DEV_RISE, FAR_RISE = 1.05, 1.2
"""Final over best dev loss from which training went on too long, and much too long."""
STILL_FALLING = 0.05
"""Relative fall of the training loss from the fourth to the last fifth of the steps that says it
was cut short."""
STILL_FALLING_OF_FEW = 0.15
"""The same where a fifth is a single step, whose loss is noisy."""
STUCK = 0.9
"""Last over first training loss above which hardly anything was learned."""
FITS_ALIKE = 1.1
"""Dev loss over training loss up to which a model has not begun to memorise: it could learn more."""
CLIMBED_NATS, CLIMBED = 0.2, 1.1
"""Training whose loss ends so far above where it began, and that takes human text with it, is
thrown about."""
EXPLODED_NATS, EXPLODED = 1.5, 4.0
"""So far above where it began, it has lost on the way what the champion knew, even if it found it
again."""
UNCHANGED_ANSWERS, MOSTLY_UNCHANGED, UNCHANGED_LOSS = 0.97, 0.6, 0.06
"""Share of validation answers equal to the champion's from which training has not moved the model;
a smaller one is enough where the loss on human text has changed by less than a small part of
itself."""
FEW_SPIKES = 2
"""Up to so many losses that stand out may be odd batches."""


def optimizer_trouble(evidence: Evidence) -> Finding | None:
    """Steps whose loss or gradient was not finite, or losses that spike."""
    skipped = evidence.train.skipped_steps
    wild = sum(loss is None or not math.isfinite(loss) for loss in evidence.losses)
    spiked = evidence["loss_spikes"] > FEW_SPIKES
    if not skipped and not wild and not spiked:
        return None
    measure = "skipped_steps" if skipped or wild else "loss_spikes"
    more = f", {evidence['loss_spikes']:.0f} losses far above those around them" if spiked else ""
    return evidence.found(
        "optimizer_trouble",
        0.95 if skipped or wild else 0.8,
        "learning_rate_down",
        f"{skipped} steps skipped and {wild} losses not finite of {evidence.train.steps} steps{more}",
        "no skipped steps" if measure == "skipped_steps" else "fewer spikes",
        measure=measure,
        direction="down",
    )


def learning_rate_too_high(evidence: Evidence) -> Finding | None:
    """Training makes its own loss worse: it ends, or climbs on the way, well above where it began."""
    first, last, peak = evidence["first_loss"], evidence["last_loss"], evidence["peak_loss"]
    ends_higher = last > first + CLIMBED_NATS and last > CLIMBED * first
    climbs = peak > first + 3 * CLIMBED_NATS and peak > 2 * CLIMBED * first
    explodes = peak > first + EXPLODED_NATS and peak > EXPLODED * first
    # Human text tells being thrown about from rows that are hard to learn.
    ends_higher = ends_higher and evidence["human_loss_rise"] > CLIMBED_NATS
    if not ends_higher and not explodes and not (climbs and evidence["human_loss_rise"] > 0.0):
        return None
    return evidence.found(
        "learning_rate_too_high",
        0.9 if ends_higher or explodes else 0.8,
        "learning_rate_down",
        f"training loss began at {first:.4f}, climbed to {peak:.4f} and ended at {last:.4f}, and the loss on human "
        f"text changed by {evidence['human_loss_rise']:+.4f}, at learning rate {evidence.plan.learning_rate:g}",
        "a lower final training loss",
        measure="last_loss",
        direction="down",
    )


def learning_rate_too_low(evidence: Evidence) -> Finding | None:
    """Training moves nothing: there is much to learn, the loss is where it was and so are the
    answers."""
    same = evidence["same_answers"]
    little = (
        abs(evidence["human_loss_rise"]) <= UNCHANGED_LOSS * evidence["human_loss"]
        and evidence.plan.lora is None
    )
    unmoved = same >= UNCHANGED_ANSWERS or (same >= MOSTLY_UNCHANGED and little)
    if not unmoved or not evidence["loss_fall"] <= 1 - STUCK or evidence.verdict == "promoted":
        return None
    if evidence["last_loss"] <= HIGH_LOSS or evidence["epochs"] < 1.0:
        return None
    return evidence.found(
        "learning_rate_too_low",
        0.85,
        "learning_rate_up",
        f"{evidence['same_answers']:.1%} of the answers are the champion's, and training loss went only from "
        f"{evidence['first_loss']:.4f} to {evidence['last_loss']:.4f} in {evidence.train.steps} steps at learning "
        f"rate {evidence.plan.learning_rate:g}",
        "a candidate that answers differently, with a lower training loss",
        measure="dev_loss",
        direction="down",
        otherwise="steps_up",
    )


def base_not_mastered(evidence: Evidence) -> Finding | None:
    """The ladder is to be climbed from a base that is not solved."""
    ladder = evidence.recipe.data.ladder
    if evidence.verdict != "first" or ladder is None:
        return None
    name = f"length={ladder.labelled[1]}"
    accuracy = evidence.candidate.accuracy(name)
    if accuracy >= ladder.mastery:
        return None
    return evidence.found(
        "base_not_mastered",
        0.9,
        "steps_up",
        f"the longest labelled problems ({name}) are at {accuracy:.4f}, mastery is {ladder.mastery:.2f}: the base is "
        "not solved, and what it teaches itself will hold its errors; raise train.first.steps or data.tasks.labelled",
        f"{name} at {ladder.mastery:.2f} or above",
    )


def overfitting(evidence: Evidence) -> Finding | None:
    """Training loss fell while dev loss rose again, or training was stopped early because it
    did."""
    train = evidence.train
    best, final = train.best_dev_loss, train.final_dev_loss
    if (
        best is None
        or final is None
        or final - best <= NOTICEABLE_NATS
        or train.final_loss >= train.first_loss
    ):
        return None
    early = train.stopped_early and train.best_step < 0.5 * evidence.plan.steps
    if final <= DEV_RISE * best and not early:
        return None
    far = early or final > FAR_RISE * best
    return evidence.found(
        "overfitting",
        0.9 if final > FAR_RISE * best else 0.8,
        "steps_down" if far else "weight_decay_up",
        f"dev loss rose from {best:.4f} (step {train.best_step}) to {final:.4f} while training loss fell from "
        f"{train.first_loss:.4f} to {train.final_loss:.4f}"
        + (f"; stopped at step {train.steps} of {evidence.plan.steps}" if early else ""),
        "the final dev loss stays near the best",
        measure="dev_rise",
        direction="down",
        otherwise="noise_up" if far else "steps_down",
    )


def underfitting(evidence: Evidence) -> Finding | None:
    """Training ended before the loss had settled, or hardly moved it, and brought no gain."""
    train = evidence.train
    if evidence.verdict == "promoted" or train.stopped_early:
        return None
    falling = still_falling(evidence.losses)
    stuck = train.final_loss > HIGH_LOSS and train.final_loss > STUCK * train.first_loss
    rising = evidence["human_loss_rise"] > UNCHANGED_LOSS * evidence["human_loss"]
    if evidence["epochs"] < 1.0 and evidence["last_loss"] > HIGH_LOSS and not rising:
        return evidence.found(
            "underfitting",
            0.75,
            "steps_up",
            f"{train.steps} steps saw {evidence['epochs']:.2f} of the mix once, the loss is still "
            f"{evidence['last_loss']:.4f}, and on human text it does not rise",
            "a lower final training loss and a gain in accuracy",
            measure="dev_loss",
            direction="down",
            otherwise="learning_rate_up",
        )
    if falling is None and not stuck:
        return None
    if stuck:
        said = f"training loss went only from {train.first_loss:.4f} to {train.final_loss:.4f}"
        return evidence.found(
            "underfitting",
            0.6,
            "learning_rate_up",
            said,
            "a clearly lower training loss",
            measure="dev_loss",
            direction="down",
            otherwise="steps_up",
        )
    return evidence.found(
        "underfitting",
        0.7,
        "steps_up",
        f"training loss was still falling when the {train.steps} steps ended ({falling:.1%} over the last fifth, "
        f"final {train.final_loss:.4f})",
        "a lower final training loss and a gain in accuracy",
        measure="dev_loss",
        direction="down",
        otherwise="learning_rate_up",
    )


def too_little_capacity(evidence: Evidence) -> Finding | None:
    """Adapters that cannot take in what they are shown: the training loss is high and flat, on rows
    never seen too, or the round is underfitted anyhow. Only where a frozen base leaves room to
    train more."""
    train, structure = evidence.train, evidence.plan.lora
    if structure is None or evidence.verdict == "promoted" or train.stopped_early:
        return None
    loss, dev_loss = train.final_loss, train.final_dev_loss
    falling = still_falling(evidence.losses) is not None
    alike = dev_loss is None or dev_loss <= FITS_ALIKE * loss or evidence["loss_fall"] <= 1 - STUCK
    flat = not falling and loss > HIGH_LOSS and alike
    if not flat and underfitting(evidence) is None:
        return None
    course = "was still falling" if falling else "had flattened"
    beside = f", dev loss is {dev_loss:.4f}" if dev_loss is not None else ""
    # A loss that still falls may only want more steps, which `underfitting` asks for with more
    # confidence.
    return evidence.found(
        "too_little_capacity",
        0.6 if falling else 0.7,
        "structure_up",
        f"with {structure} beside the frozen base the training loss {course} at {loss:.4f}{beside}",
        "a lower final training loss; if the structure is at its bounds, raise train.lora.max_rank",
        measure="dev_loss",
        direction="down",
    )


def forgetting(evidence: Evidence) -> Finding | None:
    """The candidate is significantly worse: what it learned from itself pushed out what it knew."""
    comparison = evidence.comparison
    if comparison is None or comparison.wins >= comparison.losses:
        return None
    p_value = mcnemar_two_sided(comparison.wins, comparison.losses)
    if p_value > 0.05:
        return None
    lost = comparison.losses / comparison.pairs
    return evidence.found(
        "forgetting",
        0.65,
        "learning_rate_down" if lost > 0.1 else "labelled_share_up",
        f"{comparison.losses} of {comparison.pairs} prompts lost, {comparison.wins} won (two-sided p = {p_value:.2g})",
        "fewer lost prompts",
        measure="accuracy",
        direction="up",
        otherwise="labelled_share_up" if lost > 0.1 else "learning_rate_down",
    )


def still_falling(losses: Sequence[float | None]) -> float | None:
    """Relative fall of the mean loss from the fourth to the last fifth of the steps, None if it had
    settled (or if there are fewer than five steps, of which nothing can be said)."""
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    fifth = len(finite) // 5
    if fifth < 1:
        return None
    earlier, last = fmean(finite[-2 * fifth : -fifth]), fmean(finite[-fifth:])
    least = STILL_FALLING if fifth > 1 else STILL_FALLING_OF_FEW
    if earlier - last <= NOTICEABLE_NATS or earlier - last <= least * earlier:
        return None
    return (earlier - last) / earlier
