"""Causes in what the candidate had to learn with: too few trained parameters, or too little time.

Each check is a function of the evidence that returns a finding or None. Thresholds are named at the
top; like those of `training_causes`, no source gives them.
"""

from __future__ import annotations

from components.decide.reflection.evidence import HIGH_LOSS, NOTICEABLE_NATS, Evidence
from components.decide.reflection.plan import Finding
from components.decide.reflection.training_causes import (
    STUCK,
    overfitting,
    still_falling,
    underfitting,
)

FITS_ALIKE = 1.1
"""Dev loss over training loss up to which a model has not begun to memorise."""


def stopped_too_soon(evidence: Evidence) -> Finding | None:
    """Report a training that was stopped early while its loss fell and the dev loss was level."""
    train = evidence.training
    best = train.best_dev_loss
    final = train.final_dev_loss
    if evidence.improved or not train.stopped_early or best is None or final is None:
        return None
    falling = still_falling(evidence.losses)
    if falling is None or final - best > NOTICEABLE_NATS:
        return None
    return evidence.finding(
        "stopped_too_soon",
        0.6,
        "patience_up",
        f"early stopping ended the training at step {train.steps} of {evidence.plan.steps}, while "
        f"training loss was still falling ({falling:.1%} over the last fifth) and dev loss stood "
        f"at {final:.4f}, best {best:.4f}",
        "a lower dev loss",
        measure="dev_loss",
        direction="down",
    )


def too_little_capacity(evidence: Evidence) -> Finding | None:
    """Report adapters, or layers, that are too few for the rows.

    The training loss is high and flat, and no lower than on dev rows; or the round is underfitted.
    Where all there is may be trained, and no layer inserted, nothing is reported.
    """
    train = evidence.training
    structure = _small_structure(evidence)
    if structure is None or evidence.improved or train.stopped_early:
        return None
    loss = train.final_loss
    dev_loss = train.final_dev_loss
    falling = still_falling(evidence.losses) is not None
    # A model that fits rows it has seen much better than others has room to memorise them.
    stuck = evidence["loss_fall"] <= 1 - STUCK
    alike = dev_loss is None or dev_loss <= FITS_ALIKE * loss or stuck
    flat = not falling and loss > HIGH_LOSS and alike and overfitting(evidence) is None
    if not flat and underfitting(evidence) is None:
        return None
    course = "was still falling" if falling else "had flattened"
    description = f"with {structure} the training loss {course} at {loss:.4f}"
    if dev_loss is not None:
        description += f", dev loss is {dev_loss:.4f}"
    has_adapters = evidence.plan.lora is not None
    # A loss that still falls may only need more steps, which `underfitting` asks for with a higher
    # priority.
    return evidence.finding(
        "too_little_capacity",
        0.6 if falling else 0.7,
        "structure_up" if has_adapters else "trained_layers_up",
        description,
        "a lower final training loss; if the structure is at its bounds, raise "
        + ("train.lora.max_rank" if has_adapters else "train.layers.max_extra"),
        measure="dev_loss",
        direction="down",
        otherwise=None if has_adapters else "layers_up",
    )


def _small_structure(evidence: Evidence) -> str | None:
    """Return what is trained, in words, where more of it could be; else None."""
    if evidence.plan.lora is not None:
        return f"{evidence.plan.lora} beside the frozen base"
    layers = evidence.plan.layers
    bounds = evidence.recipe.train.layers
    if layers is None or bounds is None:
        return None
    # Whether a number of trained layers is all of them is not known here.
    if layers.trained == "all" and layers.extra >= bounds.max_extra:
        return None
    return f"layers {layers}"
