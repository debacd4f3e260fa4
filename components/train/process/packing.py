"""Several rows behind each other in one sequence: no work on padding, no row sees another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from components.modeling.likelihood import (
    IGNORED,
    Batch,
    EncodedRow,
    collate,
    split_head,
    states_of,
)


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the indices of `lengths` in groups of at most `capacity` tokens.

    Raises ValueError for a length beyond the capacity.
    """
    # First-fit decreasing: at most 11/9 of the fewest possible groups and one more.
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a row of {max(lengths)} tokens does not fit into {capacity}")
    groups: list[list[int]] = []
    free_tokens: list[int] = []
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for index in longest_first:
        length = lengths[index]
        fitting = (group for group, free in enumerate(free_tokens) if free >= length)
        group = next(fitting, len(groups))
        if group == len(groups):
            groups.append([])
            free_tokens.append(capacity)
        groups[group].append(index)
        free_tokens[group] -= length
    return groups


def collate_packed(groups: Sequence[Sequence[EncodedRow]], pad_id: int) -> Batch:
    """Return a batch with one group per sequence, padded on the right as if by one more row.

    Positions restart at 0 with each row, which is how transformers' masks tell the rows of a
    sequence apart: attention stays inside a row, for `eager` and `sdpa` alike. A model that ignores
    positions (see `keeps_rows_apart`) must not get such a batch.
    """
    group_lengths = [sum(len(row.ids) for row in group) for group in groups]
    shape = (len(groups), max(group_lengths))
    inputs = torch.full(shape, pad_id, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    weights = torch.ones(shape)
    for index, group in enumerate(groups):
        start = 0
        for row in group:
            end = start + len(row.ids)
            ids = torch.tensor(row.ids)
            inputs[index, start:end] = (
                ids if row.inputs is None else torch.tensor(row.inputs)
            )
            # The first token of a row is never a target: the token before it is of another row.
            first_target = start + max(row.num_masked, 1)
            labels[index, first_target:end] = ids[first_target - start :]
            for gap_start, gap_end in row.gaps:
                labels[index, start + gap_start : start + gap_end] = IGNORED
            positions[index, start:end] = torch.arange(len(row.ids))
            weights[index, start:end] = row.weight
            start = end
        # The padding, as if it were one more row.
        positions[index, start:] = torch.arange(shape[1] - start)
    weighted = any(row.weight != 1.0 for group in groups for row in group)
    return Batch(inputs, labels, positions, weights if weighted else None)


def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Return True if `model` gives two packed rows the outputs that each has alone.

    Recurrent models and those whose positions or masks ignore `position_ids` do not; they train
    unpacked. For float32 weights: in bf16 the outputs differ by more than the tolerance here.
    """
    vocabulary = model.config.vocab_size
    rows = [
        EncodedRow([token % vocabulary for token in tokens], 1)
        for tokens in ([1, 2, 3], [4, 5])
    ]
    body, _ = split_head(model)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            batches = [collate([row], 0).to(model.device) for row in rows]
            alone = [states_of(body, batch)[0] for batch in batches]
            packed_batch = collate_packed([rows], 0).to(model.device)
            packed = states_of(body, packed_batch)[0]
    except TypeError:
        # The forward of this model takes no position_ids.
        return False
    finally:
        model.train(training)
    expected = torch.cat(alone).float()
    difference = packed.float() - expected
    return bool(difference.norm() <= 1e-3 * expected.norm())
