"""Verifier `code`: programs in answers against the tests of a row."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from components.contracts.rows import Check, Dropped, Prompt, prompt_id, read_rows
from components.contracts.summaries import PrepareSummary
from components.errors import UserError
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_summary, receipt_uri
from components.verifiers import (
    ONE_BY_ONE,
    Room,
    verdict_of,
    verdicts_of,
    verify,
    vote_keys,
)
from tests.unit.preparing import RECIPE, prepare

pytestmark = pytest.mark.process

ADD = "def add(a, b):\n    return a + b\n"
STACK = (
    "class Stack:\n    def __init__(self):\n        self.items = []\n"
    "    def push(self, item):\n        self.items.append(item)\n"
    "    def pop(self):\n        return self.items.pop()\n"
    "    def __len__(self):\n        return len(self.items)\n"
)


def row(tests: object, text: str = "?", **reference: Any) -> Prompt:
    """A prompt with these tests."""
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier="code",
        check=Check(seconds=20, memory_mb=512),
        reference={"tests": tests, **reference},
    )


@pytest.mark.parametrize(
    ("answer", "tests", "more"),
    [
        (ADD, "assert add(1, 2) == 3\nassert add('a', b='b') == 'ab'", {}),
        (f"Like this:\n```python\n{ADD}```\nIt adds.", "assert add(1, 2) == 3", {}),
        (
            f"<think>```python\nx\n```</think>```py\n{ADD}```",
            "assert add(1, 2) == 3",
            {},
        ),
        (ADD, ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]"], {}),
        (
            ADD,
            "def check(candidate):\n    assert candidate(1, 2) == 3",
            {"entry_point": "add"},
        ),
        (
            "    return a + b\n",
            "def check(f):\n    assert f(1, 2) == 3",
            {"entry_point": "add"},
        ),
        (
            ADD,
            "from solution import add\ndef test_it():\n    assert add(1, 2) == 3",
            {},
        ),
        (ADD, "assert math.isclose(add(0.1, 0.2), 0.3)", {}),
        (ADD, '{"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}', {}),
        (STACK, "s = Stack()\ns.push(3)\nassert len(s) == 1\nassert s.pop() == 3", {}),
        (
            "class Solution:\n    def twoSum(self, xs):\n        return {xs[0]: (1, 2.5, None)}",
            "assert Solution().twoSum([7]) == {7: (1, 2.5, None)}",
            {},
        ),
        (
            "def f(xs):\n    xs.sort()",
            "xs = [3, 1]\nassert f(xs) is None\nassert xs == [1, 3]",
            {},
        ),
        ("def f():\n    yield from 'ab'", "assert list(f()) == ['a', 'b']", {}),
        (
            "def f():\n    return 2**100, {1, 2}, b'x', 1j, range(3)",
            "assert f() == (2**100, {2, 1}, b'x', 1j, range(3))",
            {},
        ),
        ("LIMIT = 5\ndef f(x): return x", "assert f(LIMIT) == 5", {}),
        (
            "def f(x):\n    raise ValueError('no')",
            "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n"
            "        with self.assertRaisesRegex(ValueError, 'no'):\n            f(1)",
            {},
        ),
        (
            "import collections, datetime, re, dataclasses\n"
            "@dataclasses.dataclass\nclass P:\n    x: int\n"
            "def f(s):\n    d = datetime.datetime.strptime(s, '%Y')\n"
            "    return collections.Counter(re.findall('1', str(d.year)))['1'] + P(1).x",
            "assert f('2011') == 3",
            {},
        ),
        (
            "print(sum(map(int, input().split())))",
            [{"input": "1 2", "output": "3\n"}],
            {},
        ),
        (
            "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], end=' \\n')",
            '{"inputs": ["ab\\ncd\\n", "é"], "outputs": ["ba\\ndc", "é"]}',
            {},
        ),
    ],
)
def test_a_program_that_solves_it_is_right(
    answer: str, tests: object, more: dict[str, Any]
) -> None:
    prompt = row(tests, "def add(a, b):\n", **more)
    assert verdict_of(prompt, answer).reason == ""
    assert verify(prompt, answer)


@pytest.mark.parametrize(
    ("answer", "tests", "reason"),
    [
        (
            "def add(a, b):\n    return a - b",
            "assert add(1, 2) == 3, 'sum'",
            "AssertionError: sum",
        ),
        ("I do not know.", "assert add(1, 2) == 3", "SyntaxError: "),
        ("", "assert add(1, 2) == 3", "the answer holds no code"),
        ("x = 1", "assert add(1, 2) == 3", "NameError: name 'add' is not defined"),
        ("1 / 0", "assert add(1, 2) == 3", "ZeroDivisionError: division by zero"),
        (ADD, "def helper(): return 1", "the tests never call the answer"),
        (ADD, "x = add", "the tests never call the answer"),
        (
            ADD,
            "assert add(1, lambda: 1)",
            "AnswerError: a function cannot be handed to the answer",
        ),
        (
            "def add(a, b):\n    return '\\x1b[31m'",
            "raise ValueError(add(1, 2))",
            "ValueError: ?[31m",
        ),
        (ADD, "", "the row has no tests"),
        (
            "print(1)",
            [{"input": "", "output": "2"}],
            "test 1: it printed something else",
        ),
        (
            "print(1)\n1 / 0",
            [{"input": "", "output": "1"}],
            "test 1: the program ended with status 1",
        ),
        (
            "print(input())",
            [{"input": "", "output": ""}],
            "test 1: the program ended with status 1",
        ),
        (
            ADD,
            "import unittest\nclass T(unittest.TestCase):\n"
            "    def test_a(self):\n        self.assertEqual(add(1, 2), 4)",
            "AssertionError: 3 != 4",
        ),
        (
            ADD,
            "import unittest\nadd(1, 2)\nclass T(unittest.TestCase):\n"
            "    @unittest.skip('x')\n    def test_a(self):\n        pass",
            "a test was skipped, or did not end as expected",
        ),
    ],
)
def test_a_program_that_does_not_is_wrong_with_the_reason(
    answer: str, tests: object, reason: str
) -> None:
    prompt = row(tests)
    assert verdict_of(prompt, answer).reason.startswith(reason)
    assert not verify(prompt, answer)


def test_programs_run_side_by_side_as_far_as_there_is_room() -> None:
    """Each program tells when it began and ended, by the clock that all processes share."""
    program = (
        "import time\ndef times():\n    began = time.monotonic()\n    time.sleep(SECONDS)\n"
        "    return began, time.monotonic()\n"
    )
    prompt = row("raise ValueError(times())")
    other = Prompt(id="0", text="?", verifier="exact", reference={"answer": "4"})

    def most_at_once(seconds: str, room: Room) -> int:
        answer = program.replace("SECONDS", seconds)
        asked = [
            (prompt, answer),
            (other, "4"),
            (prompt, answer),
            (other, "5"),
            (prompt, answer),
        ]
        verdicts = verdicts_of(asked, room)
        assert [verdicts[index].score for index in (1, 3)] == [1, 0]
        told = [
            verdicts[index].reason.removeprefix("ValueError: ") for index in (0, 2, 4)
        ]
        spans: list[tuple[float, float]] = [ast.literal_eval(text) for text in told]
        return max(
            sum(begin <= other[0] <= end for begin, end in spans) for other in spans
        )

    assert most_at_once("2", Room(cores=3, memory_bytes=2**40)) > 1
    assert most_at_once("0.01", ONE_BY_ONE) == 1
    # Two processes of 512 MB each.
    assert Room(cores=8, memory_bytes=5 * 2**30).num_checks(2, 512) == 5
    assert Room(cores=2, memory_bytes=5 * 2**30).num_checks(2, 512) == 2
    assert Room(cores=8, memory_bytes=2**20).num_checks(2, 512) == 1


def test_equal_programs_vote_together() -> None:
    prompt = row("assert add(1, 2) == 3")
    keys = vote_keys(prompt, [ADD, f"So:\n```python\n{ADD}```", "no code"])
    assert keys[0] == keys[1] != keys[2]


def test_prepare_keeps_rows_whose_own_solution_passes(
    context: Context, tmp_path: Path
) -> None:
    lines: list[dict[str, str]] = []
    for number in range(8):
        tests = f"assert add({number}, 1) == {number + 1}"
        lines.append({"prompt": f"Add {number}.", "completion": ADD, "test": tests})
    lines[3]["completion"] = "def add(a, b): return -1"
    del lines[5]["test"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = {
        "uri": str(tmp_path / "rows.jsonl"),
        "verifier": "code",
        "split": "validation",
    }

    def prepared(**settings: Any) -> Campaign:
        data = {**RECIPE["data"], "sources": [{**source, **settings}]}
        start = prepare(context, {**RECIPE, "data": data})
        return load_campaign(context, receipt_uri(context, start))

    with pytest.raises(UserError, match="no_tests, first at line 1: no 'tests'"):
        prepared()
    campaign = prepared(tests_field="test", check_seconds=20)
    rejected = read_summary(campaign.prepared, PrepareSummary).rejected
    assert rejected == {"no_tests": 1, "unverifiable": 1}
    rows = list(read_rows(fetch(context, campaign.prepared, "rejected.jsonl"), Dropped))
    details = {row.reason: row.detail for row in rows}
    assert details["unverifiable"].endswith(
        "refuses the reference answer (AssertionError:)"
    )
    prompts = read_rows(
        fetch(context, campaign.prepared, "splits/validation.jsonl"), Prompt
    )
    (prompt,) = [prompt for prompt in prompts if prompt.text == "Add 4."]
    assert verify(prompt, "def add(x, y): return y + x")
    assert not verify(prompt, "def add(x, y): return 0")
