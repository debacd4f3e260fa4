"""Pairs of preference training: encoded, and measured by the model before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from components.contracts.rows import TrainingRow
from components.modeling.batches import length_sorted_batches
from components.modeling.encoding import Codec
from components.modeling.likelihood import IGNORED, Batch, EncodedRow, collate_pairs
from components.train.process.objective import PreferenceObjective


def with_worse(encoded: EncodedRow, row: TrainingRow, codec: Codec) -> EncodedRow:
    """Return an encoded row with the worse answer of its training row, if that has one."""
    if row.worse is None:
        return encoded
    conversation = row.conversation
    prompt = row.prompt if conversation is None else conversation.before_answer
    ids, num_masked = codec.sampled_ids(prompt, row.worse)
    return replace(encoded, worse=EncodedRow(ids, num_masked))


@torch.no_grad()
def reference_margins(
    objective: PreferenceObjective,
    rows: Sequence[EncodedRow],
    pad_id: int,
    batch_size: int,
    device: torch.device,
) -> list[float]:
    """Return log π(row) - log π(worse row) of each row, in nats, by the model as it is (collective).

    Every process computes its share of length-sorted batches.

    Args:
        objective: the engine's module; it is left in training mode.
        rows: rows with a worse row.
        pad_id: filler of shorter rows.
        batch_size: rows of a forward pass; the worse rows come on top.
        device: of the model.
    """
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    batches = list(length_sorted_batches([row.longest for row in rows], batch_size))
    margins = torch.zeros(len(rows), dtype=torch.float64, device=device)
    idle_row = EncodedRow([pad_id, pad_id], 2)
    objective.eval()
    for start in range(0, len(batches), world_size):
        index = start + rank
        # Under ZeRO-3 a forward pass gathers weights from all processes: one without work computes
        # a batch without loss.
        if index >= len(batches):
            objective(collate_pairs([idle_row], pad_id).to(device))
            continue
        indices = batches[index]
        batch = collate_pairs([rows[position] for position in indices], pad_id)
        better_losses, worse_losses = objective(batch.to(device)).double().chunk(2)
        margins[torch.tensor(indices, device=device)] = worse_losses - better_losses
    objective.train()
    if world_size > 1:
        dist.all_reduce(margins)
    values: list[float] = margins.tolist()
    return values


def idle_batch(pad_id: int) -> Batch:
    """Return a batch without loss, for a process without work while others compute."""
    ids = torch.full((1, 2), pad_id, dtype=torch.long)
    return Batch(ids, torch.full_like(ids, IGNORED))
