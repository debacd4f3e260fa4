"""Sampling with a cache: length-sorted batches, one prefill for all samples of a prompt, a seed per
sample.

A sample depends on the model, its prompt and its own seed: the uniform numbers it is drawn with are
fixed before the first token, so neither its neighbours in the batch nor the number of shards change
what is drawn. What batches of another make do change is rounding, of which bfloat16 has much:
whoever needs equal bits asks in equal batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from components.errors import UserError
from components.modeling.inference.attention import NAME
from components.modeling.inference.kv_cache import make_room
from components.modeling.inference.sampling import Sampling, choose, uniforms
from components.modeling.malloc import is_out_of_memory
from components.modeling.weights import learned_positions

__all__ = ["Answer", "Request", "Sampler", "Sampling", "sample"]

WORTH_LEAVING = 0.75
"""Finished rows leave the batch once no more than this share is unfinished: each time the cache is
copied."""


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


def sample(
    model: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    end_ids: tuple[int, ...],
    pad_id: int,
    on_batch: Callable[[int, float], None] = lambda done, rate: None,
) -> Iterator[Answer]:
    """Yield every answer of every request, in order of prompt length. `on_batch` gets answers so
    far and tokens/s."""
    return Sampler(model, sampling, end_ids, pad_id).draw(requests, on_batch)


class Sampler:
    """Draws from one model, in batches that fit into memory."""

    def __init__(
        self,
        model: Any,
        sampling: Sampling,
        end_ids: tuple[int, ...],
        pad_id: int,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` is told when memory did not suffice for a batch."""
        self.batch_size = sampling.batch_size
        """Rows drawn together; halved, for good, when memory does not suffice."""
        self._model, self._sampling, self._note = model, sampling, note
        self._end_ids, self._pad_id = end_ids, pad_id
        self._positions = learned_positions(model)

    def draw(
        self,
        requests: Sequence[Request],
        on_batch: Callable[[int, float], None] = lambda done, rate: None,
    ) -> Iterator[Answer]:
        """What `sample` says. Raises UserError if memory does not suffice for a single row, or for a
        prompt that leaves no position for an answer."""
        self._check_positions(requests)
        order = sorted(range(len(requests)), key=lambda index: (len(requests[index].ids), index))
        rows = [
            (request, index) for request in order for index in range(len(requests[request].seeds))
        ]
        begun, done, tokens = time.monotonic(), 0, 0
        while done < len(rows):
            group = rows[done : done + self.batch_size]
            answers = self._tried(requests, group)
            if answers is None:
                self._halve(len(group))
                continue
            done += len(group)
            tokens += sum(len(answer.ids) + answer.finished for answer in answers)
            yield from answers
            on_batch(done, tokens / max(time.monotonic() - begun, 1e-9))

    def _check_positions(self, requests: Sequence[Request]) -> None:
        longest = max((len(request.ids) for request in requests), default=0)
        if self._positions is not None and longest >= self._positions:
            raise UserError(
                f"a prompt has {longest} tokens and the model {self._positions} positions: leave the prompt out, or "
                "take a model with a longer context"
            )

    def _most_tokens(self, request: Request) -> int:
        """How long an answer can be."""
        steps = self._sampling.max_new_tokens
        return min(steps, (self._positions or len(request.ids) + steps) - len(request.ids))

    def _tried(
        self, requests: Sequence[Request], group: list[tuple[int, int]]
    ) -> list[Answer] | None:
        """The answers of one batch; None if memory did not suffice."""
        try:
            answers: list[Answer] = self._batch(requests, group)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return answers

    def _halve(self, failed: int) -> None:
        if failed == 1:
            raise UserError(
                "out of memory while one answer was drawn: use a machine with more memory, or lower "
                "generate.max_new_tokens"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.batch_size = failed // 2
        self._note(f"out of memory with {failed} rows: {self.batch_size} rows a batch from here on")

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], group: list[tuple[int, int]]) -> list[Answer]:
        device, steps = self._model.device, self._sampling.max_new_tokens
        logits, cache, mask, positions = self._prefill(requests, group)
        greedy = self._sampling.temperature == 0
        seeds = [0 if greedy else requests[request].seeds[index] for request, index in group]
        dice = uniforms(seeds, steps).to(device)
        ends = torch.tensor(self._end_ids, device=device)
        rows = torch.arange(len(group), device=device)  # which answers are still in the batch
        tokens = torch.full((len(group), steps), self._pad_id, dtype=torch.long, device=device)
        limits = torch.tensor(
            [self._most_tokens(requests[request]) for request, _ in group], device=device
        )
        lengths = limits.clone()
        finished = torch.zeros(len(group), dtype=torch.bool, device=device)
        for step in range(steps):
            chosen = choose(logits, dice[rows, step], self._sampling)
            fresh = torch.isin(chosen, ends) & ~finished[rows] & (step < limits[rows])
            lengths[rows[fresh]] = step
            finished[rows[fresh]] = True
            tokens[rows, step] = chosen
            alive = ~finished[rows] & (step + 1 < limits[rows])
            num_alive = int(alive.sum())
            if num_alive == 0 or step + 1 == steps:
                break
            if num_alive <= WORTH_LEAVING * len(rows):
                kept = alive.nonzero(as_tuple=True)[0]
                cache.batch_select_indices(kept)
                rows, chosen, positions = rows[kept], chosen[kept], positions[kept]
                mask = mask[kept] if mask is not None else None
            positions = positions + 1
            if self._positions is not None:
                # Of answers that are over and still in the batch: what comes out is not looked at.
                positions = positions.clamp(max=self._positions - 1)
            logits = self._model(
                input_ids=chosen[:, None],
                attention_mask=None
                if mask is None
                else mask[:, : mask.shape[1] - steps + step + 1],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        ids, counts, ended = tokens.tolist(), lengths.tolist(), finished.tolist()
        return [
            Answer(request, index, ids[row][: counts[row]], ended[row])
            for row, (request, index) in enumerate(group)
        ]

    def _prefill(
        self, requests: Sequence[Request], group: list[tuple[int, int]]
    ) -> tuple[Tensor, Cache, Tensor | None, Tensor]:
        """Run each distinct prompt once, then repeat its cache for each of its samples. Padded left
        if lengths differ.

        Returns the logits of the first token, the cache, the attention mask of prompt and answer
        (None without padding) and the position of each prompt's last token.
        """
        distinct = list(dict.fromkeys(request for request, _ in group))
        length, device = max(len(requests[one].ids) for one in distinct), self._model.device
        ids = torch.full((len(distinct), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(distinct), length), dtype=torch.long)
        for row, one in enumerate(distinct):
            prompt = torch.tensor(requests[one].ids, dtype=torch.long)
            ids[row, length - len(prompt) :] = prompt
            mask[row, length - len(prompt) :] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        padded = bool((mask == 0).any())
        ids, mask, positions = ids.to(device), mask.to(device), positions.to(device)
        # The model makes the cache: what it holds is keys and values in one, a recurrent state in
        # another.
        output = self._model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        logits, cache = output.logits[:, -1], output.past_key_values
        repeat = None
        if len(distinct) < len(group):
            place = {one: row for row, one in enumerate(distinct)}
            repeat = torch.tensor([place[request] for request, _ in group], device=device)
            logits, mask, positions = logits[repeat], mask[repeat], positions[repeat]
        steps, masked = (
            self._sampling.max_new_tokens,
            self._model.config._attn_implementation in ("eager", NAME),
        )
        make_room(cache, repeat, steps, masked=masked)
        answered = mask.new_ones(len(group), steps)
        return (
            logits,
            cache,
            torch.cat([mask, answered], dim=1) if padded else None,
            positions[:, -1:],
        )
