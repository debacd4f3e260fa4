"""Answers of the base and of the champion to the same test prompts, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from components.contracts.artifacts import RESULTS, split_file
from components.contracts.recipe import Metric
from components.contracts.rows import Prompt, Result, read_rows
from components.measures import measure_of
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch

# Test reports and decides nothing; the vault's answers are nobody's to read.
SPLIT = "test"
"""Split whose answers are shown."""
T = TypeVar("T")
MAX_PROMPTS_READ = 20_000
"""Prompts that are compared; later ones are left out."""


@dataclass(frozen=True)
class AnswerPair:
    """What both models said to one prompt."""

    prompt: str
    expected: str
    """The reference answer; empty where the verifier has none."""
    before: str
    """Answer of the base model."""
    after: str
    """Answer of the champion."""


@dataclass(frozen=True)
class ComparedAnswers:
    """How the champion answers the test prompts, beside the base model."""

    num_prompts: int
    num_won: int
    """Prompts that the champion does better by the measure: it alone is right or finds the class, its
    score is higher, its loss or its Brier score is lower."""
    num_lost: int
    """The same of the base."""
    won: tuple[AnswerPair, ...]
    """Examples of won prompts, spread over the split."""
    lost: tuple[AnswerPair, ...]
    """Examples of lost prompts."""


Pair = tuple[Result, Result]
"""(base's, champion's) result of one prompt."""


def compared_answers(
    context: Context,
    prepared: Receipt,
    base: Receipt,
    champion: Receipt,
    metric: Metric,
    examples: int,
) -> ComparedAnswers | None:
    """Return the answers of both models; None if they share no test prompt.

    Args:
        context: Store of the receipts.
        prepared: Receipt of prepare, with the prompts.
        base: Receipt of the base's evaluation.
        champion: Receipt of the champion's evaluation.
        metric: Measure of the campaign, by which a prompt is won or lost.
        examples: Won prompts to return, and lost ones.

    Raises:
        Corrupt: A file is missing or damaged.
    """
    before = {result.prompt_id: result for result in _test_results(context, base)}
    pairs = [
        (before[result.prompt_id], result)
        for result in _test_results(context, champion)
        if result.prompt_id in before
    ]
    if not pairs:
        return None
    won = [pair for pair in pairs if _is_better(pair[1], pair[0], metric)]
    lost = [pair for pair in pairs if _is_better(pair[0], pair[1], metric)]
    shown = [*spread(won, examples), *spread(lost, examples)]
    prompts = _prompts(context, prepared, {result.prompt_id for result, _ in shown})
    return ComparedAnswers(
        num_prompts=len(pairs),
        num_won=len(won),
        num_lost=len(lost),
        won=tuple(_pair(pair, prompts) for pair in spread(won, examples)),
        lost=tuple(_pair(pair, prompts) for pair in spread(lost, examples)),
    )


def spread(rows: list[T], count: int) -> list[T]:
    """Return at most `count` rows, evenly over the list."""
    total = len(rows)
    if total <= count:
        return rows
    # Not the first ones: files are in the order of prompts, and neighbours resemble each other.
    return [rows[index * total // count] for index in range(count)]


def _test_results(context: Context, evaluation: Receipt) -> Iterator[Result]:
    rows = read_rows(fetch(context, evaluation, RESULTS), Result)
    in_split = (row for row in rows if row.split == SPLIT)
    return itertools.islice(in_split, MAX_PROMPTS_READ)


def _is_better(result: Result, other: Result, metric: Metric) -> bool:
    """Return True if a model does a prompt better than the other one, by the measure."""
    match metric:
        case "perplexity":
            new, old = result.loss, other.loss
        case "brier":
            new, old = result.label_error, other.label_error
        case "mean_score":
            new, old = result.score, other.score
        case "macro_f1":
            new, old = (float(row.predicted == row.label) for row in (result, other))
        case "accuracy":
            new, old = None, None
    if new is None or old is None:
        return result.correct and not other.correct
    return measure_of(metric).improves(new, old)


def _prompts(
    context: Context, prepared: Receipt, wanted: set[str]
) -> dict[str, Prompt]:
    """Return id → prompt of those that are wanted."""
    rows = read_rows(fetch(context, prepared, split_file(SPLIT)), Prompt)
    return {prompt.id: prompt for prompt in rows if prompt.id in wanted}


def _pair(pair: Pair, prompts: dict[str, Prompt]) -> AnswerPair:
    before, after = pair
    prompt = prompts.get(before.prompt_id)
    return AnswerPair(
        # Ids say more than nothing where the split has changed since.
        prompt=prompt.text if prompt is not None else before.prompt_id,
        expected=str(prompt.reference.get("answer", "")) if prompt is not None else "",
        before=_said(before),
        after=_said(after),
    )


def _said(result: Result) -> str:
    """Return the answer; of raw text, which is not answered, its loss."""
    if result.text or result.loss is None:
        return result.text
    return f"{result.loss:.3f} nats per token"
