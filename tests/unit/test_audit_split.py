"""The audit split: known answers that measure filters, asked in every round and never trained on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from components.canonical import canonical_json
from components.contracts.recipe import Fractions, Ladder, TaskSource
from components.contracts.rows import Dropped, Prompt
from components.contracts.state import State
from components.generate.round_prompts import round_prompts
from components.prepare.examples import Example
from components.prepare.splits import make_splits
from components.prepare.tasks import make_examples
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import receipt_uri
from tests.unit.crafted import PLAN, ask, prepare_summary, recipe_of, store


def test_a_task_gives_audit_prompts_of_their_own_at_every_climbing_length() -> None:
    ladder = Ladder(labelled=(1, 4), climb=(5, 6))
    task = TaskSource(
        task="reverse",
        labelled=40,
        dev=4,
        unlabelled=30,
        validation=6,
        test=6,
        audit=10,
        ladder=ladder,
    )
    made = list(make_examples(task, seed=1))
    splits = make_splits(
        [one for one in made if not isinstance(one, Dropped)], Fractions(), seed=1
    )
    assert Counter(prompt.tags["length"] for prompt in splits.audit) == {
        "5": 10,
        "6": 10,
    }
    others = {
        prompt.id for prompt in (*splits.unlabelled, *splits.validation, *splits.test)
    }
    assert not {prompt.id for prompt in splits.audit} & others


def test_a_row_of_the_audit_split_is_dropped_wherever_it_would_be_trained_on() -> None:
    def row(prompt: str) -> Example:
        return Example(
            prompt=prompt, completion="1", verifier="exact", reference={"answer": "1"}
        )

    others = [
        (split, row(f"{split} {n}"))
        for split in ("train", "validation", "test", "unlabelled")
        for n in range(3)
    ]
    rows: list[Any] = [*others, ("audit", row("asked")), ("train", row("asked"))]
    splits = make_splits(rows, Fractions(), seed=0)
    assert [prompt.text for prompt in splits.audit] == ["asked"]
    assert splits.rejected_counts == {"in_evaluation": 1}
    assert "asked" not in {one.prompt for one in splits.train}


def test_every_round_asks_the_audit_prompts_of_its_level_after_its_own(
    context: Context,
) -> None:
    pool = [
        ask(f"{n}=", str(n), length=str(length))
        for length in (9, 10)
        for n in range(100 * length, 100 * length + 9)
    ]
    audit = [
        ask(f"{n}?", str(n), length=str(length))
        for length in (9, 10)
        for n in range(length, length + 3)
    ]
    files: dict[str, list[Prompt]] = {
        "splits/unlabelled.jsonl": pool,
        "splits/audit.jsonl": audit,
    }
    prepared = store(context, "prepare", files, prepare_summary())
    state = State(
        run_id="crafted-run",
        prepared=prepared.ref,
        plan=PLAN.model_copy(update={"level": 10}),
        round=0,
    )
    recipe = recipe_of(ladder=True, generate={"prompts_per_round": 4, "shards": 1})
    documents = {"recipe.json": recipe, "state.json": state}
    start = store(
        context,
        "start",
        {
            n: canonical_json(one.model_dump(mode="json"))
            for n, one in documents.items()
        },
        {},
    )
    asked = round_prompts(context, load_campaign(context, receipt_uri(context, start)))
    assert [one.text for one in asked[4:]] == ["10?", "11?", "12?"]
    assert {one.tags["length"] for one in asked[:4]} == {"10"}
    assert len(asked) == 7
