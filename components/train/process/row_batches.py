"""Which rows each optimizer step sees: drawn by weight, grouped by length, the same for any number
of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.contracts.rows import TrainingRow
from components.errors import UserError
from components.modeling.encoding import Codec, Encoded, Turns
from components.modeling.likelihood import EncodedRow

GROUP = 16
"""Batches that are sorted by length together."""


@dataclass(frozen=True)
class TrainingSet:
    """Rows as a stage of training sees them."""

    rows: list[EncodedRow]
    shares: list[float]
    """How often each row is drawn, relative to the others."""
    names: list[str]
    """Where each row is from, for messages: its id."""


def training_set(
    rows: Sequence[TrainingRow],
    codec: Codec,
    stage: str,
    *,
    with_text: bool,
    max_length: int,
    weighting: str,
    turns: Turns = "all",
) -> TrainingSet:
    """The rows of one stage: `pretrain` takes raw text alone; `sft` takes rows with a prompt, and
    raw text only `with_text`. Raw text is cut into windows of `max_length` tokens.

    A row's weight is how often it is drawn (`sampling`) or counts in the loss (`loss`, relative to
    the mean weight). Of a conversation `turns` of the assistant bear loss. Raises UserError if there
    is nothing to learn from, or if a row with a prompt is longer than `max_length`.
    """
    chosen = [
        row for row in rows if (stage == "sft" if row.prompt else stage == "pretrain" or with_text)
    ]
    if not chosen:
        needed = "raw text (rows without a prompt)" if stage == "pretrain" else "rows with a prompt"
        raise UserError(
            f"train: the {stage} stage learns from {needed}, and none of the {len(rows)} rows is that"
        )
    encoded, shares, names = list[EncodedRow](), list[float](), list[str]()
    mean = sum(row.weight for row in chosen) / len(chosen)
    for row in chosen:
        weight = row.weight / mean if weighting == "loss" else 1.0
        for one in _encoded(row, codec, max_length, turns):
            encoded.append(EncodedRow(one.ids, one.num_masked, weight, one.gaps))
            shares.append(row.weight if weighting == "sampling" else 1.0)
            names.append(row.id)
    _must_fit(encoded, max_length, stage)
    return TrainingSet(encoded, shares, names)


def dev_set(
    rows: Sequence[TrainingRow], codec: Codec, max_length: int, turns: Turns = "all"
) -> list[EncodedRow]:
    """Return the dev rows, prompts masked; raw text in windows. Raises UserError for a row with a prompt
    that is too long."""
    encoded = [
        EncodedRow(one.ids, one.num_masked, gaps=one.gaps)
        for row in rows
        for one in _encoded(row, codec, max_length, turns)
    ]
    _must_fit(encoded, max_length, "dev")
    return encoded


def _encoded(row: TrainingRow, codec: Codec, max_length: int, turns: Turns) -> list[Encoded]:
    encoded = codec.encode(row, turns)
    if row.prompt:
        return encoded
    return _windows(encoded[0].ids, encoded[0].num_masked, max_length)


def _windows(ids: list[int], num_masked: int, size: int) -> list[Encoded]:
    """Text cut into windows; each begins with the last token of the one before, so every token is
    predicted once."""
    cuts = [Encoded(ids[:size], num_masked)]
    for start in range(size - 1, len(ids) - 1, size - 1):
        cuts.append(Encoded(ids[start : start + size], 1))
    return cuts


def _must_fit(rows: Sequence[EncodedRow], max_length: int, what: str) -> None:
    longest = max((len(row.ids) for row in rows), default=0)
    if longest > max_length:
        count = sum(len(row.ids) > max_length for row in rows)
        raise UserError(
            f"{what}: {count} of {len(rows)} rows are longer than train.max_length {max_length} "
            f"(longest {longest} tokens): raise it or remove them"
        )


def draw(weights: Sequence[float], count: int, seed: int) -> npt.NDArray[np.int64]:
    """`count` row indices in random order, row i about count·w_i/Σw times: systematic resampling,
    so every row is drawn its expected number of times to within one, and equal weights give whole
    epochs."""
    shares = np.asarray(weights, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permutation(len(shares))
    edges = np.cumsum(shares[order]) / shares.sum() * count
    ticks = np.arange(count) + generator.random()
    picked = np.minimum(np.searchsorted(edges, ticks, side="right"), len(shares) - 1)
    return generator.permutation(order[picked])


def plan_batches(
    weights: Sequence[float],
    lengths: Sequence[int],
    steps: int,
    batch_size: int,
    *,
    group_by_length: bool,
    seed: int,
) -> list[list[int]]:
    """`steps` lists of `batch_size` row indices.

    With `group_by_length` rows of similar length share a batch (sorted within GROUP batches at a
    time, the batches then shuffled), so padding is small while every part of training still sees
    all lengths.
    """
    drawn = draw(weights, steps * batch_size, seed)
    generator = np.random.Generator(np.random.PCG64(seed + 1))
    batches: list[list[int]] = []
    for start in range(0, len(drawn), GROUP * batch_size):
        chunk = drawn[start : start + GROUP * batch_size]
        if group_by_length:
            chunk = chunk[np.argsort([lengths[index] for index in chunk], kind="stable")]
        own = [chunk[at : at + batch_size].tolist() for at in range(0, len(chunk), batch_size)]
        batches += [own[index] for index in generator.permutation(len(own))]
    return batches


def share_of(batch: Sequence[int], lengths: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The rows of a batch one process works on: every world_size-th by length, so all have about
    the same work."""
    ordered = sorted(batch, key=lambda index: (-lengths[index], index))
    return ordered[rank::world_size]


def cut(lengths: Sequence[int], most_rows: int, fixed_positions: int) -> list[slice]:
    """Micro-batches of rows that lie sorted by length: neighbours, at most `most_rows` each, so
    that the fewest positions are computed, padding included, where a micro-batch of its own costs
    as much as `fixed_positions`.

    `lengths` are those of the rows in tokens, longest first.
    """
    costs, starts = [0], [0]
    for end in range(1, len(lengths) + 1):
        cost, start = min(
            (costs[start] + (end - start) * lengths[start] + fixed_positions, start)
            for start in range(max(0, end - most_rows), end)
        )
        costs.append(cost)
        starts.append(start)
    slices, end = list[slice](), len(lengths)
    while end:
        slices.append(slice(starts[end], end))
        end = starts[end]
    return slices[::-1]


def learning_rate_at(
    step: int, steps: int, peak: float, *, warmup_share: float, schedule: str, min_ratio: float
) -> float:
    """Linear warm-up to `peak`, then constant or a cosine down to min_ratio·peak at the last step
    (1608.03983)."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - warmup - 1)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
