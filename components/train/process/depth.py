"""Depth of the model a training starts from, and the layers that it trains (`train.layers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from transformers import AutoConfig, PreTrainedModel

from components.errors import UserError
from components.modeling.blocks import (
    block_influences,
    identity_sources,
    inserted_layers,
    least_influential_removed,
    parameters_of_layers,
    rebuilt,
)
from components.modeling.likelihood import EncodedRow
from components.modeling.load import load_model
from components.train.process.job import Job

# Each layer's influence is a mean over all of their tokens.
INFLUENCE_ROWS = 16
"""Training rows that the influence of layers is measured on."""

Sources = tuple[int, ...]
"""The order of a model's layers, as `components.modeling.blocks` has it."""


def planned_sources(
    job: Job, rows: Sequence[EncodedRow], device: torch.device
) -> Sources | None:
    """Return the order of the layers of the model that a job starts from (collective).

    None if they are as many as planned. Raises UserError if no layer would be left.
    """
    if job.layers is None or job.base_layers is None:
        return None
    num_layers = AutoConfig.from_pretrained(
        job.init, local_files_only=True
    ).num_hidden_layers
    target = job.base_layers + job.layers.extra
    if target < 1:
        raise UserError(
            f"train.layers.extra {job.layers.extra}: the base has {job.base_layers} decoder "
            f"layers, and one has to stay: set it to {1 - job.base_layers} or more"
        )
    if target == num_layers:
        return None
    if target > num_layers:
        return identity_sources(num_layers, target)
    influences = torch.zeros(num_layers, dtype=torch.float64, device=device)
    if dist.get_rank() == 0:
        checked_rows = [row.ids for row in rows[:INFLUENCE_ROWS]]
        influences += torch.tensor(
            block_influences(load_model(job.init), checked_rows), device=device
        )
    # Measured once: other processors may round otherwise, and would take out another layer.
    if dist.get_world_size() > 1:
        dist.broadcast(influences, 0)
    return least_influential_removed(influences.tolist(), target)


def in_words(sources: Sources) -> str:
    """Return a sentence about an order of layers, numbered from 0 as they were."""
    copied = [
        layer for position, layer in enumerate(sources) if layer in sources[:position]
    ]
    layers = copied or sources
    listed = ", ".join(str(layer) for layer in layers)
    fate = "identities are inserted behind" if copied else "left are"
    return f"the model gets {len(sources)} decoder layers: {fate} {listed}"


def starting_model(
    job: Job, sources: Sources | None, settings: Mapping[str, float] | None = None
) -> PreTrainedModel:
    """Return the model that a job starts from, in eval mode; what is not trained is frozen.

    Args:
        job: says which layers are trained.
        sources: `planned_sources` of the job.
        settings: values for the model's config.

    Raises:
        UserError: the model cannot have these layers.
    """
    model = load_model(job.init, settings=settings)
    if sources is not None:
        # Layers that a base brings from an earlier campaign are its own.
        is_base = model.config.num_hidden_layers == job.base_layers
        model = rebuilt(
            model, sources, () if is_base else inserted_layers(model.config)
        )
    if job.layers is not None and job.layers.trained != "all":
        layers = parameters_of_layers(
            model,
            "train.layers.trained",
            "set it to all, or train modules with train.lora",
        )
        if job.layers.trained == "inserted":
            trained = [layers[number] for number in inserted_layers(model.config)]
        else:
            trained = layers[-job.layers.trained :]
        model.requires_grad_(False)
        for names in trained:
            for name in names:
                model.get_parameter(name).requires_grad_(True)
    return model
