"""Labelled rows beside the model's own answers to their prompts (SPIN, 2401.01335)."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.contracts.recipe.train import TrainSection
from components.contracts.rows import TrainingRow, read_rows
from components.contracts.summaries import SelectSummary
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary
from components.select.step import SelectInputs, run
from tests.unit.crafted import ask, decided, generated, prepare, recipe_of

ANSWERS = {
    # Right by the verifier, right by a label, wrong in two ways; what a label says; all wrong.
    "1+1=": ["2", "two", "3", "none"],
    "2+2=": ["4", " 4\n"],
    "3+3=": ["7", "8"],
}
LABELS = {"1+1=": ("2", "two"), "2+2=": ("4",), "3+3=": ("6",), "4+4=": ("8",)}
"""The last prompt is not sampled in this round."""
LABELLED = [
    TrainingRow(
        id=f"labelled-{prompt}{number}",
        prompt=prompt,
        completion=completion,
        source="labelled",
        round=0,
    )
    for prompt, completions in LABELS.items()
    for number, completion in enumerate(completions)
]


def select(context: Context, labelled: bool = True, **sections: Any) -> Receipt:
    preference = {"labelled": labelled}
    recipe = recipe_of(train={"method": "rpo", "preference": preference}, **sections)
    prompts = [ask(prompt, LABELS[prompt][0], task="sum") for prompt in ANSWERS]
    prepared = prepare(context, recipe, train=LABELLED)
    shard = generated(context, prompts, ANSWERS, shard=0, shards=1)
    return run(SelectInputs(decided(context, prepared), (shard,)), context)


def worse_of(context: Context, receipt: Receipt) -> dict[tuple[str, str], str | None]:
    """(prompt, label) → the worse answer of the labelled rows of a mix."""
    mix = read_rows(fetch(context, receipt, "mix.jsonl"), TrainingRow)
    return {
        (row.prompt, row.completion): row.worse
        for row in mix
        if row.source == "labelled"
    }


def test_a_label_stands_beside_a_wrong_answer_of_the_model_to_its_prompt(
    context: Context,
) -> None:
    receipt = select(context, select={"min_accepted": 1})
    assert worse_of(context, receipt) == {
        # Two labels of one prompt take turns with its wrong answers.
        ("1+1=", "2"): "3",
        ("1+1=", "two"): "none",
        ("2+2=", "4"): None,
        ("3+3=", "6"): "7",
        ("4+4=", "8"): None,
    }
    assert read_summary(receipt, SelectSummary).labelled_pairs == 3
    # Every right sample repeats a label: without the pairs the round has nothing to teach.
    plain = select(context, labelled=False, select={"min_accepted": 1})
    assert "mix.jsonl" not in plain.objects
    summary = read_summary(plain, SelectSummary)
    assert summary.labelled_pairs is None
    assert summary.why_weak is not None
    # And too few pairs are too few.
    weak = read_summary(select(context, select={"min_accepted": 4}), SelectSummary)
    assert weak.why_weak is not None
    assert "0 of 8 samples and 3 beside labelled rows accepted" in weak.why_weak


def test_where_nothing_tells_right_from_wrong_any_other_answer_of_the_model_is_worse(
    context: Context,
) -> None:
    receipt = select(
        context, select={"min_accepted": 1, "verifier": False, "labelled_share": 0.9}
    )
    worse = worse_of(context, receipt)
    # Never an answer that a label gives, whatever its blanks.
    assert worse[("1+1=", "2")] == "3"
    assert worse[("2+2=", "4")] is None
    assert worse[("3+3=", "6")] == "7"


@pytest.mark.parametrize("method", ["sft", "kto", "raft"])
def test_methods_without_pairs_refuse_it(method: str) -> None:
    with pytest.raises(ValidationError, match="it needs method dpo or rpo"):
        TrainSection.model_validate(
            {"method": method, "preference": {"labelled": True}}
        )
