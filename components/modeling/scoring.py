"""How likely a model finds given texts: perplexity row by row, and classes by the likelihood of
their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from components.contracts.rows import Conversation
from components.modeling.encoding import Codec
from components.modeling.likelihood import (
    CHUNK_LOGITS,
    IGNORED,
    EncodedRow,
    collate,
    split_head,
    states_of,
)


@dataclass(frozen=True)
class RowScore:
    """How well one row was predicted, over the tokens that bear loss."""

    loss: float
    """Sum of the cross-entropies in nats."""
    num_tokens: int
    num_right: int
    """Tokens that the model finds more likely than any other: if it is all of them, greedy decoding
    gives this row."""


@torch.inference_mode()
def score_rows(
    model: Any,
    rows: Sequence[EncodedRow],
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda n: None,
    *,
    chunk_tokens: int | None = None,
) -> list[RowScore]:
    """Teacher-forced scores of every row, in their order; row weights are not regarded.

    Batches are sorted by length. The head runs on tokens that bear loss alone, on `chunk_tokens` of
    them at once (None: as many as have CHUNK_LOGITS logits). `on_batch` gets the number of rows of
    each finished batch.
    """
    body, head = split_head(model)
    chunk = chunk_tokens or max(1, CHUNK_LOGITS // model.config.vocab_size)
    scores: dict[int, RowScore] = {}
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        batch = collate([rows[place] for place in group], pad_id).to(model.device)
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        states, wanted = states_of(body, batch)[:, :-1][chosen], targets[chosen]
        losses, right = [], []
        for piece, truth in zip(states.split(chunk), wanted.split(chunk), strict=True):
            logits = head(piece).float()
            losses.append(F.cross_entropy(logits, truth, reduction="none").double())
            right.append(logits.argmax(dim=-1) == truth)
        counts = chosen.sum(dim=1).tolist()
        pieces = zip(torch.cat(losses).split(counts), torch.cat(right).split(counts), strict=True)
        for place, count, (loss, hits) in zip(group, counts, pieces, strict=True):
            scores[place] = RowScore(float(loss.sum()), count, int(hits.sum()))
        on_batch(len(group))
    return [scores[place] for place in range(len(rows))]


def likeliest_labels(
    model: Any,
    codec: Codec,
    prompts: Sequence[str | Conversation],
    labels: Sequence[str],
    batch_size: int,
) -> list[str]:
    """For each prompt the label that the model finds most likely as its answer.

    Labels are compared by their log-likelihood per token, the end token included, so that a long
    label is not at a disadvantage and a label that begins another is told apart from it. Ties go to
    the first of `labels`.
    """
    rows = [EncodedRow(*codec.row_ids(prompt, label)) for prompt in prompts for label in labels]
    scores = score_rows(model, rows, codec.pad_id, batch_size)
    chosen = []
    for start in range(0, len(rows), len(labels)):
        means = [score.loss / score.num_tokens for score in scores[start : start + len(labels)]]
        chosen.append(labels[means.index(min(means))])
    return chosen
