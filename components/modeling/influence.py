"""Worth of a row for training: its perplexity, and the agreement of its gradient with that of other
rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.contracts.rows import Asked
from components.errors import UserError
from components.modeling.batches import length_sorted_batches
from components.modeling.encoding import Codec
from components.modeling.likelihood import (
    CHUNK_LOGITS,
    IGNORED,
    EncodedRow,
    collate,
    split_head,
    states_of,
)
from components.modeling.scoring import score_rows

Pair = tuple[Asked, str]
"""A prompt, and its answer."""
MAX_LOG_PERPLEXITY = 50.0
"""Nats per token beyond which a perplexity is not told apart: exp() of more would overflow."""
DAMPING = 3.0
"""λ as a multiple of A's mean eigenvalue: large, since a few thousand tokens say little about its
small ones."""


def encoded(
    codec: Codec, pairs: Sequence[Pair], max_length: int, *, sampled: bool = False
) -> list[EncodedRow | None]:
    """Return rows as token ids; None for one that is longer than `max_length` tokens.

    `sampled` says that the model wrote the answers.
    """
    # A template may write an answer otherwise than the model did; see Codec.sampled_ids.
    ids_of = codec.sampled_ids if sampled else codec.row_ids
    rows: list[EncodedRow | None] = []
    for prompt, answer in pairs:
        ids, num_masked = ids_of(prompt, answer)
        fits = len(ids) <= max_length
        rows.append(EncodedRow(ids, num_masked) if fits else None)
    return rows


def perplexities(
    model: PreTrainedModel,
    codec: Codec,
    pairs: Sequence[Pair],
    max_length: int,
    batch_size: int,
) -> list[float | None]:
    """Return the perplexity per token of each sampled completion; None for a row that is too long.

    Computed in batches of `batch_size` rows.
    """
    rows = encoded(codec, pairs, max_length, sampled=True)
    fitting = [row for row in rows if row is not None]
    scores = iter(score_rows(model, fitting, codec.pad_id, batch_size))
    values: list[float | None] = []
    for row in rows:
        if row is None:
            values.append(None)
            continue
        score = next(scores)
        mean_loss = score.loss / score.num_tokens
        values.append(math.exp(min(MAX_LOG_PERPLEXITY, mean_loss)))
    return values


class Influence:
    """First-order influence of rows on the loss of some validation rows, by the gradients of the
    output layer.

    One gradient step on row i lowers the validation loss by the learning rate times ⟨∇L_val, ∇l_i⟩
    (1803.09050). For the output layer the gradient of a token is (p - y) hᵀ with its hidden state
    h, its predicted distribution p and the one-hot truth y, so the product of two tokens is ⟨h_i,
    h_v⟩·⟨p_i - y_i, p_v - y_v⟩. Summed over all validation tokens that is (p_i - y_i)·(G h_i) with
    G = Σ_v (p_v - y_v) h_vᵀ: two forward products a token, no backward pass.

    Hidden states share a few strong directions that say nothing of a row. So the step is
    preconditioned as influence functions are (2308.03296): G becomes G (A + λI)⁻¹ with A = E_v[h_v
    h_vᵀ], one factor of K-FAC (1503.05671).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        validation: Sequence[Pair],
        max_length: int,
        batch_size: int,
    ) -> None:
        self._model = model
        self._codec = codec
        self._max_length = max_length
        self._batch_size = batch_size
        body, head = split_head(model)
        self._body = body
        # With logit scaling or the like, logits stand for hidden states, and the bias-like gradient
        # p - y remains.
        self._head = None if isinstance(head, nn.Identity) else head
        self._chunk_tokens = max(1, CHUNK_LOGITS // model.config.vocab_size)
        validation_rows = encoded(codec, validation, max_length)
        fitting = [row for row in validation_rows if row is not None]
        if not fitting:
            raise UserError(
                f"influence (section select): all {len(validation)} rows of the dev split are "
                f"longer than train.max_length ({max_length} tokens): raise it, or give shorter rows"
            )
        self._direction = self._step(fitting)

    @torch.inference_mode()
    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Return by how much a step on each sampled row lowers the validation loss.

        In arbitrary units: both losses are means over their tokens. None for a row that is too
        long.
        """
        rows = encoded(self._codec, pairs, self._max_length, sampled=True)
        fitting = [(index, row) for index, row in enumerate(rows) if row is not None]
        lengths = [len(row.ids) for _, row in fitting]
        influences: list[float | None] = [None] * len(rows)
        for positions in length_sorted_batches(lengths, self._batch_size):
            group = [fitting[position] for position in positions]
            states, targets, counts = self._states([row for _, row in group])
            products = [
                self._products(chunk_states, chunk_targets)
                for chunk_states, chunk_targets in self._chunks(states, targets)
            ]
            row_products = torch.cat(products).split(counts)
            for (index, _), token_products in zip(group, row_products, strict=True):
                influences[index] = float(token_products.mean())
        return influences

    def _products(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return (p - y)·(G h) of each token."""
        errors = self._errors(states, targets)
        directions = states @ self._direction.T
        return (directions * errors).sum(dim=-1)

    @torch.inference_mode()
    def _step(self, rows: list[EncodedRow]) -> Tensor:
        """Return the preconditioned gradient of the mean validation loss by the output layer.

        (vocabulary, hidden).
        """
        gradient = torch.zeros((), device=self._model.device)
        moment = torch.zeros((), device=self._model.device)
        for start in range(0, len(rows), self._batch_size):
            batch_rows = rows[start : start + self._batch_size]
            states, targets, _ = self._states(batch_rows)
            for chunk_states, chunk_targets in self._chunks(states, targets):
                errors = self._errors(chunk_states, chunk_targets)
                gradient = gradient + errors.T @ chunk_states
                moment = moment + chunk_states.T @ chunk_states
        assert moment.ndim, "there are validation rows"
        return preconditioned(gradient, moment)

    def _states(self, rows: list[EncodedRow]) -> tuple[Tensor, Tensor, list[int]]:
        """Return (states, targets, counts) of the tokens that bear loss.

        States before the head are float32 (tokens, hidden), targets (tokens,) token ids, counts the
        tokens of each row.
        """
        batch = collate(rows, self._codec.pad_id).to(self._model.device)
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        # The state before a token predicts it.
        states = states_of(self._body, batch)[:, :-1]
        counts: list[int] = chosen.sum(dim=1).tolist()
        return states[chosen].float(), targets[chosen], counts

    def _chunks(
        self, states: Tensor, targets: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield states and targets of as many tokens as have CHUNK_LOGITS logits."""
        size = self._chunk_tokens
        return zip(states.split(size), targets.split(size), strict=True)

    def _errors(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return p - y of each token, (tokens, vocabulary)."""
        logits = states
        if self._head is not None:
            head_states = states.to(self._head.weight.dtype)
            logits = self._head(head_states).float()
        # p - y, in place: logits of a chunk are the largest tensor here.
        errors: Tensor = logits.softmax(dim=-1)
        tokens = torch.arange(len(targets), device=targets.device)
        errors[tokens, targets] -= 1.0
        return errors


def preconditioned(gradient: Tensor, moment: Tensor) -> Tensor:
    """Return G (A + λI)⁻¹, (vocabulary, hidden).

    `gradient` is G and `moment` A, both sums over the same tokens; λ is DAMPING times A's mean
    eigenvalue.
    """
    # The trace is the sum of the eigenvalues.
    mean_eigenvalue = moment.trace() / len(moment)
    identity = torch.eye(len(moment), device=moment.device)
    damped = moment + DAMPING * mean_eigenvalue * identity
    return torch.linalg.solve(damped, gradient, left=False)
