"""The training mix of a round: labelled rows, samples of earlier rounds, and the newest.

Accumulating bounds the error that a model trained on its own output makes; replacing lets it grow
without bound (2404.01413, 2305.17493). Labelled rows keep a fixed share of what is drawn
(2502.18049), the newest round a share of the rest (2502.01612), whatever the counts are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from components.contracts.rows import TrainingRow, prompt_id
from components.select.scored_samples import row_key

MIN_LABELLED_SHARE = 0.25
"""Floor of the labelled share (2502.18049), below what any plan may ask for."""


def accumulate(
    older: Iterable[TrainingRow],
    newest: Iterable[TrainingRow],
    *,
    evaluation_ids: frozenset[str],
    labelled_keys: frozenset[int],
    left_out: Counter[str],
) -> Iterator[TrainingRow]:
    """Rows of earlier rounds (given newest first) that stay in the mix; `left_out` counts the
    others by reason.

    A row that this round found again counts as this round's (`superseded`): it belongs to what is
    being learned now, and a prompt must not teach twice as much because it was drawn twice. Rows
    that the evaluation splits claim (`in_evaluation`, possible after a resume with other data) or
    people wrote (`duplicate`) are left out too.
    """
    seen = {row_key(row.prompt, row.completion) for row in newest}
    for row in older:
        key = row_key(row.prompt, row.completion)
        if prompt_id(row.prompt) in evaluation_ids:
            left_out["in_evaluation"] += 1
        elif key in labelled_keys:
            left_out["duplicate"] += 1
        elif key in seen:
            left_out["superseded"] += 1
        else:
            seen.add(key)
            yield row


def weigh(
    labelled: Iterable[TrainingRow],
    older: Iterable[TrainingRow],
    newest: Iterable[TrainingRow],
    *,
    labelled_share: float,
    newest_share: float,
) -> Iterator[TrainingRow]:
    """All rows with weights that sum to their number: labelled rows have `labelled_share` of the
    sum (at least 0.25), the newest `newest_share` of the rest, older samples what remains. The
    share of an empty group goes to the others. Within a group rows keep the weights they came with,
    relative to each other. Each group is gone through twice."""
    labelled_share = max(MIN_LABELLED_SHARE, labelled_share)
    groups = [labelled, older, newest]
    counts, sums = zip(*(_counted(rows) for rows in groups), strict=True)
    rest = 1 - labelled_share
    shares = [labelled_share, rest * (1 - newest_share), rest * newest_share]
    if not counts[1] or not counts[2]:  # one group of samples takes all of their share
        shares[1:] = [rest * bool(counts[1]), rest * bool(counts[2])]
    present = sum(share for share, count in zip(shares, counts, strict=True) if count)
    for rows, share, weights in zip(groups, shares, sums, strict=True):
        for row in rows:
            yield row.model_copy(
                update={"weight": row.weight * share / present * sum(counts) / weights}
            )


def _counted(rows: Iterable[TrainingRow]) -> tuple[int, float]:
    """(number, sum of the weights)."""
    count, total = 0, 0.0
    for row in rows:
        count += 1
        total += row.weight
    return count, total
