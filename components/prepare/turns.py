"""Turns of a conversation, and tools that it may call, in the forms in which files hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from components.canonical import JsonObject
from components.errors import first_line
from components.prepare.known_shapes import CALLERS, SPEAKERS
from components.prepare.row_values import RejectedRow, Row, json_object, text_of

MAX_MESSAGES = 1000


def turns_in_text(text: str) -> object:
    """Return the turns that the cell of a table holds as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RejectedRow(
            "not_json",
            f"the turns are text that is no JSON ({first_line(error)}); write the file as JSON Lines",
        ) from None


def turns_to_last_answer(
    messages: object, *, is_asked: bool = False
) -> list[JsonObject]:
    """Return the turns up to the last one of the assistant; all, if nobody has answered yet.

    Args:
        messages: The turns.
        is_asked: Whether the model is to answer: turns behind its last one are then the question.
    """
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise RejectedRow(
            "wrong_type", f"messages is not a list of 1 to {MAX_MESSAGES} turns"
        )
    turns = [_turn_of(message) for message in messages]
    if is_asked:
        return turns
    for end in range(len(turns), 0, -1):
        if turns[end - 1]["role"] == "assistant":
            # Later turns have no answer that could be learnt.
            return turns[:end]
    return turns


def tools_of(tools: object) -> tuple[JsonObject, ...]:
    """Return the schemas of functions, from a list or from the JSON text of one."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise RejectedRow("not_json", f"tools: {first_line(error)}") from None
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RejectedRow("wrong_type", "tools is not a list of objects")
    return tuple(json_object(_tool_schema(tool)) for tool in tools)


def _turn_of(message: object) -> JsonObject:
    """Return a turn with its content as text. Its other fields stay: templates may read them."""
    if isinstance(message, dict):
        message = _turn_in_usual_words(message)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RejectedRow("wrong_type", "a message is not {role, content}")
    turn: JsonObject = json_object(message)
    if isinstance(turn.get("content"), list):
        turn["content"] = "".join(_text_of_part(part) for part in turn["content"])
    calls = turn.get("tool_calls")
    if isinstance(calls, list) and calls:
        turn["tool_calls"] = [_tool_call(call) for call in calls]
        if not turn.get("content"):
            return {**turn, "content": ""}
    else:
        # An empty list says nothing, and some templates take it for a call.
        turn.pop("tool_calls", None)
    # A tool may return nothing; an empty turn of anybody else is a mistake.
    if turn["role"] == "tool" and turn.get("content") == "":
        return turn
    return {**turn, "content": text_of(turn, "content")}


def _turn_in_usual_words(message: Row) -> Row:
    """Return a turn as {role, content}, from the form of ShareGPT, {from, value}, or a mixture."""
    turn = dict(message)
    if "content" not in turn and "value" in turn:
        turn["content"] = turn.pop("value")
    if "role" not in turn and "from" in turn:
        speaker = str(turn["from"])
        if _word(speaker) not in {*SPEAKERS, *CALLERS}:
            known = ", ".join((*SPEAKERS, *sorted(CALLERS)))
            raise RejectedRow(
                "wrong_type", f"a turn from {speaker[:40]!r}; known are {known}"
            )
        # The form has other fields that no template reads.
        turn = {"role": speaker, "content": turn.get("content")}
    role = turn.get("role")
    if isinstance(role, str) and _word(role) in CALLERS:
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": _calls_in(turn.get("content")),
        }
    if isinstance(role, str):
        # Roles that are not known stay: a template may read them.
        turn["role"] = SPEAKERS.get(_word(role), role)
    # The older form of APIs, of one call.
    call = turn.get("function_call")
    if isinstance(call, Mapping) and not turn.get("tool_calls"):
        del turn["function_call"]
        turn["tool_calls"] = [_tool_schema(call)]
    content = turn.get("content")
    if turn.get("role") == "tool" and isinstance(content, Mapping):
        turn["content"] = json.dumps(json_object(content), ensure_ascii=False)
    return turn


def _word(speaker: str) -> str:
    return speaker.lower().replace("-", "_")


def _calls_in(content: object) -> list[object]:
    """Return the calls of tools that a turn has as JSON, {name, arguments} or a list of them."""
    calls: object = content
    if isinstance(content, str):
        try:
            calls = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RejectedRow(
                "not_json", f"a call of a tool: {first_line(error)}"
            ) from None
    named: list[object] = []
    for call in calls if isinstance(calls, list) else [calls]:
        if not isinstance(call, dict) or not call.get("name"):
            raise RejectedRow("wrong_type", "a call of a tool is not {name, arguments}")
        named.append(_tool_schema(call))
    if not named:
        raise RejectedRow("wrong_type", "a call of a tool is an empty list")
    return named


def _tool_schema(tool: Row) -> Row:
    """Return a tool, or a call of one, as templates read it: {type, function}."""
    is_bare = "name" in tool and "function" not in tool
    return {"type": "function", "function": tool} if is_bare else tool


def _text_of_part(part: object) -> str:
    """Return the text of one part of a content. Pictures and sounds are no text."""
    if not isinstance(part, dict):
        kind = type(part).__name__
    else:
        kind = str(part.get("type", "text"))
        if kind == "text":
            return text_of(part, "text")
    raise RejectedRow("wrong_type", f"a part of a content is {kind[:40]}, not text")


def _tool_call(call: object) -> object:
    """Return a call of a tool with its arguments as an object, where they can be read as one."""
    # Templates expect an object, APIs write its JSON text. Where that cannot be read, the model is
    # shown what was written.
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    arguments_text = function.get("arguments")
    if not isinstance(arguments_text, str):
        return call
    try:
        arguments = json.loads(arguments_text)
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": json_object(arguments)}}
