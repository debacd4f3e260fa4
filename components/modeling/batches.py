"""Batches of rows of about one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def length_sorted_batches(
    lengths: Sequence[int], batch_size: int
) -> Iterator[list[int]]:
    """Yield row indices in batches of at most `batch_size`, the shortest rows first.

    `lengths` are those of the rows. Rows of one length stay in their order.
    """
    # Neighbours in length share a batch, so that little of it is padding.
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
