"""Micro-batches: the rows of an optimizer step as forward passes of each process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from components.modeling.likelihood import (
    IGNORED,
    Batch,
    EncodedRow,
    collate,
    collate_pairs,
    collate_sampled,
    collate_unpaired,
)
from components.train.process.packing import bins, collate_packed
from components.train.process.row_batches import cut, share_of

Kind = Literal["rows", "packed", "pairs", "unpaired", "sampled"]
"""Sequences of a batch: one a row; several rows each; a row and the worse answer beside it; a right
or a wrong answer each; one a row, with the likelihoods under which it was drawn."""

_COLLATE = {
    "rows": collate,
    "pairs": collate_pairs,
    "unpaired": collate_unpaired,
    "sampled": collate_sampled,
}


@dataclass(frozen=True)
class MicroBatches:
    """How rows become forward passes, the same in every process of a training."""

    pad_id: int
    """Filler of shorter rows."""
    micro_batch_size: int
    """Sequences of a forward pass, at most."""
    max_length: int
    """Tokens of a packed sequence, at most."""
    fixed_positions: int
    """Fixed cost of a forward and backward pass, in token positions."""
    kind: Kind

    @property
    def rows_of_a_pass(self) -> int:
        """Rows of a forward pass, at most."""
        return (
            max(1, self.micro_batch_size // 2)
            if self.kind == "pairs"
            else self.micro_batch_size
        )

    @property
    def compares_rows(self) -> bool:
        """Rows are compared with the reference model."""
        return self.kind in ("pairs", "unpaired")

    @property
    def by_rows(self) -> bool:
        """The loss is a mean over rows; else over tokens."""
        return self.kind in ("pairs", "unpaired", "sampled")

    def of(self, rows: Sequence[EncodedRow], rank: int, world_size: int) -> list[Batch]:
        """Return the batches of one process, equally many in every process, as ZeRO-3 needs.

        Args:
            rows: all rows of an optimizer step.
            rank: of the process.
            world_size: number of processes.
        """
        lengths = [row.longest for row in rows]
        shares = [
            share_of(range(len(rows)), lengths, other, world_size)
            for other in range(world_size)
        ]
        if self.kind == "packed":
            return self._packed(rows, lengths, shares, rank)
        process_rows = [rows[index] for index in shares[rank]]
        # The share of process 0 has the longest rows; where it is cut, all are.
        longest_rows = [lengths[index] for index in shares[0]]
        cuts = cut(longest_rows, self.rows_of_a_pass, self.fixed_positions)
        collated = _COLLATE[self.kind]
        return [collated(process_rows[span], self.pad_id) for span in cuts]

    def _packed(
        self,
        rows: Sequence[EncodedRow],
        lengths: Sequence[int],
        shares: Sequence[Sequence[int]],
        rank: int,
    ) -> list[Batch]:
        """Return the batches of packed sequences of one process."""
        # Of every process, not of this one alone: all must run the same number of passes.
        groups = []
        for share in shares:
            share_lengths = [lengths[index] for index in share]
            groups.append(bins(share_lengths, self.max_length))
        # As many tokens a forward pass as `micro_batch_size` rows of the longest kind have.
        sequences = max(1, self.micro_batch_size * max(lengths) // self.max_length)
        num_batches = max(-(-len(group) // sequences) for group in groups)
        packed_rows = []
        for group in groups[rank]:
            packed_rows.append([rows[shares[rank][index]] for index in group])
        batches = []
        for number in range(num_batches):
            start = len(packed_rows) * number // num_batches
            end = len(packed_rows) * (number + 1) // num_batches
            if start < end:
                batches.append(collate_packed(packed_rows[start:end], self.pad_id))
            else:
                # A process with fewer sequences than another computes one without loss.
                batches.append(idle_batch(self.pad_id))
        return batches


def idle_batch(pad_id: int) -> Batch:
    """Return a batch without loss, for a process without work while others compute."""
    ids = torch.full((1, 2), pad_id, dtype=torch.long)
    return Batch(ids, torch.full_like(ids, IGNORED))
