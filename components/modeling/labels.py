"""Probabilities of classes: how likely a model finds each label as the answer to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from components.contracts.rows import Asked
from components.modeling.batches import length_sorted_batches
from components.modeling.encoding import Codec
from components.modeling.inference.attention import NAME
from components.modeling.inference.kv_cache import make_room
from components.modeling.likelihood import CHUNK_LOGITS
from components.modeling.scoring import token_losses
from components.modeling.weights import learned_positions


@dataclass(frozen=True)
class _Question:
    """One prompt with every label behind it."""

    shared_ids: list[int]
    """Tokens that all its rows begin with; at least one."""
    tails: list[list[int]]
    """By label, the tokens behind them, the end token included."""
    num_masked: list[int]
    """By label, tokens at the front of the tail that bear no loss."""


def label_probabilities(
    model: PreTrainedModel,
    codec: Codec,
    prompts: Sequence[Asked],
    labels: Sequence[str],
    batch_size: int,
) -> list[list[float]]:
    """Return for each prompt the probability of each label as its answer, in their order.

    The likelihood of a whole label, end token included, is normalised over the labels: it is the
    probability of the label, given that the answer is one of them. A prompt is computed once for all
    its labels.

    Args:
        model: in eval mode.
        codec: its tokens.
        prompts: what is asked.
        labels: at least two.
        batch_size: rows, a prompt with one label each, that are computed together.
    """
    questions = [_question(codec, prompt, labels) for prompt in prompts]
    scorer = _LabelScorer(model, codec.pad_id)
    losses = torch.zeros((len(questions), len(labels)), dtype=torch.float64)
    lengths = [len(question.shared_ids) for question in questions]
    # Prompts of about one length together, so that little of a batch is padding.
    for indices in length_sorted_batches(lengths, max(1, batch_size // len(labels))):
        losses[indices] = scorer.losses([questions[index] for index in indices])
    probabilities: list[list[float]] = torch.softmax(-losses, dim=1).tolist()
    return probabilities


def _question(codec: Codec, prompt: Asked, labels: Sequence[str]) -> _Question:
    # With the end token, so that a label that begins another is told apart from it. Not per token:
    # the roots of likelihoods are no probabilities, and squared errors of them mean nothing.
    rows = [codec.row_ids(prompt, label) for label in labels]
    num_shared = min(num_masked for _, num_masked in rows)
    # A template may write the turns before an answer by what the answer is.
    while any(ids[:num_shared] != rows[0][0][:num_shared] for ids, _ in rows):
        num_shared -= 1
    return _Question(
        shared_ids=rows[0][0][:num_shared],
        tails=[ids[num_shared:] for ids, _ in rows],
        num_masked=[num_masked - num_shared for _, num_masked in rows],
    )


class _LabelScorer:
    """Losses of labels under one model."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._chunk = max(1, CHUNK_LOGITS // model.config.vocab_size)
        self._num_positions = learned_positions(model)

    @torch.inference_mode()
    def losses(self, questions: Sequence[_Question]) -> Tensor:
        """Return the loss of each label, (questions, labels), in nats."""
        ids, mask = self._left_padded([question.shared_ids for question in questions])
        # Of padding it is -1 before the clamp: nothing looks at what comes out for it.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = self._model(
            input_ids=ids,
            attention_mask=mask if bool((mask == 0).any()) else None,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        num_labels = len(questions[0].tails)
        rows = torch.arange(len(questions), device=ids.device).repeat_interleave(
            num_labels
        )
        logits = self._tail_logits(
            questions,
            output.cache,
            rows,
            mask[rows],
            positions[rows, -1:],
        )
        # The logits at a position predict the token after it.
        logits = torch.cat([output.logits[rows, -1:], logits], dim=1)
        return self._sums(questions, logits).view(len(questions), num_labels)

    def _tail_logits(
        self,
        questions: Sequence[_Question],
        cache: Cache,
        rows: Tensor,
        mask: Tensor,
        last_positions: Tensor,
    ) -> Tensor:
        """Return the logits at all tokens of the tails but the last of the longest.

        Args:
            questions: the questions of the batch.
            cache: what the shared tokens left, a row for each question.
            rows: the question of each row, (rows,).
            mask: attention mask of the shared tokens, (rows, shared tokens).
            last_positions: position of the last shared token, (rows, 1).
        """
        inputs = [tail[:-1] for question in questions for tail in question.tails]
        length = max(len(tail) for tail in inputs)
        ids = torch.full((len(inputs), length), self._pad_id, dtype=torch.long)
        for row, tail in enumerate(inputs):
            ids[row, : len(tail)] = torch.tensor(tail, dtype=torch.long)
        ids = ids.to(rows.device)
        always_masked = self._model.config._attn_implementation in ("eager", NAME)
        make_room(cache, rows, length, masked=always_masked)
        full_mask = None
        if bool((mask == 0).any()):
            full_mask = torch.cat([mask, mask.new_ones(len(inputs), length)], dim=1)
        positions = last_positions + torch.arange(1, length + 1, device=rows.device)
        if self._num_positions is not None:
            # Padding of shorter tails would run past the embedding.
            positions = positions.clamp(max=self._num_positions - 1)
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=full_mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        ).logits
        return logits

    def _sums(self, questions: Sequence[_Question], logits: Tensor) -> Tensor:
        """Return the loss of each row, (rows,); `logits` are those in front of each tail token."""
        targets = torch.full(logits.shape[:2], self._pad_id, dtype=torch.long)
        counted = torch.zeros(logits.shape[:2], dtype=torch.bool)
        row = 0
        for question in questions:
            for tail, num_masked in zip(
                question.tails, question.num_masked, strict=True
            ):
                targets[row, : len(tail)] = torch.tensor(tail, dtype=torch.long)
                counted[row, num_masked : len(tail)] = True
                row += 1
        chosen = counted.to(logits.device)
        truth = targets.to(logits.device)[chosen]
        losses, _ = token_losses(nn.Identity(), logits[chosen], truth, self._chunk)
        by_row = losses.cpu().split(counted.sum(dim=1).tolist())
        return torch.stack([row_losses.sum() for row_losses in by_row])

    def _left_padded(self, texts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return (ids, attention mask), both (texts, longest)."""
        length = max(len(text) for text in texts)
        ids = torch.full((len(texts), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(texts), length), dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, length - len(text) :] = torch.tensor(text, dtype=torch.long)
            mask[row, length - len(text) :] = 1
        device = self._model.device
        return ids.to(device), mask.to(device)
