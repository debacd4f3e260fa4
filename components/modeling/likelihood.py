"""Loss over the tokens of a completion, without logits for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100


@dataclass(frozen=True)
class EncodedRow:
    """One training row as token ids; the first `num_masked` bear no loss."""

    ids: list[int]
    num_masked: int

    @property
    def num_targets(self) -> int:
        """Tokens that bear loss."""
        return len(self.ids) - self.num_masked


def collate(rows: Sequence[EncodedRow], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded (batch, length) input ids and labels. Behind a causal mask the padding needs no attention mask:
    nothing that bears loss can see it."""
    length = max(len(row.ids) for row in rows)
    inputs = torch.full((len(rows), length), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.ids, dtype=torch.long)
        inputs[index, : len(row.ids)] = ids
        labels[index, row.num_masked : len(row.ids)] = ids[row.num_masked :]
    return inputs, labels


class CompletionLoss(nn.Module):
    """Sum of the cross-entropy over labelled tokens, in nats.

    The head runs on labelled positions only: with short answers and a large vocabulary most of its work would be
    thrown away. Where a model does more than `head(base(x))` (logit scaling, soft-capping), its own forward is used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.split_head = _head_is_separate(model)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Shapes (batch, length) both; returns a scalar."""
        targets = labels[:, 1:]
        chosen = targets != IGNORED
        if self.split_head:
            hidden = self.model.base_model(input_ids=input_ids, use_cache=False)[0][:, :-1]
            logits = self.model.get_output_embeddings()(hidden[chosen])
        else:
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1][chosen]
        return F.cross_entropy(logits.float(), targets[chosen], reduction="sum")


def mean_loss(
    loss: nn.Module,
    rows: Sequence[EncodedRow],
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda n: None,
) -> float:
    """Mean cross-entropy per labelled token in nats over all rows, in length-sorted batches; NaN for no rows."""
    device = next(loss.parameters()).device
    ordered = sorted(rows, key=lambda row: len(row.ids))
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            inputs, labels = collate(batch, pad_id)
            total += float(loss(inputs.to(device), labels.to(device)))
            tokens += sum(row.num_targets for row in batch)
            on_batch(len(batch))
    return total / tokens if tokens else math.nan


def _head_is_separate(model: Any) -> bool:
    ids = torch.tensor([[1, 2, 3]], device=model.device) % model.config.vocab_size
    training = model.training
    model.eval()
    with torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits
        split = model.get_output_embeddings()(model.base_model(input_ids=ids, use_cache=False)[0])
    model.train(training)
    return bool(torch.allclose(whole.float(), split.float(), rtol=1e-4, atol=1e-4))
