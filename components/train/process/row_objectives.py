"""Objectives that compare whole answers with a reference model: of pairs, and of single answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.modeling.likelihood import IGNORED, Batch, TokenLoss, sum_by_chunks
from components.train.process.objective import Objective


class RowObjective(Objective):
    """An objective that is a sum over rows of a function of their log-likelihoods.

    On a batch with pairs or unpaired answers: in training mode the loss, a scalar; in eval mode the
    cross-entropy of each sequence in nats, (sequences,). On any other batch it is Objective.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        beta: float,
        neftune_alpha: float = 0.0,
        chunk_tokens: int | None = None,
    ) -> None:
        super().__init__(model, neftune_alpha=neftune_alpha, chunk_tokens=chunk_tokens)
        self.beta = beta

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar; in eval mode those of its sequences."""
        if batch.pairs is None and batch.unpaired is None:
            return super().forward(batch)
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORED
        states = self._states(batch)[:, :-1][chosen]
        loss_of = self._token_loss(batch, chosen, targets[chosen])
        if not self.training:
            return self._row_losses(states, loss_of, chosen)
        # The loss of a row is no sum over tokens, but its gradient is: each token's, times a weight
        # of its row. So the rows' losses are computed first, without a graph, and the logits never
        # need to be whole in memory.
        row_losses = self._row_losses(states, loss_of, chosen).requires_grad_()
        with torch.enable_grad():
            loss = self._loss_of_rows(row_losses, chosen.sum(1), batch)
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

    def _loss_of_rows(
        self, row_losses: Tensor, num_targets: Tensor, batch: Batch
    ) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            row_losses: (sequences,) summed cross-entropies, in nats.
            num_targets: (sequences,) tokens that bear loss.
            batch: what is compared.
        """
        raise NotImplementedError


class PreferenceObjective(RowObjective):
    """On a batch with pairs, the sum over rows of weight times

        -log σ(beta · (m - m_ref)) + nll_weight · mean cross-entropy    of a row with a worse answer
        mean cross-entropy                                              of any other row

    in nats, where m is log π(row) - log π(worse answer) and m_ref the same of the reference, which
    `Pairs` holds. With nll_weight 0 it is DPO (2305.18290), above 0 with the term of 2404.19733.
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
        super().__init__(
            model, beta=beta, neftune_alpha=neftune_alpha, chunk_tokens=chunk_tokens
        )
        self.nll_weight = nll_weight

    def _loss_of_rows(
        self, row_losses: Tensor, num_targets: Tensor, batch: Batch
    ) -> Tensor:
        pairs = batch.pairs
        assert pairs is not None, "collate_pairs made the batch"
        means = row_losses / num_targets.clamp(min=1)
        share = torch.ones_like(means)
        share[pairs.better] = self.nll_weight
        likelihood = (pairs.row_weights * share * means).sum()
        margins = row_losses[pairs.worse] - row_losses[pairs.better]
        preferences = -F.logsigmoid(self.beta * (margins - pairs.reference_margins))
        return likelihood + (pairs.row_weights[pairs.better] * preferences).sum()


class KtoObjective(RowObjective):
    """On a batch with unpaired answers, the sum over rows of weight times (2402.01306)

        1 - σ(beta · (r - divergence))    of a right answer
        1 - σ(beta · (divergence - r))    of a wrong one

    where r is log π(row) - log π_ref(row). A wrong answer's term is multiplied by `wrong_weight`.
    """

    # A number and not a term of the batch: all micro-batches of a step need that of the whole step.
    divergence: float = 0.0
    """Estimate of KL(π ‖ π_ref) for the rows of this optimizer step, in nats, 0 or more. It takes
    no gradient."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        beta: float,
        wrong_weight: float,
        neftune_alpha: float = 0.0,
        chunk_tokens: int | None = None,
    ) -> None:
        super().__init__(
            model, beta=beta, neftune_alpha=neftune_alpha, chunk_tokens=chunk_tokens
        )
        self.wrong_weight = wrong_weight

    def _loss_of_rows(
        self, row_losses: Tensor, num_targets: Tensor, batch: Batch
    ) -> Tensor:
        unpaired = batch.unpaired
        assert unpaired is not None, "collate_unpaired made the batch"
        gains = -row_losses - unpaired.references - self.divergence
        signs = torch.where(unpaired.wrong, -1.0, 1.0)
        weights = (
            torch.where(unpaired.wrong, self.wrong_weight, 1.0) * unpaired.row_weights
        )
        # 1 - σ(x) = σ(-x), which does not cancel for a large x.
        return (weights * torch.sigmoid(-self.beta * signs * gains)).sum()


def _rows_of(chosen: Tensor) -> Tensor:
    """Return the sequence that each chosen token is in."""
    return chosen.nonzero()[:, 0]
