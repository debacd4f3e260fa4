"""Likelihood of given texts: losses of rows and of reference answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.contracts.rows import Prompt
from components.modeling.batches import length_sorted_batches
from components.modeling.encoding import Codec, windows
from components.modeling.likelihood import (
    CHUNK_LOGITS,
    IGNORED,
    Batch,
    EncodedRow,
    collate,
    split_head,
    states_of,
)

# Scores do not depend on it but for the last digits, which change with the padding: a change makes
# new measurements.
TEXT_BATCH = 32
"""Rows of texts of one forward pass."""
# A model that knows nothing has the logarithm of its vocabulary, twelve nats at most.
WORST_TOKEN_LOSS = 100.0
"""In nats. Of a token that a model finds less likely than that, or for which it computes no number."""


@dataclass(frozen=True)
class RowScore:
    """Scores of one row, over the tokens that bear loss."""

    loss: float
    """Sum of the cross-entropies in nats, each WORST_TOKEN_LOSS at most."""
    num_tokens: int
    num_right: int
    """Tokens that the model finds more likely than any other: if it is all of them, greedy decoding
    gives this row."""


@torch.inference_mode()
def score_rows(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda num_rows: None,
    *,
    chunk_tokens: int | None = None,
) -> list[RowScore]:
    """Return teacher-forced scores of every row, in their order; row weights are ignored.

    Args:
        model: in eval mode.
        rows: the rows; they are computed in length-sorted batches.
        pad_id: filler of shorter rows.
        batch_size: rows of a batch.
        on_batch: called with the number of rows of each finished batch.
        chunk_tokens: tokens that go through the head at once; None: as many as have CHUNK_LOGITS
            logits.
    """
    body, head = split_head(model)
    chunk = chunk_tokens or max(1, CHUNK_LOGITS // model.config.vocab_size)
    scores: dict[int, RowScore] = {}
    lengths = [len(row.ids) for row in rows]
    for indices in length_sorted_batches(lengths, batch_size):
        batch_rows = [rows[index] for index in indices]
        batch = collate(batch_rows, pad_id).to(model.device)
        batch_scores = _batch_scores(body, head, batch, chunk)
        scores.update(zip(indices, batch_scores, strict=True))
        on_batch(len(indices))
    return [scores[index] for index in range(len(rows))]


@torch.inference_mode()
def token_log_probabilities(
    model: PreTrainedModel, rows: Sequence[EncodedRow], pad_id: int, batch_size: int
) -> list[list[float]]:
    """Return log π of each token of each row that bears loss, in nats; see `score_rows`."""
    body, head = split_head(model)
    chunk = max(1, CHUNK_LOGITS // model.config.vocab_size)
    values: dict[int, list[float]] = {}
    for indices in length_sorted_batches([len(row.ids) for row in rows], batch_size):
        batch = collate([rows[index] for index in indices], pad_id).to(model.device)
        for index, (losses, _) in zip(
            indices, _token_scores(body, head, batch, chunk), strict=True
        ):
            values[index] = (-losses).tolist()
    return [values[index] for index in range(len(rows))]


def _batch_scores(
    body: nn.Module, head: nn.Module, batch: Batch, chunk: int
) -> list[RowScore]:
    return [
        RowScore(float(losses.sum()), len(losses), int(hits.sum()))
        for losses, hits in _token_scores(body, head, batch, chunk)
    ]


def _token_scores(
    body: nn.Module, head: nn.Module, batch: Batch, chunk: int
) -> list[tuple[Tensor, Tensor]]:
    """Return for each row (cross-entropy of its tokens that bear loss, which are likeliest)."""
    targets = batch.labels[:, 1:]
    chosen = targets != IGNORED
    # The head runs on the tokens that bear loss alone.
    states = states_of(body, batch)[:, :-1]
    # Of a model that is spread over GPUs, body and head end on other ones than they begin.
    states = states[chosen.to(states.device)]
    losses, hits = token_losses(head, states, targets[chosen], chunk)
    counts = chosen.sum(dim=1).tolist()
    return list(zip(losses.split(counts), hits.split(counts), strict=True))


def token_losses(
    head: nn.Module, states: Tensor, targets: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return (cross-entropy of each token in nats, which tokens are likeliest), both (tokens,).

    Args:
        head: what makes logits of states.
        states: the state in front of each token, (tokens, size).
        targets: the tokens, (tokens,).
        chunk: tokens that go through the head at once.
    """
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for chunk_states, truth in zip(
        states.split(chunk), targets.split(chunk), strict=True
    ):
        logits = head(chunk_states).float()
        truth = truth.to(logits.device)
        chunk_losses = F.cross_entropy(logits, truth, reduction="none").double()
        # NaN is the largest of all numbers to argmax.
        hits.append((logits.argmax(dim=-1) == truth) & chunk_losses.isfinite())
        # A broken model is measured, as bad as can be, and does not end the step that measures it.
        numbers = chunk_losses.nan_to_num(nan=WORST_TOKEN_LOSS, posinf=WORST_TOKEN_LOSS)
        losses.append(numbers.clamp(max=WORST_TOKEN_LOSS))
    return torch.cat(losses), torch.cat(hits)


def reference_losses(
    model: PreTrainedModel, codec: Codec, prompts: Sequence[Prompt], max_length: int
) -> list[RowScore | None]:
    """Return the score of each prompt's reference answer; None without one.

    Of raw text every token of the block counts, not only those behind its beginning. Rows are cut
    into windows of `max_length` tokens, as raw text is for training.
    """
    rows: list[EncodedRow] = []
    owners: list[int] = []
    for index, prompt in enumerate(prompts):
        answer = prompt.reference.get("answer")
        if not isinstance(answer, str) or not answer:
            continue
        if prompt.is_text:
            ids, num_masked = codec.text_ids(
                "", prompt.text + answer, goes_on=prompt.goes_on
            )
        else:
            ids, num_masked = codec.row_ids(prompt.asked, answer)
        for window in windows(ids, num_masked, max_length):
            rows.append(EncodedRow(window.ids, window.num_masked))
            owners.append(index)
    totals: list[RowScore | None] = [None] * len(prompts)
    for index, score in zip(
        owners, score_rows(model, rows, codec.pad_id, TEXT_BATCH), strict=True
    ):
        total = totals[index] or RowScore(0.0, 0, 0)
        totals[index] = RowScore(
            total.loss + score.loss,
            total.num_tokens + score.num_tokens,
            total.num_right + score.num_right,
        )
    return totals
