"""Loss over the tokens of a completion, without logits for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100
CHUNK_LOGITS = 2**26
"""Logits that are in memory at once, unless told otherwise (256 MB in float32): see CompletionLoss.
"""


@dataclass(frozen=True)
class EncodedRow:
    """One training row as token ids; the first `num_masked` bear no loss."""

    ids: list[int]
    num_masked: int
    weight: float = 1.0
    """Weight of its tokens in the loss."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Stretches [start, end) behind the masked front that bear none either: the turns of others."""

    @property
    def num_targets(self) -> int:
        """Tokens that bear loss."""
        return len(self.ids) - self.num_masked - sum(end - start for start, end in self.gaps)


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees; all tensors are (batch, length)."""

    input_ids: Tensor
    labels: Tensor
    """The input ids where a token bears loss, IGNORED elsewhere; predicted from the positions
    before."""
    position_ids: Tensor | None = None
    """Restarts at 0 with every row of a packed sequence; None: one row a sequence."""
    weights: Tensor | None = None
    """Weight of each label in the loss; None: all 1."""

    @property
    def num_positions(self) -> int:
        """Positions computed, padding included."""
        return int(self.input_ids.numel())

    def to(self, device: Any) -> Batch:
        """The same on `device`."""
        tensors = (self.input_ids, self.labels, self.position_ids, self.weights)
        return Batch(*(None if tensor is None else tensor.to(device) for tensor in tensors))


def collate(rows: Sequence[EncodedRow], pad_id: int) -> Batch:
    """One row a sequence, padded on the right. Behind a causal mask the padding needs no attention
    mask: nothing that bears loss can see it."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    inputs = torch.full(shape, pad_id, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.ids, dtype=torch.long)
        inputs[index, : len(row.ids)] = ids
        labels[index, row.num_masked : len(row.ids)] = ids[row.num_masked :]
        for start, end in row.gaps:
            labels[index, start:end] = IGNORED
    weights = None
    if any(row.weight != 1.0 for row in rows):
        weights = torch.tensor([[row.weight] for row in rows]).expand(shape).contiguous()
    return Batch(inputs, labels, weights=weights)


class CompletionLoss(nn.Module):
    """Weighted sum of the cross-entropy over labelled tokens, in nats.

    The head runs on labelled positions only: with short answers and a large vocabulary most of its
    work would be thrown away. Where a model does more than `head(base(x))` (logit scaling,
    soft-capping), its own forward is used.

    More than `chunk_tokens` labelled tokens go through the head in chunks, so that the (tokens,
    vocabulary) float32 logits are never whole in memory; None takes as many tokens as have
    CHUNK_LOGITS logits. On a CPU that is for memory alone, and worth it once the tokens beyond one
    chunk exceed about a third of the hidden size (one more gradient of the head's weight is held).
    Head and loss of 2,048 tokens, 576 dimensions, vocabulary 49,152, forward and backward on one
    core (CPU seconds and peak MB above the weights, fp32 | bf16 autocast): whole 4.3 s 1,170 | 1.95
    s 1,227; chunks of 1,024 4.5 s 720 | 1.97 s 775; of 512 4.5 s 438 | 2.2 s 489. Of 4,096 tokens
    in fp32: whole 9.2 s 2,326; chunks of 512 9.1 s 463. Computing the logits again in backward took
    1.7 times as long (1,024 tokens, fp32).
    """

    def __init__(self, model: Any, *, chunk_tokens: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens or max(1, CHUNK_LOGITS // model.config.vocab_size)
        self._parts = split_head(
            model
        )  # a tuple: the parts are modules of `model` and must not be registered twice

    def forward(self, batch: Batch) -> Tensor:
        """A scalar."""
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        weights = None if batch.weights is None else batch.weights[:, 1:][chosen]
        states = self._states(batch)[:, :-1][chosen]
        loss_of = self._token_loss(batch, chosen, targets[chosen])

        def total(logits: Tensor, at: slice) -> Tensor:
            losses = loss_of(logits.float(), at)
            return (
                losses if weights is None else losses * weights[at]
            ).sum()  # a dot product would run in bf16

        return _sum_by_chunks(self._parts[1], states, total, self.chunk_tokens)

    def _states(self, batch: Batch) -> Tensor:
        return states_of(self._parts[0], batch)

    def _token_loss(self, batch: Batch, chosen: Tensor, targets: Tensor) -> TokenLoss:
        """`batch.labels[:, 1:][chosen]` are the `targets`."""
        return lambda logits, at: F.cross_entropy(logits, targets[at], reduction="none")


TokenLoss = Callable[[Tensor, slice], Tensor]
"""(float32 logits of some labelled tokens, which of them these are) → their losses, unweighted."""


def states_of(body: Any, batch: Batch) -> Tensor:
    """What `body` makes of every position: (batch, length, …). With a cache, packed rows would see
    each other."""
    positions = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    states: Tensor = body(input_ids=batch.input_ids, use_cache=False, **positions)[0]
    return states


def split_head(model: Any) -> tuple[Any, Any]:
    """(body, head) with `model(x).logits == head(body(x)[0])`. The body is the model itself and the
    head the identity where the model is not put together like that: this is tried, not assumed."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's wrapper
    body, head = inner.base_model, inner.get_output_embeddings()
    if body is inner or head is None:
        return inner, nn.Identity()
    ids = torch.tensor([[1, 2, 3]], device=inner.device) % inner.config.vocab_size
    training = inner.training
    inner.eval()
    with torch.inference_mode():
        whole = inner(input_ids=ids, use_cache=False).logits
        split = head(body(input_ids=ids, use_cache=False)[0])
    inner.train(training)
    same = torch.allclose(whole.float(), split.float(), rtol=1e-4, atol=1e-4)
    return (body, head) if same else (inner, nn.Identity())


def mean_loss(
    loss: nn.Module,
    rows: Sequence[EncodedRow],
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda n: None,
) -> float:
    """Weighted mean cross-entropy per labelled token in nats over all rows, in length-sorted
    batches; NaN for none."""
    device = next(loss.parameters()).device
    ordered = sorted(rows, key=lambda row: len(row.ids))
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            total += float(loss(collate(batch, pad_id).to(device)))
            on_batch(len(batch))
    tokens = sum(row.num_targets * row.weight for row in rows)
    return total / tokens if tokens else math.nan


def _sum_by_chunks(
    head: Any, states: Tensor, total: Callable[[Tensor, slice], Tensor], chunk_tokens: int
) -> Tensor:
    """`total(head(states), all of them)`, computed at most `chunk_tokens` states at a time."""
    count = len(states)
    size = (
        -(-count // -(-count // chunk_tokens)) if count else 1
    )  # chunks of one size: no small last one
    chunks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    # An adapter on the head has weights of its own, which _Chunked would not see: its graph is kept
    # whole.
    if (
        len(chunks) > 1
        and torch.is_grad_enabled()
        and states.requires_grad
        and type(head) is nn.Linear
    ):
        loss: Tensor = _Chunked.apply(total, chunks, states, head.weight, head.bias)
        return loss
    return torch.stack([total(head(states[at]), at) for at in chunks or [slice(0, 0)]]).sum()


class _Chunked(torch.autograd.Function):
    """Takes the gradient of each chunk right after its loss, while its logits are there.

    So no logits are computed twice or kept, and the head's weights get one gradient, whole, as ZeRO
    expects it.
    """

    @staticmethod
    def forward(ctx: Any, total: Any, chunks: list[slice], *inputs: Tensor | None) -> Tensor:
        """`inputs` are states, weight and bias."""
        leaves: list[Any] = [
            one if one is None else one.detach().requires_grad_(one.requires_grad) for one in inputs
        ]
        states, weight, bias = leaves
        losses = []
        for at in chunks:
            with torch.enable_grad():
                loss = total(F.linear(states[at], weight, bias), at)
                loss.backward()
            losses.append(loss.detach())
        ctx.save_for_backward(*(None if leaf is None else leaf.grad for leaf in leaves))
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """In place: the weight's gradient is as large as the weight."""
        return None, None, *(None if one is None else one.mul_(outer) for one in ctx.saved_tensors)
