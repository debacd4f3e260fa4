"""The select step on stored samples: what is accepted, mixed and refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from components.common.context import Context
from components.common.errors import Corrupt, UserError
from components.common.receipts import Receipt, fetch
from components.common.recipe import Recipe
from components.common.records import Dropped, Prompt, TrainingRow, read_rows
from components.select.step import SelectInputs, run
from tests.unit.crafted import ask, decided, generated, prepare, recipe_of, store

PROMPTS = [ask(f"{a}+{b}=", str(a + b), task="sum") for a in range(1, 7) for b in range(1, 7)]
HUMAN = [TrainingRow(id=f"human-{n}", prompt=f"{n}+0=", completion=str(n), source="human", round=0) for n in range(10)]


def answers(prompt: Prompt) -> list[str]:
    """A right answer, the same again, and two wrong ones."""
    right = int(prompt.reference["answer"])
    return [f" {right}\n", str(right), str(right + 1), "none"]


def campaign(
    context: Context, *, validation: tuple[Prompt, ...] = (), recipe: Recipe | None = None, **state: Any
) -> str:
    prepared = prepare(context, recipe or recipe_of(), train=HUMAN, validation=validation)
    return decided(context, prepared, **state)


def shards(context: Context, number: int = 2, prompts: list[Prompt] = PROMPTS, **summary: Any) -> tuple[Receipt, ...]:
    texts = {prompt.text: answers(prompt) for prompt in prompts}
    return tuple(
        generated(context, prompts[shard::number], texts, shard=shard, shards=number, **summary)
        for shard in range(number)
    )


def rows(context: Context, receipt: Receipt, name: str) -> list[TrainingRow]:
    return list(read_rows(fetch(context, receipt, name), TrainingRow))


def test_accepted_and_dropped_hold_every_sample_once_and_only_text_of_the_model(context: Context) -> None:
    receipt = run(SelectInputs(campaign(context), shards(context)), context)
    accepted, dropped = rows(context, receipt, "accepted.jsonl"), list(
        read_rows(fetch(context, receipt, "dropped.jsonl"), Dropped)
    )  # fmt: skip
    assert Counter(row.reason for row in dropped) == {"verifier": 72, "duplicate": 36}
    assert receipt.summary["dropped"] == {"verifier": 72, "duplicate": 36}
    assert receipt.summary["generated"] == 144 == len(accepted) + len(dropped)
    assert receipt.summary["acceptance"] == 0.25
    assert receipt.summary["prompts_accepted"] == receipt.summary["prompts"] == 36
    assert receipt.summary["distinct_share"] == 0.75
    assert {row.completion for row in accepted if row.prompt == "3+4="} == {"7"}
    assert accepted[0].provenance.keys() == {"champion", "prompt_id", "index", "seed", "vote_share", "verdict"}
    assert accepted[0].source == "self"
    assert accepted[0].round == 1


def test_the_result_does_not_depend_on_the_number_or_order_of_shards(context: Context) -> None:
    state = campaign(context)
    one, three = shards(context, 1), shards(context, 3)
    receipts = [run(SelectInputs(state, given), context) for given in (one, three, three[::-1])]
    assert len({receipt.objects["mix.jsonl"].sha256 for receipt in receipts}) == 1
    assert receipts[1] == receipts[2]


def test_the_mix_has_the_plans_human_share_and_accumulates_earlier_rounds(context: Context) -> None:
    old = [
        TrainingRow(id=f"old-{n}", prompt=f"{n}+50=", completion=str(n + 50), source="self", round=1) for n in range(5)
    ]
    again = TrainingRow(id="old-again", prompt="1+1=", completion="2", source="self", round=1)
    earlier = store(context, "select", {"accepted.jsonl": [*old, again]}, {"round": 1})
    state = campaign(context, round=1, selections=(earlier.ref,))
    receipt = run(SelectInputs(state, shards(context, round=2)), context)
    mix = rows(context, receipt, "mix.jsonl")
    total = sum(row.weight for row in mix)
    assert total == pytest.approx(len(mix)) == 10 + 5 + 36
    assert sum(row.weight for row in mix if row.source == "human") / total == pytest.approx(0.5)
    assert sum(row.weight for row in mix if row.round == 2) / total == pytest.approx(0.25)
    assert receipt.summary["older_left_out"] == {"superseded": 1}
    assert receipt.summary["self_rows"] == 41


def test_unsafe_replace_trains_on_the_newest_samples_alone(context: Context) -> None:
    receipt = run(
        SelectInputs(campaign(context, recipe=recipe_of(select={"unsafe_replace": True})), shards(context)), context
    )
    assert {row.source for row in rows(context, receipt, "mix.jsonl")} == {"self"}


def test_prompts_of_an_evaluation_split_never_reach_the_mix(context: Context) -> None:
    leaked = PROMPTS[:3]
    receipt = run(SelectInputs(campaign(context, validation=tuple(leaked)), shards(context)), context)
    assert receipt.summary["dropped"]["in_evaluation"] == 12
    assert not {one.text for one in leaked} & {row.prompt for row in rows(context, receipt, "mix.jsonl")}


def test_a_missing_repeated_or_foreign_shard_is_corrupt(context: Context) -> None:
    state, (first, second) = campaign(context), shards(context)
    for given, message in (
        ((first,), "got shards \\[0\\] of \\[2\\]"),
        ((first, first), "got shards \\[0, 0\\]"),
        ((), "got shards \\[\\]"),
        ((first, *shards(context, round=2)[1:]), "needs"),
        ((first, *shards(context, champion="train/other")[1:]), "needs"),
    ):
        with pytest.raises(Corrupt, match=message):
            run(SelectInputs(state, given), context)
    assert run(SelectInputs(state, (second, first)), context).summary["generated"] == 144


def test_too_few_accepted_rows_fail_the_round_with_the_numbers(context: Context) -> None:
    state = campaign(context, recipe=recipe_of(select={"min_accepted": 37}))
    with pytest.raises(UserError, match=r"36 of 144 samples accepted, .*min_accepted is 37 .*verifier 72.*temperature"):
        run(SelectInputs(state, shards(context)), context)


def test_the_same_work_is_not_done_twice(context: Context) -> None:
    inputs = SelectInputs(campaign(context), shards(context))
    assert run(inputs, context) == run(inputs, context)
    assert run(inputs, context).config["samples"] == [receipt.ref for receipt in inputs.samples]
