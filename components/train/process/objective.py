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
    TokenLoss,
    split_head,
    states_of,
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
            terms = F.kl_div(
                reference_log, model_log, reduction="none", log_target=True
            )
            return cross_entropy(logits, span) + self.kl_beta * terms.sum(-1)

        return loss_of


class ClippedObjective(Objective):
    """In training mode, on a batch with likelihoods of sampling, the weighted sum over tokens of

        -min(s, 1 + clip)    of a token whose likelihood under the sampling model is known
        cross-entropy        of any other

    where s is π(token) / π_sampled(token): rejection sampling with clipped importance weights
    (RAFT++, 2504.11343). It is PPO's objective with an advantage of 1: a token that has become
    likelier by more than the clip teaches no more, and one that is no longer likely teaches little.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        clip: float,
        neftune_alpha: float = 0.0,
        chunk_tokens: int | None = None,
    ) -> None:
        super().__init__(model, neftune_alpha=neftune_alpha, chunk_tokens=chunk_tokens)
        self.clip = clip

    def _token_loss(self, batch: Batch, chosen: Tensor, targets: Tensor) -> TokenLoss:
        cross_entropy = super()._token_loss(batch, chosen, targets)
        if not self.training or batch.sampled is None:
            return cross_entropy
        sampled = batch.sampled[:, 1:][chosen]
        is_known = ~sampled.isnan()

        def loss_of(logits: Tensor, span: slice) -> Tensor:
            losses = cross_entropy(logits, span)
            # NaN in the branch that is not taken would still reach the gradient.
            log_ratios = torch.where(is_known[span], -losses - sampled[span], 0.0)
            clipped = -log_ratios.exp().clamp(max=1 + self.clip)
            return torch.where(is_known[span], clipped, losses)

        return loss_of


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
        positions = torch.arange(
            batch.labels.shape[1], device=batch.labels.device
        ).expand_as(batch.labels)
    row = (positions == 0).cumsum(1) - 1
    last = torch.where(batch.labels != IGNORED, positions, 0)
    # The largest position of each row, written back to all positions of the row.
    longest = torch.zeros_like(last).scatter_reduce(1, row, last, "amax")
    return longest.gather(1, row) + 1
