"""A procedural task of the user's: a class with make and verify, on a ladder."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from components.cli.checker_code import send_checker_code
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Prompt, TrainingRow, read_rows
from components.errors import UserError
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch, receipt_uri
from components.verifiers import BUILTIN_TASKS, verify
from tests.unit.preparing import RECIPE, prepare

pytestmark = pytest.mark.process

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkers.md"
TASK = RECIPE["data"]["tasks"][0]


def task_of_the_page() -> str:
    (code,) = [
        block for block in PAGE.read_text().split("```python\n") if "def make(" in block
    ]
    return code.partition("```")[0]


def prepared(
    context: Context, folder: Path, source: str, name: str = "my_task.py:Sorting"
) -> Campaign:
    (folder / "my_task.py").write_text(source)
    document = {**RECIPE, "data": {"tasks": [{**TASK, "task": name}]}}
    recipe = send_checker_code(
        parse_recipe(document), folder / "r.yaml", context.store.root, {}
    )
    start = prepare(context, recipe.model_dump(mode="json"))
    return load_campaign(context, receipt_uri(context, start))


def test_the_example_of_the_page_climbs_a_ladder(
    context: Context, tmp_path: Path
) -> None:
    campaign = prepared(context, tmp_path, task_of_the_page())

    def rows_of(split: str, kind: Any) -> list[Any]:
        return list(
            read_rows(fetch(context, campaign.prepared, f"splits/{split}.jsonl"), kind)
        )

    train = rows_of("train", TrainingRow)
    assert set(Counter(row.tags["length"] for row in train)) == {"1", "2", "3", "4"}
    unlabelled = rows_of("unlabelled", Prompt)
    assert Counter(row.tags["length"] for row in unlabelled) == {"5": 10, "6": 10}
    prompts = [*unlabelled, *rows_of("validation", Prompt), *rows_of("test", Prompt)]
    assert len({prompt.id for prompt in prompts} & {row.id[:16] for row in train}) == 0
    for prompt in prompts[:5]:
        numbers = prompt.text.removeprefix("Sort: ").split()
        assert verify(prompt, " ".join(sorted(numbers, key=int)))
        assert not verify(prompt, "no")
    again = prepared(context, tmp_path, task_of_the_page())
    assert again.prepared.ref == campaign.prepared.ref


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Sorting: pass", "no class with a method make"),
        ("def Sorting(a, b, c): return True", "no class with a method make"),
        (
            "class Sorting:\n    def make(self, difficulty, rng):\n        return 1 / 0",
            "data.tasks my_task.py:Sorting: my_task.py line 3: ZeroDivisionError: division by zero; "
            "asked for difficulty 1",
        ),
        (
            "class Sorting:\n    def make(self, difficulty, rng):\n        return ('q', 'a')",
            "the class has no method verify",
        ),
        (
            "class Sorting:\n    def make(self, difficulty, rng):\n        return ('q', 1)",
            r"make returns \(text, answer\)",
        ),
        (
            "class Sorting:\n    def make(self, difficulty, rng):\n"
            "        return str(rng.random()), 'a'\n"
            "    def verify(self, prompt, answer, reference):\n        return False",
            "verify accepts none of the answers that make gives at difficulty 1",
        ),
    ],
)
def test_a_task_that_does_not_work_is_named_with_its_line(
    context: Context, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(context, tmp_path, source)


def test_a_task_of_ones_own_needs_a_ladder() -> None:
    with pytest.raises(UserError, match="needs a `ladder`"):
        parse_recipe({**RECIPE, "data": {"tasks": [{"task": "my_task.py:Sorting"}]}})


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_the_built_in_tasks_have_the_same_interface(name: str) -> None:
    task = BUILTIN_TASKS[name]
    text, answer = task.make(5, random.Random(0))
    assert task.verify(text, answer, {})
    assert not task.verify(text, f"{answer}0", {})
