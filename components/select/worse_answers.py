"""Wrong samples, as far as there is something to learn from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.contracts.rows import Dropped, Sample, read_rows

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
        fields = {name: row.row[name] for name in Sample.model_fields if name in row.row}
        sample = Sample.model_validate(fields)
        if sample.finished:
            samples.setdefault(sample.prompt_id, {})[sample.index] = sample.text
    answers: dict[str, list[str]] = {}
    # The passes of the filters drop in an order of their own.
    for prompt_id, by_index in samples.items():
        in_order = [by_index[index] for index in sorted(by_index)]
        answers[prompt_id] = list(dict.fromkeys(in_order))
    return answers


def worse_answer(answers: Mapping[str, list[str]], prompt_id: str, number: int) -> str | None:
    """Return the wrong answer for the accepted sample of this number; None without any.

    Accepted samples of one prompt take turns, so that each wrong answer is used.
    """
    of_prompt = answers.get(prompt_id)
    return of_prompt[number % len(of_prompt)] if of_prompt else None
