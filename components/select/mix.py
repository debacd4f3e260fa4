"""The training mix of a round: human rows, samples of earlier rounds, and the newest.

Accumulating bounds the error that a model trained on its own output makes; replacing lets it grow without bound
(2404.01413, 2305.17493). Human rows keep a fixed share of what is drawn (2502.18049), the newest round a share of the
rest (2502.01612), whatever the counts are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from components.common.records import TrainingRow
from components.select.filters import Rules, row_key

MIN_HUMAN_SHARE = 0.25
"""Floor of the human share (2502.18049), below what any plan may ask for."""


def accumulate(
    older: Iterable[TrainingRow], newest: Sequence[TrainingRow], rules: Rules
) -> tuple[list[TrainingRow], Counter[str]]:
    """Rows of earlier rounds (given newest first) that stay in the mix, and how many do not, by reason.

    A row that this round found again counts as this round's (`superseded`): it belongs to what is being learned now,
    and a prompt must not teach twice as much because it was drawn twice. Rows that the evaluation splits claim
    (`in_evaluation`, possible after a resume with other data) or people wrote (`duplicate`) are left out too.
    """
    found_again = {row_key(row.prompt, row.completion) for row in newest}
    stay: dict[tuple[str, str], TrainingRow] = {}
    dropped: Counter[str] = Counter()
    for row in older:
        key = row_key(row.prompt, row.completion)
        if key[0] in rules.evaluation_ids:
            dropped["in_evaluation"] += 1
        elif key in rules.human_keys:
            dropped["duplicate"] += 1
        elif key in found_again or key in stay:
            dropped["superseded"] += 1
        else:
            stay[key] = row
    return list(stay.values()), dropped


def weigh(
    human: Sequence[TrainingRow],
    older: Sequence[TrainingRow],
    newest: Sequence[TrainingRow],
    *,
    human_share: float,
    newest_share: float,
) -> list[TrainingRow]:
    """All rows with weights that sum to their number: human rows have `human_share` of the sum (at least 0.25), the
    newest `newest_share` of the rest, older samples what remains. The share of an empty group goes to the others."""
    human_share = max(MIN_HUMAN_SHARE, human_share)
    groups = [
        (human, human_share),
        (older, (1 - human_share) * (1 - newest_share)),
        (newest, (1 - human_share) * newest_share),
    ]
    if not older or not newest:  # one group of samples takes all of their share
        groups = [(human, human_share), ([*older, *newest], 1 - human_share)]
    present = sum(share for rows, share in groups if rows)
    total = sum(len(rows) for rows, _ in groups)
    return [
        row.model_copy(update={"weight": share / present * total / len(rows)}) for rows, share in groups for row in rows
    ]
