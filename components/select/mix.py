"""The training mix of a round: labelled rows, samples of earlier rounds, and the newest.

Accumulating bounds the error that a model trained on its own output makes; replacing lets it grow
without bound (2404.01413, 2305.17493). Labelled rows keep a fixed share of what is drawn
(2502.18049), the newest round a share of the rest (2502.01612), whatever the counts are; or all are
mixed as they are, the natural union.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from components.contracts.rows import TrainingRow, prompt_id
from components.select.scored_samples import row_key

FEW_LABELLED = 0.25
"""Share of labelled rows below which a mix is warned of. It is a choice of ours."""


def accumulate(
    older: Iterable[TrainingRow],
    newest: Iterable[TrainingRow],
    *,
    evaluation_ids: frozenset[str],
    labelled_keys: frozenset[int],
    left_out: Counter[str],
) -> Iterator[TrainingRow]:
    """Yield the rows of earlier rounds that stay in the mix.

    A row that this round produced again counts as this round's (`superseded`): a prompt must not
    teach twice as much because it was drawn twice. Rows of an evaluation split (`in_evaluation`,
    possible after a resume with other data) and labelled rows (`duplicate`) are left out too.

    Args:
        older: Accepted rows of earlier rounds, the newest round first.
        newest: Accepted rows of this round.
        evaluation_ids: Ids of the evaluation prompts.
        labelled_keys: `row_key` of the labelled rows.
        left_out: Counts the rows that are left out, by reason; updated.
    """
    # Keys, not rows: the rows of all rounds would not fit into memory.
    mixed_keys = {row_key(row.prompt, row.completion) for row in newest}
    for row in older:
        key = row_key(row.prompt, row.completion)
        if prompt_id(row.prompt) in evaluation_ids:
            left_out["in_evaluation"] += 1
        elif key in labelled_keys:
            left_out["duplicate"] += 1
        elif key in mixed_keys:
            left_out["superseded"] += 1
        else:
            mixed_keys.add(key)
            yield row


def weigh(
    labelled: Iterable[TrainingRow],
    older: Iterable[TrainingRow],
    newest: Iterable[TrainingRow],
    *,
    labelled_share: float | None,
    newest_share: float,
) -> Iterator[TrainingRow]:
    """Yield all rows with new weights, which sum to the number of rows.

    The share of an empty group goes to the others. Within a group rows keep the weights they came
    with, relative to each other. Each group is iterated over twice.

    Args:
        labelled: Labelled rows.
        older: Generated rows of earlier rounds.
        newest: Generated rows of this round.
        labelled_share: Share of the weights for labelled rows; None: each group has the share of its
            number of rows.
        newest_share: Share of the remaining weights for the newest rows; older rows have the rest.
    """
    groups = [labelled, older, newest]
    counted = [_counted(rows) for rows in groups]
    counts = [count for count, _ in counted]
    num_rows = sum(counts)
    if labelled_share is None:
        shares = [count / max(1, num_rows) for count in counts]
    else:
        shares = _shares(counts, labelled_share, newest_share)
    # Labelled rows may be missing too: the shares of the groups that are there make up the whole.
    present = sum(share for share, count in zip(shares, counts, strict=True) if count)
    # The weights of a group sum to its share of the number of rows, whatever its own size is.
    for rows, share, (_, weight_sum) in zip(groups, shares, counted, strict=True):
        for row in rows:
            weight = row.weight * share / present * num_rows / weight_sum
            yield row.model_copy(update={"weight": weight})


def _shares(
    counts: Sequence[int], labelled_share: float, newest_share: float
) -> list[float]:
    """Return the shares of labelled, older and newest rows, of which there are so many."""
    num_labelled, num_older, num_newest = counts
    generated_share = 1 - labelled_share if num_labelled else 1.0
    # One group of generated rows takes all of their share.
    if not num_older:
        return [labelled_share, 0.0, generated_share]
    if not num_newest:
        return [labelled_share, generated_share, 0.0]
    return [
        labelled_share,
        generated_share * (1 - newest_share),
        generated_share * newest_share,
    ]


def _counted(rows: Iterable[TrainingRow]) -> tuple[int, float]:
    """Return (number, sum of the weights)."""
    count = 0
    total = 0.0
    for row in rows:
        count += 1
        total += row.weight
    return count, total
