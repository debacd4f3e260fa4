"""Conversations keep their turns, calls of tools and schemas; a turn that is no text is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.unit.reading import GOOD, as_lines, read, write


def test_the_last_assistant_turn_of_a_chat_is_the_completion(tmp_path: Path) -> None:
    one = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    longer = [
        {"role": "system", "content": "Be brief"},
        *one,
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Goodbye"},
    ]
    examples, _ = read(
        write(tmp_path, as_lines({"messages": one}, {"messages": longer}))
    )
    assert (examples[0].prompt, examples[0].completion) == ("Hi", "Hello")
    assert (
        examples[1].prompt
        == "System: Be brief\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Bye"
    )
    assert examples[1].completion == "Goodbye"


SYSTEM = {"role": "system", "content": "Be brief"}
HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ADD = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]


def test_a_conversation_keeps_its_turns_and_a_question_with_an_answer_is_none(
    tmp_path: Path,
) -> None:
    rows = as_lines({"messages": ADD}, {"messages": [SYSTEM, *HI, *ADD]})
    (plain, talk), _ = read(write(tmp_path, rows))
    assert (plain.prompt, plain.completion, plain.conversation) == ("2+2", "4", None)
    assert talk.conversation is not None
    assert list(talk.conversation.messages) == [SYSTEM, *HI, *ADD]
    assert (talk.prompt, talk.completion) == (
        "System: Be brief\n\nUser: hi\n\nAssistant: hello\n\nUser: 2+2",
        "4",
    )
    asked = talk.as_prompt().conversation
    assert asked is not None
    assert list(asked.messages) == [SYSTEM, *HI, ADD[0]]
    assert talk.as_training_row().asked == asked


def test_turns_behind_the_last_answer_are_left_out_and_open_questions_are_asked(
    tmp_path: Path,
) -> None:
    rows = as_lines({"messages": [*HI, ADD[0]]}, {"messages": [SYSTEM, ADD[0]]})
    path = write(tmp_path, rows)
    [taught], _ = read(path)
    assert (taught.prompt, taught.completion, taught.conversation) == (
        "hi",
        "hello",
        None,
    )
    (first, second), _ = read(path, split="unlabelled")
    assert (first.prompt, first.completion) == (
        "User: hi\n\nAssistant: hello\n\nUser: 2+2",
        None,
    )
    assert second.completion is None
    prompt = second.as_prompt()
    assert prompt.conversation is not None
    assert list(prompt.conversation.messages) == [SYSTEM, ADD[0]]


def test_calls_of_tools_parts_of_content_and_schemas_are_read(tmp_path: Path) -> None:
    written = {"function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}, "id": None}
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [written]},
        {"role": "tool", "content": "", "name": "add"},
        {
            "role": "assistant",
            "content": "4",
            "tool_calls": [],
            "note": "\\u0000 as text",
        },
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = as_lines(
        {"messages": messages, "tools": json.dumps(tools)}, {"messages": messages[:2]}
    )
    (whole, call), rejected = read(write(tmp_path, rows))
    assert not rejected
    assert whole.conversation is not None
    called = {"function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    assert list(whole.conversation.messages) == [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "", "name": "add"},
        {"role": "assistant", "content": "4", "note": "\\u0000 as text"},
    ]
    assert list(whole.conversation.tools) == tools
    assert call.completion == '[{"function":{"arguments":{"a":2,"b":2},"name":"add"}}]'
    path = tmp_path / "tools.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"messages": messages[:2], "tools": tools}]), path
    )
    (stored,), _ = read(path)
    assert stored.conversation is not None
    assert stored.conversation.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [called],
    }


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": [{"type": "image", "url": "x"}]}, "wrong_type"),
        ({"content": ["text"]}, "wrong_type"),
        ({"content": ""}, "empty"),
        ({"content": "x", "note": float("nan")}, "not_a_number"),
        ({"content": "x", "note": "a\0b"}, "nul_character"),
        ({"content": "x", "note": "\ud800"}, "invalid_utf8"),
    ],
)
def test_a_turn_that_is_no_text_is_rejected(
    tmp_path: Path, message: dict[str, Any], reason: str
) -> None:
    messages = [SYSTEM, {"role": "user", **message}, ADD[1]]
    _, rejected = read(write(tmp_path, GOOD + as_lines({"messages": messages})))
    assert [row.reason for row in rejected] == [reason]


def test_a_schema_of_tools_that_is_none_is_rejected(tmp_path: Path) -> None:
    rows = as_lines(
        {"messages": ADD, "tools": "nonsense"},
        {"messages": ADD, "tools": [1]},
        {"messages": ADD, "tools": []},
    )
    examples, rejected = read(write(tmp_path, rows))
    assert [row.reason for row in rejected] == ["not_json", "wrong_type"]
    assert [example.conversation for example in examples] == [None]
