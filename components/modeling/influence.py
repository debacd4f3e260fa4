"""What a row would teach: how likely a model finds it, and whether its gradient agrees with that of
other rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
from components.modeling.scoring import score_rows

Pair = tuple[str | Conversation, str]
"""What is asked, and the answer."""


def encoded(
    codec: Codec, pairs: Sequence[Pair], max_length: int, *, sampled: bool = False
) -> list[EncodedRow | None]:
    """Rows as token ids; None for one that is longer than `max_length` tokens. `sampled`: the model
    wrote the answers."""
    ids_of = codec.sampled_ids if sampled else codec.row_ids
    rows = [EncodedRow(*ids_of(*pair)) for pair in pairs]
    return [row if len(row.ids) <= max_length else None for row in rows]


def perplexities(
    model: Any, codec: Codec, pairs: Sequence[Pair], max_length: int, batch_size: int
) -> list[float | None]:
    """Perplexity per token of each completion of a model; None for a row that is too long."""
    rows = encoded(codec, pairs, max_length, sampled=True)
    scores = iter(
        score_rows(model, [row for row in rows if row is not None], codec.pad_id, batch_size)
    )
    found: list[float | None] = []
    for row in rows:
        score = next(scores) if row is not None else None
        found.append(
            math.exp(min(50.0, score.loss / score.num_tokens)) if score is not None else None
        )
    return found


DAMPING = 3.0
"""λ as a multiple of A's mean eigenvalue: large, since a few thousand tokens say little about its
small ones."""


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
        self, model: Any, codec: Codec, validation: Sequence[Pair], max_length: int, batch_size: int
    ) -> None:
        self._model, self._codec, self._max_length, self._batch_size = (
            model,
            codec,
            max_length,
            batch_size,
        )
        self._body, self._head = split_head(model)
        if isinstance(self._head, torch.nn.Identity):
            # Logit scaling or the like: logits stand for hidden states, and the bias-like gradient
            # p - y remains.
            self._head = None
        self._chunk_tokens = max(1, CHUNK_LOGITS // model.config.vocab_size)
        self._direction = self._step(
            [row for row in encoded(codec, validation, max_length) if row is not None]
        )

    @torch.inference_mode()
    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """How much a step on each sampled row lowers the validation loss, in arbitrary units: both losses
        are means over their tokens. None for a row that is too long."""
        rows = encoded(self._codec, pairs, self._max_length, sampled=True)
        places = [place for place, row in enumerate(rows) if row is not None]
        places.sort(key=lambda place: len(rows[place].ids))  # type: ignore[union-attr]
        found: list[float | None] = [None] * len(rows)
        for start in range(0, len(places), self._batch_size):
            group = places[start : start + self._batch_size]
            states, targets, counts = self._states(
                [row for place in group if (row := rows[place]) is not None]
            )
            products = torch.cat(
                [
                    (
                        (states_part @ self._direction.T) * self._errors(states_part, targets_part)
                    ).sum(dim=-1)
                    for states_part, targets_part in self._parts(states, targets)
                ]
            )
            for place, own in zip(group, products.split(counts), strict=True):
                found[place] = float(own.mean())
        return found

    @torch.inference_mode()
    def _step(self, rows: list[EncodedRow]) -> Tensor:
        """(vocabulary, hidden): the gradient of the mean validation loss by the output layer,
        preconditioned."""
        gradient = moment = torch.zeros((), device=self._model.device)
        for start in range(0, len(rows), self._batch_size):
            states, targets, _ = self._states(rows[start : start + self._batch_size])
            for states_part, targets_part in self._parts(states, targets):
                gradient = gradient + self._errors(states_part, targets_part).T @ states_part
                moment = moment + states_part.T @ states_part
        assert moment.ndim, "there are validation rows"
        return preconditioned(gradient, moment)

    def _states(self, rows: list[EncodedRow]) -> tuple[Tensor, Tensor, list[int]]:
        """(tokens, hidden) float32 states before the head, the tokens they predict, and how many
        each row has."""
        batch = collate(rows, self._codec.pad_id).to(self._model.device)
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        states = states_of(self._body, batch)[:, :-1][chosen].float()
        return states, targets[chosen], chosen.sum(dim=1).tolist()

    def _parts(self, states: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(
            zip(states.split(self._chunk_tokens), targets.split(self._chunk_tokens), strict=True)
        )

    def _errors(self, states: Tensor, targets: Tensor) -> Tensor:
        """(tokens, vocabulary): p - y."""
        logits = (
            self._head(states.to(self._head.weight.dtype)).float()
            if self._head is not None
            else states
        )
        errors = logits.softmax(dim=-1)
        errors[torch.arange(len(targets), device=targets.device), targets] -= 1.0
        return errors


def preconditioned(gradient: Tensor, moment: Tensor) -> Tensor:
    """(vocabulary, hidden) G (A + λI)⁻¹ of sums over the same tokens: G of the gradient, A of h hᵀ."""
    damped = moment + DAMPING * moment.trace() / len(moment) * torch.eye(
        len(moment), device=moment.device
    )
    return torch.linalg.solve(damped, gradient, left=False)
