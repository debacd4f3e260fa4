"""Choice of the next token: fixed random numbers per sample, top-k before the softmax, inversion of
the cumulative distribution."""

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
    """Settings of a draw. temperature 0 is greedy; top_k 0 means the whole vocabulary."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    batch_size: int


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """Return (seeds, count) numbers in [0, 1), float64, by SplitMix64.

    Row i depends on seed i alone, and a larger count does not change the first numbers (Steele, Lea
    and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    # Arrays of uint64 wrap around silently, as the algorithm wants it; numpy's scalars warn.
    steps = np.arange(1, count + 1, dtype=np.uint64)
    steps *= np.uint64(0x9E3779B97F4A7C15)
    first_states = np.array(seeds, dtype=np.uint64)
    state = first_states[:, None] + steps
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    # 53 bits are the mantissa of a float64.
    mantissa = (state >> np.uint64(11)).astype(np.float64)
    return torch.from_numpy(mantissa * 2.0**-53)


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Return one token id for each row.

    Args:
        logits: (batch, vocabulary).
        uniform: (batch,) numbers in [0, 1) at which the cumulative distribution is inverted.
        sampling: temperature, top-k and top-p.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    vocabulary = logits.shape[-1]
    count = min(sampling.top_k or vocabulary, vocabulary)
    if count == vocabulary and sampling.top_p == 1.0:
        return _inverted(logits.float(), uniform, sampling.temperature)
    # Top-k comes first: a softmax and a draw over the whole of a large vocabulary cost more than a
    # small model's layers (a draw over 49,152 tokens took 28 % of the time of SmolLM2-135M).
    values, ids = top(logits, count)
    values = values.float()
    if sampling.top_p < 1.0:
        probabilities = (values / sampling.temperature).softmax(dim=-1).double()
        likelier_mass = probabilities.cumsum(dim=-1) - probabilities
        values = values.masked_fill(likelier_mass >= sampling.top_p, -torch.inf)
    # In the order of token ids, not of probability: tokens that are all but equally likely then do
    # not change places when rounding does.
    ids, order = ids.sort(dim=-1)
    values = values.gather(1, order)
    picked = _inverted(values, uniform, sampling.temperature)
    return ids.gather(1, picked[:, None])[:, 0]


def top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return (values, token ids) of the `count` largest of each row, sorted as `Tensor.topk` does.

    Only the blocks with the largest maxima are searched: the largest values lie in them.
    """
    batch, vocabulary = logits.shape
    num_blocks = vocabulary // BLOCK_TOKENS
    if num_blocks < 4 * count:
        values, ids = logits.topk(count, dim=-1)
        return values, ids
    num_blocked = num_blocks * BLOCK_TOKENS
    blocked_logits = logits[:, :num_blocked]
    blocks = blocked_logits.unflatten(1, (num_blocks, BLOCK_TOKENS))
    maxima = blocks.amax(dim=-1)
    block_ids = maxima.topk(count, dim=-1, sorted=False).indices
    searched_blocks = block_ids.unsqueeze(-1)
    block_values = blocks.gather(1, searched_blocks.expand(-1, -1, BLOCK_TOKENS))
    offsets = torch.arange(BLOCK_TOKENS, device=logits.device)
    block_token_ids = searched_blocks * BLOCK_TOKENS + offsets
    # The tokens behind the last whole block are always searched.
    tail_values = logits[:, num_blocked:]
    tail_ids = torch.arange(num_blocked, vocabulary, device=logits.device)
    tail_ids = tail_ids.expand(batch, -1)
    searched_values = torch.cat([block_values.flatten(1), tail_values], 1)
    searched_ids = torch.cat([block_token_ids.flatten(1), tail_ids], 1)
    values, positions = searched_values.topk(count, dim=-1)
    return values, searched_ids.gather(1, positions)


def _inverted(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Return the index at which the running sum of softmax(scores / temperature) passes `uniform`.

    One for each row.
    """
    # Summed in float64: a float32 sum near 1 does not change by probabilities below 6e-8.
    probabilities = (scores / temperature).softmax(dim=-1).double()
    cumulative = probabilities.cumsum(dim=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    indices = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return indices.clamp(max=scores.shape[-1] - 1)
