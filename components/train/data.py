"""Which rows each optimizer step sees: drawn by weight, grouped by length, the same for any number of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

GROUP = 16
"""Batches that are sorted by length together."""


def draw(weights: Sequence[float], count: int, seed: int) -> npt.NDArray[np.int64]:
    """`count` row indices in random order, row i about count·w_i/Σw times: systematic resampling, so every row is drawn
    its expected number of times to within one, and equal weights give whole epochs."""
    shares = np.asarray(weights, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permutation(len(shares))
    edges = np.cumsum(shares[order]) / shares.sum() * count
    ticks = np.arange(count) + generator.random()
    picked = np.minimum(np.searchsorted(edges, ticks, side="right"), len(shares) - 1)
    return generator.permutation(order[picked])


def plan_batches(
    weights: Sequence[float], lengths: Sequence[int], steps: int, batch_size: int, *, group_by_length: bool, seed: int
) -> list[list[int]]:
    """`steps` lists of `batch_size` row indices.

    With `group_by_length` rows of similar length share a batch (sorted within GROUP batches at a time, the batches then
    shuffled), so padding is small while every part of training still sees all lengths.
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
    """The rows of a batch one process works on: every world_size-th by length, so all have about the same work."""
    ordered = sorted(batch, key=lambda index: (-lengths[index], index))
    return ordered[rank::world_size]


def learning_rate_at(
    step: int, steps: int, peak: float, *, warmup_share: float, schedule: str, min_ratio: float
) -> float:
    """Linear warm-up to `peak`, then constant or a cosine down to min_ratio·peak at the last step (1608.03983)."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - warmup - 1)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
