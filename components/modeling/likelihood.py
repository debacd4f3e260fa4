"""Loss over the tokens of a completion, without logits for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import PreTrainedModel

from components.modeling.batches import length_sorted_batches

IGNORED = -100
"""Label of a position that bears no loss, as torch's cross-entropy has it."""
CHUNK_LOGITS = 2**26
"""Logits that are in memory at once, unless the caller says otherwise (256 MB in float32): see
CompletionLoss."""


@dataclass(frozen=True)
class EncodedRow:
    """One training row as token ids; the first `num_masked` bear no loss."""

    ids: list[int]
    num_masked: int
    weight: float = 1.0
    """Weight of its tokens in the loss."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Stretches [start, end) behind the masked front that bear none either: the turns of others."""
    worse: EncodedRow | None = None
    """The same prompt with a worse answer, for preference training."""
    wrong: bool = False
    """The answer is to become less likely, not more."""
    sampled: tuple[float, ...] = ()
    """log π of each token that bears loss, by the model that drew the row; empty: not known."""
    reference: float = 0.0
    """log π(row) of the reference model, in nats; of a pair log π(row) - log π(worse row)."""
    inputs: list[int] | None = None
    """As many tokens that the model reads in place of `ids`, which it is still to predict; None:
    `ids`."""
    changeable: tuple[tuple[int, int], ...] = ()
    """Stretches [start, end) whose words augmentation may change."""

    @property
    def num_tokens(self) -> int:
        """Tokens, those of the worse row included."""
        return len(self.ids) + (len(self.worse.ids) if self.worse is not None else 0)

    @property
    def longest(self) -> int:
        """Tokens of the longer one of the row and the worse row."""
        return max(len(self.ids), len(self.worse.ids) if self.worse is not None else 0)

    @property
    def num_targets(self) -> int:
        """Tokens that bear loss."""
        num_in_gaps = sum(end - start for start, end in self.gaps)
        return len(self.ids) - self.num_masked - num_in_gaps


@dataclass(frozen=True)
class Pairs:
    """Sequences of a batch as rows and pairs of preference training."""

    better: Tensor
    """(pairs,) sequences of the better answers."""
    worse: Tensor
    """(pairs,) sequences of the worse answers to the same prompts."""
    reference_margins: Tensor
    """(pairs,) log π(better) - log π(worse) of the reference model, in nats."""
    row_weights: Tensor
    """(sequences,) weight of each row in the loss; 0 for the worse answers, which are no rows."""

    def to(self, device: torch.device) -> Pairs:
        """Return the pairs on `device`."""
        return Pairs(
            better=self.better.to(device),
            worse=self.worse.to(device),
            reference_margins=self.reference_margins.to(device),
            row_weights=self.row_weights.to(device),
        )


@dataclass(frozen=True)
class Unpaired:
    """Sequences of a batch as right and wrong answers, each by itself."""

    wrong: Tensor
    """(sequences,) True for a wrong answer."""
    references: Tensor
    """(sequences,) log π of the reference model, in nats."""
    row_weights: Tensor
    """(sequences,) weight of each row in the loss."""

    def to(self, device: torch.device) -> Unpaired:
        """Return the rows on `device`."""
        return Unpaired(
            wrong=self.wrong.to(device),
            references=self.references.to(device),
            row_weights=self.row_weights.to(device),
        )


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass; all tensors are (batch, length)."""

    input_ids: Tensor
    labels: Tensor
    """The input ids where a token bears loss, IGNORED elsewhere. A label is predicted from the
    positions before it."""
    position_ids: Tensor | None = None
    """Restarts at 0 with every row of a packed sequence; None: one row a sequence."""
    weights: Tensor | None = None
    """Weight of each label in the loss; None: all 1."""
    pairs: Pairs | None = None
    """What training on pairs compares; None for any other batch."""
    sampled: Tensor | None = None
    """log π of each label by the model that drew it, NaN where it is not known; None: of none."""
    unpaired: Unpaired | None = None
    """What training on right and wrong answers compares; None for any other batch."""

    @property
    def num_positions(self) -> int:
        """Positions computed, padding included."""
        return int(self.input_ids.numel())

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return Batch(
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            position_ids=moved(self.position_ids),
            weights=moved(self.weights),
            sampled=moved(self.sampled),
            pairs=None if self.pairs is None else self.pairs.to(device),
            unpaired=None if self.unpaired is None else self.unpaired.to(device),
        )


def collate(rows: Sequence[EncodedRow], pad_id: int) -> Batch:
    """Return a batch of one row a sequence, padded on the right."""
    # Behind a causal mask the padding needs no attention mask: nothing that bears loss can see it.
    longest = max(len(row.ids) for row in rows)
    shape = (len(rows), longest)
    inputs = torch.full(shape, pad_id, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids = torch.tensor(row.ids, dtype=torch.long)
        inputs[index, :length] = ids if row.inputs is None else torch.tensor(row.inputs)
        labels[index, row.num_masked : length] = ids[row.num_masked :]
        for start, end in row.gaps:
            labels[index, start:end] = IGNORED
    weights = None
    if any(row.weight != 1.0 for row in rows):
        row_weights = torch.tensor([row.weight for row in rows])
        weights = row_weights.unsqueeze(1).expand(shape).contiguous()
    return Batch(inputs, labels, weights=weights)


def collate_pairs(rows: Sequence[EncodedRow], pad_id: int) -> Batch:
    """Return a batch of one row a sequence, then the worse answers of those that have one."""
    better: list[int] = []
    worse_rows: list[EncodedRow] = []
    margins: list[float] = []
    for index, row in enumerate(rows):
        if row.worse is not None:
            better.append(index)
            worse_rows.append(row.worse)
            margins.append(row.reference)
    # Their weights are of rows, not of tokens.
    plain_rows = [replace(row, weight=1.0) for row in (*rows, *worse_rows)]
    batch = collate(plain_rows, pad_id)
    row_weights = [row.weight for row in rows] + [0.0] * len(worse_rows)
    pairs = Pairs(
        better=torch.tensor(better, dtype=torch.long),
        worse=torch.arange(len(rows), len(plain_rows)),
        reference_margins=torch.tensor(margins, dtype=torch.float32),
        row_weights=torch.tensor(row_weights, dtype=torch.float32),
    )
    return replace(batch, pairs=pairs)


def collate_unpaired(rows: Sequence[EncodedRow], pad_id: int) -> Batch:
    """Return a batch of one row a sequence, each a right or a wrong answer."""
    # Their weights are of rows, not of tokens.
    batch = collate([replace(row, weight=1.0) for row in rows], pad_id)
    unpaired = Unpaired(
        wrong=torch.tensor([row.wrong for row in rows]),
        references=torch.tensor([row.reference for row in rows], dtype=torch.float32),
        row_weights=torch.tensor([row.weight for row in rows], dtype=torch.float32),
    )
    return replace(batch, unpaired=unpaired)


def collate_sampled(rows: Sequence[EncodedRow], pad_id: int) -> Batch:
    """Return a batch of one row a sequence, with the likelihoods under which rows were drawn.

    A row's weight is divided among its tokens: every row counts the same, whatever its length.
    """
    means = [replace(row, weight=row.weight / max(1, row.num_targets)) for row in rows]
    batch = collate(means, pad_id)
    sampled = torch.full(batch.labels.shape, math.nan)
    for index, row in enumerate(rows):
        if row.sampled:
            bears_loss = batch.labels[index] != IGNORED
            sampled[index, bears_loss] = torch.tensor(row.sampled)
    return replace(batch, sampled=sampled)


TokenLoss = Callable[[Tensor, slice], Tensor]
"""(float32 logits of some labelled tokens, their slice among all) → their losses, unweighted."""


class CompletionLoss(nn.Module):
    """Weighted sum of the cross-entropy over labelled tokens, in nats.

    The head runs on labelled positions only: with short answers and a large vocabulary most of its
    work would be thrown away. Where a model does more than `head(base(x))` (logit scaling,
    soft-capping), its own forward is used.

    More than `chunk_tokens` labelled tokens go through the head in chunks, so that the (tokens,
    vocabulary) float32 logits are never whole in memory; None takes as many tokens as have
    CHUNK_LOGITS logits.
    """

    # On a CPU chunks are for memory alone, and worth it once the tokens beyond one chunk exceed
    # about a third of the hidden size (one more gradient of the head's weight is held). Measured:
    # head and loss of 2,048 tokens, 576 dimensions, vocabulary 49,152, forward and backward on one
    # core, CPU seconds and peak MB above the weights:
    #                       fp32            bf16 autocast
    #     whole             4.3 s  1,170    1.95 s  1,227
    #     chunks of 1,024   4.5 s    720    1.97 s    775
    #     chunks of   512   4.5 s    438    2.2  s    489
    # Of 4,096 tokens in fp32: whole 9.2 s 2,326; chunks of 512 9.1 s 463. Computing the logits
    # again in backward took 1.7 times as long (1,024 tokens, fp32).

    def __init__(
        self, model: PreTrainedModel, *, chunk_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens or max(
            1, CHUNK_LOGITS // model.config.vocab_size
        )
        # In a tuple, which nn.Module does not look into: the parts are modules of `model` and must
        # not be registered twice.
        self._parts = split_head(model)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        # The state at a position predicts the token after it.
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        states = self._states(batch)[:, :-1][chosen]
        loss_of = self._token_loss(batch, chosen, targets[chosen])
        weights = None
        if batch.weights is not None:
            weights = batch.weights[:, 1:][chosen]

        def total(logits: Tensor, span: slice) -> Tensor:
            losses = loss_of(logits.float(), span)
            if weights is not None:
                # A product and a sum: under autocast a dot product would run in bf16.
                losses = losses * weights[span]
            return losses.sum()

        _, head = self._parts
        return sum_by_chunks(head, states, total, self.chunk_tokens)

    def _states(self, batch: Batch) -> Tensor:
        body, _ = self._parts
        return states_of(body, batch)

    def _token_loss(self, batch: Batch, chosen: Tensor, targets: Tensor) -> TokenLoss:
        """Return the loss of each labelled token; `batch.labels[:, 1:][chosen]` are `targets`."""
        return lambda logits, span: F.cross_entropy(
            logits, targets[span], reduction="none"
        )


def states_of(body: nn.Module, batch: Batch) -> Tensor:
    """Return the output of `body` at every position, (batch, length, …)."""
    positions = (
        {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    )
    # With a cache, the rows of a packed sequence would see each other.
    states: Tensor = body(input_ids=batch.input_ids, use_cache=False, **positions)[0]
    return states


def split_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Return (body, head) with `model(x).logits == head(body(x)[0])`.

    Where the model is not put together like that, the body is the model itself and the head the
    identity. The equation is tried on three tokens, not assumed.
    """
    # PEFT's wrapper keeps the model inside.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = inner.base_model
    head = inner.get_output_embeddings()
    if body is inner or head is None:
        return inner, nn.Identity()
    # A vocabulary may have less than four tokens.
    ids = torch.tensor([[1, 2, 3]], device=inner.device)
    ids = ids % inner.config.vocab_size
    training = inner.training
    inner.eval()
    with torch.inference_mode():
        model_logits = inner(input_ids=ids, use_cache=False).logits
        head_logits = head(body(input_ids=ids, use_cache=False)[0])
    inner.train(training)
    head_logits = head_logits.to(model_logits.device)
    if torch.allclose(model_logits.float(), head_logits.float(), rtol=1e-4, atol=1e-4):
        return body, head
    return inner, nn.Identity()


def mean_loss(
    loss: nn.Module,
    rows: Sequence[EncodedRow],
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda num_rows: None,
) -> float:
    """Return the weighted mean of `loss` per labelled token over all rows, in nats; NaN for none.

    Rows are computed in length-sorted batches; `on_batch` gets the number of rows of each.
    """
    device = next(loss.parameters()).device
    lengths = [len(row.ids) for row in rows]
    total = 0.0
    with torch.inference_mode():
        for indices in length_sorted_batches(lengths, batch_size):
            batch = collate([rows[index] for index in indices], pad_id)
            total += float(loss(batch.to(device)))
            on_batch(len(indices))
    tokens = sum(row.num_targets * row.weight for row in rows)
    return total / tokens if tokens else math.nan


def sum_by_chunks(
    head: nn.Module, states: Tensor, total: TokenLoss, chunk_tokens: int
) -> Tensor:
    """Return the sum of `total(head(states), …)`, at most `chunk_tokens` states at a time."""
    count = len(states)
    if count == 0:
        return total(head(states), slice(0, 0))
    num_chunks = -(-count // chunk_tokens)
    # Chunks of one size: no small last one.
    size = -(-count // num_chunks)
    # A slice may end behind the last state.
    spans = [slice(start, start + size) for start in range(0, count, size)]
    trained = torch.is_grad_enabled() and states.requires_grad
    # An adapter on the head has weights of its own, which _Chunked would not see: its graph is kept
    # whole.
    if len(spans) > 1 and trained and type(head) is nn.Linear:
        loss: Tensor = _Chunked.apply(total, spans, states, head.weight, head.bias)
        return loss
    losses = [total(head(states[span]), span) for span in spans]
    return torch.stack(losses).sum()


class _Chunked(torch.autograd.Function):
    """Takes the gradient of each chunk right after its loss, while its logits are there.

    So no logits are computed twice or kept, and the head's weights get one gradient, whole, as ZeRO
    expects it.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        total: TokenLoss,
        spans: list[slice],
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Return the sum over all spans; keep the gradients of states, weight and bias."""
        states = _leaf(states)
        weight = _leaf(weight)
        bias = None if bias is None else _leaf(bias)
        losses = []
        for span in spans:
            with torch.enable_grad():
                loss = total(F.linear(states[span], weight, bias), span)
                loss.backward()
            losses.append(loss.detach())
        bias_gradient = None if bias is None else bias.grad
        ctx.save_for_backward(states.grad, weight.grad, bias_gradient)
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradients, scaled by that of the sum."""
        gradients: list[Tensor | None] = []
        for gradient in ctx.saved_tensors:
            # In place: the weight's gradient is as large as the weight.
            gradients.append(None if gradient is None else gradient.mul_(outer))
        return None, None, *gradients


def _leaf(value: Tensor) -> Tensor:
    """Return the tensor cut off from the graph, to gather a gradient of its own."""
    return value.detach().requires_grad_(value.requires_grad)
