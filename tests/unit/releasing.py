"""Campaigns that are published under one name, vaults that prefer chosen models, and power cuts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from components.contracts.rows import Prompt
from components.contracts.summaries import PublishSummary
from components.publish.step import PublishInputs, run
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    fetch,
    fetch_folder,
    read_summary,
)
from tests.unit.crafted import decided, recipe_of
from tests.unit.measuring import begun, evaluate, question, round_zero

NAME = "crafted"
QUESTIONS = [question(number) for number in range(60, 90)]
SPLITS = {
    "validation": [question(number) for number in range(4)],
    "test": [question(number) for number in range(10, 14)],
}


def taught_by(
    context: Context, receipts: Sequence[Receipt], number: int = 12
) -> list[Prompt]:
    """Prompts of which each model, in turn, has the right answer to its part, and no other."""
    from components.modeling.inference.answers import load_for_answers, sample_all
    from components.modeling.inference.sampling import Sampling

    greedy = Sampling(
        temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=4, batch_size=64
    )
    prompts = QUESTIONS[:number]
    texts = []
    for receipt in receipts:
        folder = fetch_folder(context, receipt, "model")
        loaded, codec = load_for_answers(folder, "")
        seeds = [[0]] * len(prompts)
        texts.append(
            [
                one.text
                for one in sample_all(context, loaded, codec, prompts, seeds, greedy)
            ]
        )
        shutil.rmtree(folder)
    return [
        prompt.model_copy(
            update={"reference": {"answer": texts[index % len(receipts)][index] or "?"}}
        )
        for index, prompt in enumerate(prompts)
    ]


def campaign(
    context: Context, base: Receipt, vault: Sequence[Prompt] = (), **sections: Any
) -> Receipt:
    recipe = recipe_of(
        generate={"max_new_tokens": 4}, **{"publish": {"name": NAME}, **sections}
    )
    splits = {**SPLITS, "vault": vault} if vault else SPLITS
    return begun(context, recipe, base=base, **splits)


def state_of(
    context: Context, start: Receipt, champion: Receipt, **changes: Any
) -> str:
    evaluation = evaluate(context, start, champion)
    state = {
        "champion": champion.ref,
        "champion_evaluation": evaluation.ref,
        "first_evaluation": evaluation.ref,
        "history": (round_zero(champion, evaluation),),
    }
    return decided(context, start, **{**state, **changes})


def publish(
    context: Context, start: Receipt, champion: Receipt, **changes: Any
) -> PublishSummary:
    receipt = run(PublishInputs(state_of(context, start, champion, **changes)), context)
    return read_summary(receipt, PublishSummary)


def card(context: Context, state: str) -> str:
    return fetch(context, run(PublishInputs(state), context), "README.md").read_text()


class PowerCut(Exception):
    """The end of a process, before a write."""


def cut_before_each_write(
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[], object],
    after_cut: Callable[[], None],
) -> int:
    """Do `work` again and again, cut short before its first write, then its second and so on, until
    it gets through. Return the number of cuts."""
    put_bytes, put_file = context.store.put_bytes, context.store.put_file
    writes = 0
    limit = 0

    def counted(write: Any) -> Any:
        def writing(key: str, *arguments: Any, **options: Any) -> Any:
            nonlocal writes
            # Attempt records are for people.
            if not key.startswith("attempts/"):
                writes += 1
                if writes > limit:
                    raise PowerCut(key)
            return write(key, *arguments, **options)

        return writing

    monkeypatch.setattr(
        type(context.store),
        "put_bytes",
        lambda self, *a, **o: counted(put_bytes)(*a, **o),
    )
    monkeypatch.setattr(
        type(context.store),
        "put_file",
        lambda self, *a, **o: counted(put_file)(*a, **o),
    )
    while True:
        writes = 0
        try:
            work()
        except PowerCut:
            after_cut()
            limit += 1
        else:
            monkeypatch.undo()
            return limit
