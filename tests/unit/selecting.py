"""Rounds of sums whose samples select reads: prompts, answers, shards, and what came of them."""

from __future__ import annotations

from typing import Any

from components.contracts.recipe import Recipe
from components.contracts.rows import Prompt, TrainingRow
from components.contracts.summaries import SelectSummary
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary
from tests.unit.crafted import ask, decided, generated, prepare, recipe_of

PROMPTS = [
    ask(f"{a}+{b}=", str(a + b), task="sum") for a in range(1, 7) for b in range(1, 7)
]
LABELLED = [
    TrainingRow(
        id=f"labelled-{n}",
        prompt=f"{n}+0=",
        completion=str(n),
        source="labelled",
        round=0,
    )
    for n in range(10)
]


def answers(prompt: Prompt) -> list[str]:
    """A right answer, the same again, and two wrong ones."""
    right = int(prompt.reference["answer"])
    return [f" {right}\n", str(right), str(right + 1), "none"]


def campaign(
    context: Context,
    *,
    validation: tuple[Prompt, ...] = (),
    recipe: Recipe | None = None,
    **state: Any,
) -> str:
    prepared = prepare(
        context, recipe or recipe_of(), train=LABELLED, validation=validation
    )
    return decided(context, prepared, **state)


def shards(
    context: Context, number: int = 2, prompts: list[Prompt] = PROMPTS, **summary: Any
) -> tuple[Receipt, ...]:
    texts = {prompt.text: answers(prompt) for prompt in prompts}
    return tuple(
        generated(
            context,
            prompts[shard::number],
            texts,
            shard=shard,
            shards=number,
            **summary,
        )
        for shard in range(number)
    )


def summary_of(receipt: Receipt) -> SelectSummary:
    return read_summary(receipt, SelectSummary)
