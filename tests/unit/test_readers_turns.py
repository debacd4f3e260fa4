"""Calls of tools in the forms of public data sets, fields within fields, and arrays in a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.public_files import as_lines, pairs, read, write

CALL = {"name": "add", "arguments": {"a": 1}}
AS_READ = {"type": "function", "function": CALL}
AS_TEXT = {"name": "add", "arguments": json.dumps(CALL["arguments"])}


def shared(*turns: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """A row in the form of ShareGPT."""
    return {
        "conversations": [{"from": who, "value": text} for who, text in turns],
        **fields,
    }


def messages(*turns: dict[str, Any]) -> dict[str, Any]:
    """A row in the form of an API, which begins with a question and ends with an answer."""
    asked = {"role": "user", "content": "1+1?"}
    return {"messages": [asked, *turns, {"role": "assistant", "content": "2"}]}


@pytest.mark.parametrize(
    ("row", "num_calls"),
    [
        (
            shared(
                ("human", "1+1?"),
                ("function_call", json.dumps(CALL)),
                ("observation", "2"),
                ("gpt", "2"),
                tools=json.dumps([CALL]),
            ),
            1,
        ),
        (
            shared(
                ("user", "1+1?"),
                ("tool_call", json.dumps([AS_TEXT, CALL])),
                ("tool-response", "2"),
                ("model", "2"),
                functions=[CALL],
            ),
            2,
        ),
        (
            messages(
                {"role": "assistant", "content": None, "function_call": AS_TEXT},
                {"role": "function", "name": "add", "content": {"sum": 2}},
            ),
            1,
        ),
        (
            messages(
                {"role": "assistant", "content": None, "tool_calls": [AS_READ]},
                {"role": "tool", "content": "2"},
            ),
            1,
        ),
    ],
    ids=["function_call", "tool_call", "old-api", "api"],
)
def test_calls_of_tools_are_turns_in_one_form(
    tmp_path: Path, row: dict[str, Any], num_calls: int
) -> None:
    ((example,), _) = read(write(tmp_path, "a.jsonl", as_lines(row)))
    assert example.conversation is not None
    turns = example.conversation.messages
    assert [turn["role"] for turn in turns] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert turns[1]["tool_calls"] == [AS_READ] * num_calls
    assert turns[2]["content"] in ("2", '{"sum": 2}')
    if "conversations" in row:
        assert example.conversation.tools == (AS_READ,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("add(1)", "not_json"),
        ("[]", "wrong_type"),
        ("{}", "wrong_type"),
        ("3", "wrong_type"),
    ],
)
def test_a_call_that_calls_nothing_is_rejected(
    tmp_path: Path, text: str, reason: str
) -> None:
    row = shared(("human", "1+1?"), ("function_call", text), ("gpt", "2"))
    good = shared(("human", "1+1?"), ("gpt", "2"))
    _, (rejected,) = read(write(tmp_path, "a.jsonl", as_lines(good, row)))
    assert rejected.reason == reason
    assert "a call of a tool" in rejected.detail


def test_a_name_with_dots_leads_into_a_row(tmp_path: Path) -> None:
    row = {
        "doc": {"q": "Q", "answers": {"text": ["A", "B"]}},
        "meta": {"level": 3},
        "a.b": "C",
    }
    path = write(tmp_path, "a.jsonl", as_lines(row))
    names = {"prompt_field": "doc.q", "completion_field": "doc.answers.text.0"}
    ((example,), _) = read(path, reference_fields=["meta.level", "a.b"], **names)
    assert (example.prompt, example.completion) == ("Q", "A")
    assert example.reference == {"meta.level": 3, "a.b": "C", "answer": "A"}
    assert pairs(path, prompt_field="a.b", completion_field="doc.answers.text.1") == [
        ("C", "B")
    ]
    table = write(tmp_path, "a.csv", "a.b,c\nQ,A\n")
    assert pairs(table, prompt_field="a.b", completion_field="c") == [("Q", "A")]


@pytest.mark.parametrize(
    "content",
    [
        "[{0}, {1}]\n[{2}]",
        "[{0}]{1}\n{2}",
        "[{0},]\n[]\n\n[{1},{2}]\n",
        " [{0},{1}] {2} ",
    ],
)
def test_no_array_or_object_behind_an_array_is_lost(
    tmp_path: Path, content: str
) -> None:
    for index in range(3):
        row = json.dumps({"prompt": f"Q{index}", "completion": "A"})
        content = content.replace(f"{{{index}}}", row)
    read_pairs = pairs(write(tmp_path, "a.json", content))
    assert read_pairs == [(f"Q{index}", "A") for index in range(3)]
