"""Likelihoods by the reference model of preference training, measured before the first step.

The reference never stands beside the trained model in memory during a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn

from components.modeling.batches import length_sorted_batches
from components.modeling.likelihood import EncodedRow, collate_unpaired
from components.train.process.row_batches import TrainingSet, cut_at

Drawn = list[tuple[TrainingSet, int]]
"""Rows of a training as (rows of their stage, index), each once."""
Plan = list[list[int]]
"""The row indices of each step of a stage."""


@dataclass(frozen=True)
class Reader:
    """How a process computes its share of the likelihoods of rows."""

    pad_id: int
    """Filler of shorter rows."""
    batch_size: int
    """Rows of a forward pass."""
    context_length: int
    """Tokens of a row, at most."""
    device: torch.device

    @torch.no_grad()
    def likelihoods(
        self, objective: nn.Module, rows: Sequence[EncodedRow]
    ) -> list[float]:
        """Return log π of each row, in nats, without dropout or noise (collective).

        Every process computes its share of length-sorted batches.

        Args:
            objective: a RowObjective; it is left in training mode.
            rows: the rows; their weights are ignored.
        """
        rank = dist.get_rank()
        world_size = dist.get_world_size()
        batches = list(
            length_sorted_batches([len(row.ids) for row in rows], self.batch_size)
        )
        values = torch.zeros(len(rows), dtype=torch.float64, device=self.device)
        objective.eval()
        for start in range(0, len(batches), world_size):
            index = start + rank
            # Under ZeRO-3 a forward pass gathers weights from all processes: one without work
            # computes a batch without loss.
            indices = batches[index] if index < len(batches) else []
            batch_rows = [rows[position] for position in indices]
            if not batch_rows:
                batch_rows = [EncodedRow([self.pad_id, self.pad_id], 2)]
            losses = objective(
                collate_unpaired(batch_rows, self.pad_id).to(self.device)
            )
            if indices:
                values[torch.tensor(indices, device=self.device)] = -losses.double()
        objective.train()
        if world_size > 1:
            dist.all_reduce(values)
        likelihoods: list[float] = values.tolist()
        return likelihoods

    def of_drawn(self, objective: nn.Module, drawn: Drawn) -> list[float]:
        """Return log π of each drawn row; of a pair log π(row) - log π(worse row) (collective)."""
        rows = [stage_rows.rows[index] for stage_rows, index in drawn]
        likelihoods: list[float] = self.likelihoods(objective, rows)
        worse_rows: list[EncodedRow] = []
        positions: list[int] = []
        for position, row in enumerate(rows):
            if row.worse is not None:
                worse_rows.append(row.worse)
                positions.append(position)
        worse_likelihoods = self.likelihoods(objective, worse_rows)
        for position, worse_likelihood in zip(
            positions, worse_likelihoods, strict=True
        ):
            likelihoods[position] -= worse_likelihood
        return likelihoods

    def of_steps(
        self,
        objective: nn.Module,
        rows_of_stages: Sequence[TrainingSet],
        plans: Sequence[Plan],
    ) -> list[float]:
        """Return the mean log π of the `mismatched` rows of each step (collective)."""
        means: list[float] = []
        for stage_rows, plan in zip(rows_of_stages, plans, strict=True):
            for batch in plan:
                rows = [stage_rows.rows[index] for index in batch]
                means.append(self.mean_of_mismatched(objective, rows))
        return means

    def mean_of_mismatched(
        self, objective: nn.Module, rows: Sequence[EncodedRow]
    ) -> float:
        """Return the mean log π of `mismatched` rows of one optimizer step (collective)."""
        others = mismatched(rows, self.context_length)
        likelihoods: list[float] = self.likelihoods(objective, others)
        return sum(likelihoods) / len(others)


def mismatched(rows: Sequence[EncodedRow], context_length: int) -> list[EncodedRow]:
    """Return each row's prompt with the answer of the row before it, the first with the last's.

    Answers that have nothing to do with their prompts: by their likelihoods KTO estimates how far
    the model is from the reference (2402.01306, section 4.2). An answer is cut where prompt and
    answer have more than `context_length` tokens.
    """
    others: list[EncodedRow] = []
    for index, row in enumerate(rows):
        answer = rows[index - 1]
        shift = row.num_masked - answer.num_masked
        other = EncodedRow(
            ids=row.ids[: row.num_masked] + answer.ids[answer.num_masked :],
            num_masked=row.num_masked,
            gaps=tuple((start + shift, end + shift) for start, end in answer.gaps),
        )
        # A prompt that leaves no room is a row without loss: its likelihood is 1 for any model.
        others.append(cut_at(other, context_length) or EncodedRow(row.ids[:2], 2))
    return others


def drawn_rows(rows_of_stages: Sequence[TrainingSet], plans: Sequence[Plan]) -> Drawn:
    """Return the rows that some step of a stage's plan draws."""
    drawn: Drawn = []
    for stage_rows, plan in zip(rows_of_stages, plans, strict=True):
        indices = {index for batch in plan for index in batch}
        drawn += [(stage_rows, index) for index in sorted(indices)]
    return drawn


def put_into_rows(drawn: Drawn, references: Sequence[float]) -> None:
    """Give every drawn row what `Reader.of_drawn` returned for it."""
    for (stage_rows, index), reference in zip(drawn, references, strict=True):
        stage_rows.rows[index] = replace(stage_rows.rows[index], reference=reference)
