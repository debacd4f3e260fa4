"""The training objective: the loss on completions, with the regularisers inside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.modeling.likelihood import (
    IGNORED,
    Batch,
    CompletionLoss,
    Pairs,
    TokenLoss,
    split_head,
    states_of,
    sum_by_chunks,
)


class Objective(CompletionLoss):
    """In training mode the weighted sum over labelled tokens of

        cross-entropy + kl_beta · KL(model ‖ reference)

    in nats, with noise on the model's input embeddings where `neftune_alpha` > 0. In eval mode it
    is CompletionLoss.

    `reference` is the fixed base model, on the model's device. It is frozen here and is no
    submodule, so that neither an optimizer nor ZeRO sees it. It gets the same batch without noise
    or dropout.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        neftune_alpha: float = 0.0,
        kl_beta: float = 0.0,
        reference: PreTrainedModel | None = None,
        chunk_tokens: int | None = None,
    ) -> None:
        super().__init__(model, chunk_tokens=chunk_tokens)
        self.neftune_alpha = neftune_alpha
        self.kl_beta = kl_beta
        # In a tuple, which nn.Module does not look into: the reference is no submodule.
        self._reference: tuple[nn.Module, nn.Module] | None = None
        if kl_beta:
            if reference is None:
                raise ValueError("kl_beta needs the reference model")
            self._reference = split_head(reference.eval().requires_grad_(False))

    def _states(self, batch: Batch) -> Tensor:
        if not (self.training and self.neftune_alpha):
            return super()._states(batch)
        lengths = row_lengths(batch)
        # By a hook, so that it works for any model and whatever it does with its embeddings.
        embedding = self.model.get_input_embeddings()
        noise_hook = embedding.register_forward_hook(
            lambda module, args, output: with_noise(output, lengths, self.neftune_alpha)
        )
        try:
            return super()._states(batch)
        finally:
            noise_hook.remove()

    def _token_loss(self, batch: Batch, chosen: Tensor, targets: Tensor) -> TokenLoss:
        cross_entropy = super()._token_loss(batch, chosen, targets)
        if not self.training or self._reference is None:
            return cross_entropy
        body, head = self._reference
        # The reference is in eval mode and sees no noise: only the model is to move.
        with torch.no_grad():
            states = states_of(body, batch)[:, :-1][chosen]

        def loss_of(logits: Tensor, span: slice) -> Tensor:
            with torch.no_grad():
                reference_logits = head(states[span]).float()
                reference_log = F.log_softmax(reference_logits, -1)
            model_log = F.log_softmax(logits, -1)
            # F.kl_div(a, b) is KL(b ‖ a).
            terms = F.kl_div(reference_log, model_log, reduction="none", log_target=True)
            return cross_entropy(logits, span) + self.kl_beta * terms.sum(-1)

        return loss_of


class PreferenceObjective(Objective):
    """In training mode, on a batch with pairs, the sum over rows of weight times

        -log σ(beta · (m - m_ref)) + nll_weight · mean cross-entropy    of a row with a worse answer
        mean cross-entropy                                              of any other row

    in nats, where m is log π(row) - log π(worse answer) and m_ref the same of the reference, which
    `Pairs` holds. With nll_weight 0 it is DPO (2305.18290), above 0 with the term of 2404.19733.
    In eval mode, on a batch with pairs, it is the cross-entropy of each sequence, (sequences,). On
    any other batch it is Objective.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        beta: float,
        nll_weight: float,
        neftune_alpha: float = 0.0,
        chunk_tokens: int | None = None,
    ) -> None:
        super().__init__(model, neftune_alpha=neftune_alpha, chunk_tokens=chunk_tokens)
        self.beta = beta
        self.nll_weight = nll_weight

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar; in eval mode those of its sequences."""
        if batch.pairs is None:
            return super().forward(batch)
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        states = self._states(batch)[:, :-1][chosen]
        loss_of = self._token_loss(batch, chosen, targets[chosen])
        if not self.training:
            return self._row_losses(states, loss_of, chosen)
        # The loss of a pair is no sum over tokens, but its gradient is: each token's, times a weight
        # of its row. So the rows' losses are computed first, without a graph, and the logits never
        # need to be whole in memory.
        row_losses = self._row_losses(states, loss_of, chosen).requires_grad_()
        with torch.enable_grad():
            loss = self._loss_of_rows(row_losses, chosen.sum(1), batch.pairs)
        (row_weights,) = torch.autograd.grad(loss, row_losses)
        token_weights = row_weights[_rows_of(chosen)]

        def weighted(logits: Tensor, span: slice) -> Tensor:
            return (loss_of(logits.float(), span) * token_weights[span]).sum()

        _, head = self._parts
        surrogate = sum_by_chunks(head, states, weighted, self.chunk_tokens)
        # The value of the loss, the gradient of the surrogate.
        return surrogate + (loss - surrogate).detach()

    @torch.no_grad()
    def _row_losses(self, states: Tensor, loss_of: TokenLoss, chosen: Tensor) -> Tensor:
        """Return the cross-entropy of each sequence, (sequences,), without a graph."""
        _, head = self._parts
        losses: list[Tensor] = []
        if type(head) is nn.Linear:
            # Read once: under ZeRO-3 each reading gathers the weight from all processes, and these
            # may have different numbers of chunks.
            weight = head.weight
            for start in range(0, len(states), self.chunk_tokens):
                span = slice(start, start + self.chunk_tokens)
                logits = F.linear(states[span], weight, head.bias)
                losses.append(loss_of(logits.float(), span))
        else:
            losses.append(loss_of(head(states).float(), slice(0, len(states))))
        row_losses = torch.zeros(len(chosen), device=states.device)
        if losses:
            row_losses.index_add_(0, _rows_of(chosen), torch.cat(losses))
        return row_losses

    def _loss_of_rows(self, row_losses: Tensor, num_targets: Tensor, pairs: Pairs) -> Tensor:
        """Return the loss of a batch from the summed cross-entropies of its sequences."""
        means = row_losses / num_targets.clamp(min=1)
        share = torch.ones_like(means)
        share[pairs.better] = self.nll_weight
        likelihood = (pairs.row_weights * share * means).sum()
        margins = row_losses[pairs.worse] - row_losses[pairs.better]
        preferences = -F.logsigmoid(self.beta * (margins - pairs.reference_margins))
        return likelihood + (pairs.row_weights[pairs.better] * preferences).sum()


def _rows_of(chosen: Tensor) -> Tensor:
    """Return the sequence that each chosen token is in."""
    return chosen.nonzero()[:, 0]


def with_noise(embeddings: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """Return (batch, length, dimensions) embeddings with NEFTune noise (2310.05914).

    It is uniform in ±alpha/√(length·dimensions). `lengths` are those of `row_lengths`.
    """
    # From torch's global generator, whose state a training checkpoint holds.
    noise = 2 * torch.rand_like(embeddings, dtype=torch.float32) - 1
    scale = alpha / (lengths * embeddings.shape[-1]).float().sqrt()
    return embeddings + (noise * scale.unsqueeze(-1)).to(embeddings.dtype)


def row_lengths(batch: Batch) -> Tensor:
    """Return the token counts of the rows that positions belong to, (batch, length).

    A row ends with its last token that bears loss, so padding is no part of it. 1 for a row without
    loss.
    """
    # Positions restart at 0 with each row of a packed sequence.
    positions = batch.position_ids
    if positions is None:
        positions = torch.arange(batch.labels.shape[1], device=batch.labels.device).expand_as(
            batch.labels
        )
    row = (positions == 0).cumsum(1) - 1
    last = torch.where(batch.labels != IGNORED, positions, 0)
    # The largest position of each row, written back to all positions of the row.
    longest = torch.zeros_like(last).scatter_reduce(1, row, last, "amax")
    return longest.gather(1, row) + 1
