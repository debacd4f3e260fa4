"""The exported model of a training: a clean checkpoint, interpolated or merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from components.errors import RatchetError
from components.modeling.encoding import Codec
from components.modeling.likelihood import CompletionLoss, EncodedRow, mean_loss
from components.modeling.load import load_model, save_checkpoint
from components.train.process.depth import Sources, starting_model
from components.train.process.interpolate import choose_share
from components.train.process.job import Job

INTERPOLATION_ROWS = 32
"""Dev rows of a batch, while shares of the base are compared."""


@dataclass(frozen=True)
class Exported:
    """Facts of the exported model beside its files."""

    share: float | None = None
    """Share of the trained model, where it was interpolated with the base."""
    losses: dict[str, float] | None = None
    """Share → dev loss."""


def export(
    job: Job,
    weights: Mapping[str, Tensor],
    codec: Codec,
    dev_rows: Sequence[EncodedRow],
    sources: Sources | None = None,
) -> Exported:
    """Write the checkpoint `model/` of the trained weights, and with LoRA `adapter/`.

    `sources` is the order of layers that the training began with, as `planned_sources` returned it.
    Raises RatchetError if a tensor is missing, unknown, or not what base and adapter explain.
    """
    if job.lora is not None:
        _export_merged(job, weights, codec)
        return Exported()
    # A fresh copy takes the weights: under ZeRO-3 the trained module holds only its partition.
    clean = starting_model(job, sources)
    _fill(clean, weights)
    exported = Exported()
    if job.section.interpolate and dev_rows:
        exported = _interpolate(job, clean, codec, dev_rows)
    save_checkpoint(clean, codec.tokenizer, job.output / "model")
    return exported


def _fill(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    # A tied weight comes under its other name; buffers are not trained.
    tied = set(model.all_tied_weights_keys or {})
    buffers = {name for name, _ in model.named_buffers()}
    # A frozen weight is as it was loaded.
    frozen = {
        name for name, weight in model.named_parameters() if not weight.requires_grad
    }
    if unexpected or set(missing) - tied - buffers - frozen:
        raise RatchetError(
            f"export: weights do not fit the model (missing {missing[:3]}, unknown "
            f"{unexpected[:3]})"
        )


def _interpolate(
    job: Job, clean: PreTrainedModel, codec: Codec, dev_rows: Sequence[EncodedRow]
) -> Exported:
    assert job.base is not None, "the step gives the base where it is needed"
    loss = CompletionLoss(clean)

    def loss_of(weights: Mapping[str, Tensor]) -> float:
        clean.load_state_dict(dict(weights))
        return mean_loss(loss, dev_rows, codec.pad_id, INTERPOLATION_ROWS)

    # Copies, because loss_of overwrites the model's own.
    trained = {name: value.clone() for name, value in clean.state_dict().items()}
    chosen = choose_share(load_model(job.base).state_dict(), trained, loss_of)
    clean.load_state_dict(chosen.weights)
    # JSON has no number for a loss that is not finite.
    losses: dict[str, float] = {}
    for share, value in chosen.losses.items():
        if math.isfinite(value):
            losses[str(share)] = value
    return Exported(chosen.share, losses)


def _export_merged(job: Job, weights: Mapping[str, Tensor], codec: Codec) -> None:
    from components.train.process.adapter_merge import (
        merged_state,
        plain_state,
        verify_merge,
    )
    from components.train.process.adapters import attach, save_adapter

    assert job.lora is not None
    adapted = attach(load_model(job.init), job.lora)
    _, unexpected = adapted.load_state_dict(dict(weights), strict=False)
    if unexpected:
        raise RatchetError(f"export: the adapted model has no {unexpected[:3]}")
    save_adapter(adapted, job.lora, job.output / "adapter")
    clean = load_model(job.init)
    _fill(clean, merged_state(adapted))
    save_checkpoint(clean, codec.tokenizer, job.output / "model")
    # The files are compared, not the models in memory: saving is checked as well.
    verify_merge(
        plain_state(load_model(job.init)),
        job.output / "adapter",
        plain_state(load_model(job.output / "model")),
    )
