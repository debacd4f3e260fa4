"""Worse answers of the model, to be told from better ones: wrong samples, and its own beside labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from components.contracts.rows import Dropped, Sample, TrainingRow, prompt_id, read_rows
from components.select.scored_samples import row_key

WRONG = frozenset({"verifier", "function", "vote", "judge", "people", "reward"})
"""Reasons of drops that call an answer wrong; the others call it unfit to teach."""


def worse_answers(dropped: Path) -> dict[str, list[str]]:
    """Return prompt id → wrong answers of the model, each once, in the order of their samples.

    Answers that were cut off, or given with a hint, are none: what they lack is not the answer.

    Args:
        dropped: `dropped.jsonl` of a round.
    """
    samples: dict[str, dict[int, str]] = {}
    for row in read_rows(dropped, Dropped):
        if row.reason not in WRONG or "hinted" in row.row:
            continue
        fields = {
            name: row.row[name] for name in Sample.model_fields if name in row.row
        }
        sample = Sample.model_validate(fields)
        if sample.finished:
            samples.setdefault(sample.prompt_id, {})[sample.index] = sample.text
    answers: dict[str, list[str]] = {}
    # The passes of the filters drop in an order of their own.
    for identity, by_index in samples.items():
        in_order = [by_index[index] for index in sorted(by_index)]
        answers[identity] = list(dict.fromkeys(in_order))
    return answers


def worse_answer(
    answers: Mapping[str, list[str]], identity: str, number: int
) -> str | None:
    """Return the wrong answer for the accepted sample of this number; None without any.

    Accepted samples of one prompt take turns, so that each wrong answer is used.
    """
    return _in_turn(answers.get(identity, ()), number)


def _in_turn(texts: Sequence[str], number: int) -> str | None:
    return texts[number % len(texts)] if texts else None


def own_answers(accepted: Iterable[TrainingRow]) -> dict[str, list[str]]:
    """Return prompt id → whole answers of the model, each once, in the order of the rows.

    Args:
        accepted: Accepted samples of a round.
    """
    answers: dict[str, dict[str, None]] = {}
    for row in accepted:
        if not row.goes_on:
            answers.setdefault(prompt_id(row.prompt), {})[row.completion] = None
    return {identity: list(texts) for identity, texts in answers.items()}


class BesideOwnAnswers:
    """Labelled rows, each with an answer of the model's own as the worse one (SPIN, 2401.01335).

    Rows of one prompt take turns with its answers. A row whose prompt was not sampled, or where the
    model says what a label says, stays as it is.
    """

    def __init__(
        self,
        labelled: Iterable[TrainingRow],
        answers: Mapping[str, list[str]],
        labelled_keys: Collection[int],
    ) -> None:
        """Take the rows, prompt id → answers, and the `row_key` of each labelled row."""
        self._labelled = labelled
        self._answers = answers
        self._labelled_keys = labelled_keys

    def __iter__(self) -> Iterator[TrainingRow]:
        """Yield the rows, each time from the first on."""
        rows_of = Counter[str]()
        for row in self._labelled:
            identity = prompt_id(row.prompt)
            others = [
                text
                for text in self._answers.get(identity, ())
                if row_key(row.prompt, text) not in self._labelled_keys
            ]
            yield row.model_copy(update={"worse": _in_turn(others, rows_of[identity])})
            rows_of[identity] += 1

    def count_pairs(self) -> int:
        """Return the number of rows with a worse answer."""
        return sum(row.worse is not None for row in self)
