"""Sampling with a cache: length-sorted batches, one prefill for all samples of a prompt, a seed per
sample.

A sample depends on the model, its prompt and its own seed: the uniform numbers it is drawn with are
fixed before the first token, so neither its neighbours in the batch nor the number of shards change
what is drawn. Batches of another make do change rounding, of which bfloat16 has much: for equal
bits ask in equal batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from components.errors import UserError
from components.modeling.inference.attention import NAME
from components.modeling.inference.kv_cache import make_room, select_rows
from components.modeling.inference.sampling import Sampling, choose, uniforms
from components.modeling.memory import is_out_of_memory
from components.modeling.weights import learned_positions

__all__ = ["Answer", "OnBatch", "Request", "Sampler", "Sampling", "sample"]

MAX_ACTIVE_SHARE = 0.75
"""Finished rows leave the batch once no more than this share is unfinished."""

OnBatch = Callable[[int, int], None]
"""Called after each batch with (answers, tokens) drawn so far."""


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
    """Index of the seed among the request's seeds."""
    ids: list[int]
    finished: bool
    """The model ended it itself."""


@dataclass
class _ActiveRows:
    """The rows that the model is run on, in the batch's order."""

    indices: Tensor
    """(rows,) index of each row in the batch."""
    cache: Cache
    mask: Tensor | None
    """(rows, prompt and answer tokens) attention mask; None without padding."""
    positions: Tensor
    """(rows, 1) position of each row's last token."""

    def select(self, selected: Tensor) -> None:
        """Drop all other rows."""
        select_rows(self.cache, selected)
        self.indices = self.indices[selected]
        self.positions = self.positions[selected]
        if self.mask is not None:
            self.mask = self.mask[selected]


def sample(
    model: PreTrainedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    end_ids: tuple[int, ...],
    pad_id: int,
    on_batch: OnBatch = lambda num_answers, num_tokens: None,
) -> Iterator[Answer]:
    """Yield every answer of every request, in order of prompt length. See `Sampler.draw`."""
    return Sampler(model, sampling, end_ids, pad_id).draw(requests, on_batch)


# SmolLM2-135M on two CPU cores: one prompt at a time in float32 gives 23 tokens a second, such
# batches in bfloat16 878. torch.compile and static caches were tried too: at most 10 % faster,
# after 84 seconds of compiling.
class Sampler:
    """Draws from one model, in batches that fit into memory."""

    def __init__(
        self,
        model: PreTrainedModel,
        sampling: Sampling,
        end_ids: tuple[int, ...],
        pad_id: int,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` is called with a line of text when memory did not suffice for a batch."""
        self.batch_size = sampling.batch_size
        """Rows drawn together; halved, for good, when memory does not suffice."""
        self._model = model
        self._sampling = sampling
        self._note = note
        self._end_ids = end_ids
        self._pad_id = pad_id
        self._positions = learned_positions(model)

    def draw(
        self,
        requests: Sequence[Request],
        on_batch: OnBatch = lambda num_answers, num_tokens: None,
    ) -> Iterator[Answer]:
        """Yield every answer of every request, in order of prompt length.

        Raises UserError if memory does not suffice for a single row, or for a prompt that leaves no
        position for an answer.
        """
        self._check_positions(requests)
        # Neighbours in a batch are of about one length, so little of it is padding.
        lengths = [len(request.ids) for request in requests]
        order = sorted(range(len(requests)), key=lambda request: lengths[request])
        rows: list[tuple[int, int]] = []
        for request in order:
            num_seeds = len(requests[request].seeds)
            rows += [(request, index) for index in range(num_seeds)]
        num_answers = 0
        num_tokens = 0
        while num_answers < len(rows):
            group = rows[num_answers : num_answers + self.batch_size]
            answers = self._batch_or_none(requests, group)
            if answers is None:
                self._halve(len(group))
                continue
            num_answers += len(group)
            num_tokens += sum(len(answer.ids) + answer.finished for answer in answers)
            yield from answers
            on_batch(num_answers, num_tokens)

    def _check_positions(self, requests: Sequence[Request]) -> None:
        longest = max((len(request.ids) for request in requests), default=0)
        if self._positions is not None and longest >= self._positions:
            raise UserError(
                f"a prompt has {longest} tokens and the model {self._positions} positions: leave "
                "the prompt out, or take a model with a longer context"
            )

    def _max_answer_tokens(self, request: Request) -> int:
        max_new_tokens = self._sampling.max_new_tokens
        if self._positions is None:
            return max_new_tokens
        return min(max_new_tokens, self._positions - len(request.ids))

    def _batch_or_none(
        self, requests: Sequence[Request], group: list[tuple[int, int]]
    ) -> list[Answer] | None:
        """Return the answers of one batch; None if memory did not suffice."""
        try:
            answers: list[Answer] = self._batch(requests, group)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return answers

    def _halve(self, failed: int) -> None:
        if failed == 1:
            raise UserError(
                "out of memory while one answer was drawn: use a machine with more memory, or "
                "lower generate.max_new_tokens"
            )
        # torch's allocator still holds the failed batch's memory, in blocks of its sizes.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.batch_size = failed // 2
        self._note(
            f"out of memory with {failed} rows: {self.batch_size} rows a batch from here on"
        )

    @torch.inference_mode()
    def _batch(
        self, requests: Sequence[Request], group: list[tuple[int, int]]
    ) -> list[Answer]:
        """Draw one answer for each (request, seed index) of a group."""
        device = self._model.device
        num_steps = self._sampling.max_new_tokens
        logits, active = self._prefill(requests, group)
        dice = self._dice(requests, group)
        ends = torch.tensor(self._end_ids, device=device)
        max_lengths = []
        for request, _ in group:
            max_lengths.append(self._max_answer_tokens(requests[request]))
        limits = torch.tensor(max_lengths, device=device)
        lengths = limits.clone()
        finished = torch.zeros(len(group), dtype=torch.bool, device=device)
        shape = (len(group), num_steps)
        tokens = torch.full(shape, self._pad_id, dtype=torch.long, device=device)
        for step in range(num_steps):
            rows = active.indices
            chosen = choose(logits, dice[rows, step], self._sampling)
            tokens[rows, step] = chosen
            is_end = torch.isin(chosen, ends)
            ends_now = is_end & ~finished[rows] & (step < limits[rows])
            lengths[rows[ends_now]] = step
            finished[rows[ends_now]] = True
            unfinished = ~finished[rows] & (step + 1 < limits[rows])
            num_unfinished = int(unfinished.sum())
            if num_unfinished == 0 or step + 1 == num_steps:
                break
            # Each selection copies the cache, so it waits until it saves a quarter of the work.
            if num_unfinished <= MAX_ACTIVE_SHARE * len(rows):
                selected = unfinished.nonzero(as_tuple=True)[0]
                active.select(selected)
                chosen = chosen[selected]
            logits = self._next_logits(active, chosen, num_steps - step - 1)
        # One copy to the host for all rows: each copy waits for the device.
        rows_of_tokens = tokens.tolist()
        num_tokens = lengths.tolist()
        ended = finished.tolist()
        answers = []
        for row, (request, index) in enumerate(group):
            ids = rows_of_tokens[row][: num_tokens[row]]
            answers.append(Answer(request, index, ids, finished=ended[row]))
        return answers

    def _dice(
        self, requests: Sequence[Request], group: list[tuple[int, int]]
    ) -> Tensor:
        """Return (rows, steps) uniform numbers, each row from its own seed."""
        # Fixed before the first token: neither a row's neighbours nor its batch change its draw.
        greedy = self._sampling.temperature == 0
        seeds = []
        for request, index in group:
            seeds.append(0 if greedy else requests[request].seeds[index])
        dice = uniforms(seeds, self._sampling.max_new_tokens)
        return dice.to(self._model.device)

    def _next_logits(
        self, active: _ActiveRows, chosen: Tensor, num_steps_left: int
    ) -> Tensor:
        """Run the model on the tokens just chosen; return the logits of the next ones."""
        active.positions = active.positions + 1
        if self._positions is not None:
            # Rows that are over and still in the batch would run past the embedding. Nothing looks
            # at what comes out for them.
            active.positions = active.positions.clamp(max=self._positions - 1)
        mask = active.mask
        if mask is not None:
            mask = mask[:, : mask.shape[1] - num_steps_left]
        output = self._model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=active.positions,
            cache=active.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _prefill(
        self, requests: Sequence[Request], group: list[tuple[int, int]]
    ) -> tuple[Tensor, _ActiveRows]:
        """Run each distinct prompt once, then repeat its cache for each of its samples.

        Prompts are padded on the left if their lengths differ. Returns the logits (rows,
        vocabulary) of the first token, and the rows.
        """
        distinct = list(dict.fromkeys(request for request, _ in group))
        length = max(len(requests[request].ids) for request in distinct)
        device = self._model.device
        ids = torch.full((len(distinct), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(distinct), length), dtype=torch.long)
        for row, request in enumerate(distinct):
            prompt = torch.tensor(requests[request].ids, dtype=torch.long)
            ids[row, length - len(prompt) :] = prompt
            mask[row, length - len(prompt) :] = 1
        padded = bool((mask == 0).any())
        # Of padding it is -1 before the clamp: nothing looks at what comes out for it.
        positions = mask.cumsum(dim=1) - 1
        positions = positions.clamp(min=0).to(device)
        mask = mask.to(device)
        # The model makes the cache: keys and values in most, a recurrent state in an LSTM.
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=mask if padded else None,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        repeat = None
        if len(distinct) < len(group):
            row_of = {request: row for row, request in enumerate(distinct)}
            rows = [row_of[request] for request, _ in group]
            repeat = torch.tensor(rows, device=device)
            logits = logits[repeat]
            mask = mask[repeat]
            positions = positions[repeat]
        num_steps = self._sampling.max_new_tokens
        always_masked = self._model.config._attn_implementation in ("eager", NAME)
        make_room(output.cache, repeat, num_steps, masked=always_masked)
        full_mask = None
        if padded:
            answer_mask = mask.new_ones(len(group), num_steps)
            full_mask = torch.cat([mask, answer_mask], dim=1)
        active = _ActiveRows(
            indices=torch.arange(len(group), device=device),
            cache=output.cache,
            mask=full_mask,
            positions=positions[:, -1:],
        )
        return logits, active
