"""Sampling with a cache: length-sorted batches, one prefill for all samples of a prompt, a seed per sample.

A sample depends on the model, its prompt and its own seed: the uniform numbers it is drawn with are fixed before the
first token, so neither its neighbours in the batch nor the number of shards change what is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache


@dataclass(frozen=True)
class Request:
    """One prompt and the seeds of the samples wanted from it."""

    ids: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """One sampled continuation, without its end token."""

    request: int
    """Index of the request."""
    index: int
    """Which of the request's seeds."""
    ids: list[int]
    finished: bool
    """The model ended it itself."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_k 0 means the whole vocabulary."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    batch_size: int


def sample(
    model: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    end_ids: tuple[int, ...],
    pad_id: int,
    on_batch: Callable[[int, float], None] = lambda done, rate: None,
) -> Iterator[Answer]:
    """Yield every answer of every request, in order of prompt length. `on_batch` gets answers so far and tokens/s."""
    order = sorted(range(len(requests)), key=lambda index: (len(requests[index].ids), index))
    begun, done, tokens = time.monotonic(), 0, 0
    for group in _batches(order, requests, sampling.batch_size):
        for answer in _sample_batch(model, requests, group, sampling, end_ids, pad_id):
            done, tokens = done + 1, tokens + len(answer.ids) + answer.finished
            yield answer
        on_batch(done, tokens / max(time.monotonic() - begun, 1e-9))


def _batches(order: list[int], requests: Sequence[Request], batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """Lists of (request, seed index), at most `batch_size` long, all samples of a prompt side by side."""
    batch: list[tuple[int, int]] = []
    for request in order:
        for index in range(len(requests[request].seeds)):
            batch.append((request, index))
            if len(batch) == batch_size:
                yield batch
                batch = []
    if batch:
        yield batch


@torch.inference_mode()
def _sample_batch(
    model: Any,
    requests: Sequence[Request],
    group: list[tuple[int, int]],
    sampling: Sampling,
    end_ids: tuple[int, ...],
    pad_id: int,
) -> list[Answer]:
    device = model.device
    logits, cache, mask, positions = _prefill(model, requests, group, pad_id)
    uniforms = _uniforms(requests, group, sampling).to(device)
    ends = torch.tensor(end_ids, device=device)
    rows = torch.arange(len(group), device=device)  # which answers are still in the batch
    tokens = torch.full((len(group), sampling.max_new_tokens), pad_id, dtype=torch.long, device=device)
    lengths = torch.full((len(group),), sampling.max_new_tokens, dtype=torch.long, device=device)
    finished = torch.zeros(len(group), dtype=torch.bool, device=device)
    for step in range(sampling.max_new_tokens):
        chosen = _choose(logits, uniforms[rows, step], sampling)
        fresh = torch.isin(chosen, ends) & ~finished[rows]
        lengths[rows[fresh]] = step
        finished[rows[fresh]] = True
        tokens[rows, step] = chosen
        alive = ~finished[rows]
        num_alive = int(alive.sum())
        if num_alive == 0 or step + 1 == sampling.max_new_tokens:
            break
        if num_alive <= 0.75 * len(rows):  # finished rows leave the batch; below that the copy costs more than it saves
            kept = alive.nonzero(as_tuple=True)[0]
            cache.batch_select_indices(kept)
            rows, chosen, positions = rows[kept], chosen[kept], positions[kept]
            mask = mask[kept] if mask is not None else None
        positions = positions + 1
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [
        Answer(request, index, tokens[row, : int(lengths[row])].tolist(), bool(finished[row]))
        for row, (request, index) in enumerate(group)
    ]


def _prefill(
    model: Any, requests: Sequence[Request], group: list[tuple[int, int]], pad_id: int
) -> tuple[Tensor, Cache, Tensor | None, Tensor]:
    """Run each distinct prompt once, then repeat its cache for each of its samples. Padded left if lengths differ."""
    distinct = list(dict.fromkeys(request for request, _ in group))
    length = max(len(requests[index].ids) for index in distinct)
    ids = torch.full((len(distinct), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(distinct), length), dtype=torch.long)
    for row, index in enumerate(distinct):
        prompt = torch.tensor(requests[index].ids, dtype=torch.long)
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    padded = bool((mask == 0).any())
    ids, mask, positions = ids.to(model.device), mask.to(model.device), positions.to(model.device)
    # The model makes the cache: what it holds is keys and values in one, a recurrent state in another.
    output = model(
        input_ids=ids, attention_mask=mask if padded else None, position_ids=positions, use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    logits, cache = output.logits[:, -1], output.past_key_values
    if len(distinct) < len(group):
        place = {request: row for row, request in enumerate(distinct)}
        repeat = torch.tensor([place[request] for request, _ in group], device=model.device)
        cache.batch_select_indices(repeat)
        logits, mask, positions = logits[repeat], mask[repeat], positions[repeat]
    return logits, cache, mask if padded else None, positions[:, -1:]


def _uniforms(requests: Sequence[Request], group: list[tuple[int, int]], sampling: Sampling) -> Tensor:
    """(batch, max_new_tokens) numbers in [0, 1): each row from its own seed alone."""
    if sampling.temperature == 0:
        return torch.zeros(len(group), sampling.max_new_tokens)
    generator = torch.Generator()
    rows = []
    for request, index in group:
        generator.manual_seed(requests[request].seeds[index])
        rows.append(torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution at `uniform`. Top-k comes before the softmax:
    normalising and drawing over a whole large vocabulary costs more than a small model's layers."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    count = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    values, ids = logits.float().topk(count, dim=-1)
    probabilities = (values / sampling.temperature).softmax(dim=-1).double()
    cumulative = probabilities.cumsum(dim=-1)
    if sampling.top_p < 1.0:
        outside = cumulative - probabilities >= sampling.top_p
        probabilities = probabilities.masked_fill(outside, 0.0)
        cumulative = probabilities.cumsum(dim=-1)
    threshold = (uniform[:, None].double() * cumulative[:, -1:]).contiguous()
    picked = torch.searchsorted(cumulative.contiguous(), threshold, right=True).clamp(max=count - 1)
    return ids.gather(1, picked)[:, 0]
