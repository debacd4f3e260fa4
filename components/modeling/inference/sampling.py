"""Which token comes next: fixed random numbers per sample, top-k before the softmax, the
distribution inverted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK_TOKENS = 64
"""Neighbouring tokens that one maximum stands for in `top`."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_k 0 means the whole vocabulary."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    batch_size: int


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """(seeds, count) numbers in [0, 1), float64: row i depends on seed i alone, and more of them do
    not change the first. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), all rows at once."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = np.array(seeds, dtype=np.uint64)[:, None] + steps  # arrays of uint64 wrap around
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """One token for each row of `logits` (batch, vocabulary), by inverting its cumulative
    distribution at `uniform`.

    Top-k comes first: a softmax and a draw over a whole large vocabulary cost more than a small
    model's layers. The distribution is laid out in the order of token ids, not of probability, so
    tokens that are all but equally likely do not change places when rounding does.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    count = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    if count == logits.shape[-1] and sampling.top_p == 1.0:
        return _inverted(logits.float(), uniform, sampling.temperature)
    values, ids = top(logits, count)
    values = values.float()
    if sampling.top_p < 1.0:
        likely = (values / sampling.temperature).softmax(dim=-1).double()
        values = values.masked_fill(likely.cumsum(dim=-1) - likely >= sampling.top_p, -torch.inf)
    ids, place = ids.sort(dim=-1)
    picked = _inverted(values.gather(1, place), uniform, sampling.temperature)
    return ids.gather(1, picked[:, None])[:, 0]


def top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and where they are, like `Tensor.topk`, sorted.

    The largest values lie in the blocks with the largest maxima, so only those blocks are searched.
    """
    batch, size = logits.shape
    blocks = size // BLOCK_TOKENS
    if blocks < 4 * count:
        values, ids = logits.topk(count, dim=-1)
        return values, ids
    whole = logits[:, : blocks * BLOCK_TOKENS].unflatten(1, (blocks, BLOCK_TOKENS))
    block_ids = whole.amax(dim=-1).topk(count, dim=-1, sorted=False).indices
    candidates = whole.gather(1, block_ids[..., None].expand(-1, -1, BLOCK_TOKENS)).flatten(1)
    ids = (
        block_ids[..., None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS, device=logits.device)
    ).flatten(1)
    rest = torch.arange(blocks * BLOCK_TOKENS, size, device=logits.device).expand(batch, -1)
    candidates, ids = (
        torch.cat([candidates, logits[:, blocks * BLOCK_TOKENS :]], 1),
        torch.cat([ids, rest], 1),
    )
    values, place = candidates.topk(count, dim=-1)
    return values, ids.gather(1, place)


def _inverted(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Index of the token of each row at which softmax(scores / temperature), summed up, passes
    `uniform`."""
    cumulative = (scores / temperature).softmax(dim=-1).double().cumsum(dim=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[-1] - 1)[
        :, 0
    ]
