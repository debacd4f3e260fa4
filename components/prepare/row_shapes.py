"""The shapes that a row of somebody's file may have, and the Example that each one becomes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from components.canonical import JsonObject
from components.contracts.recipe import DataSource
from components.contracts.rows import MAX_LINE_BYTES, Check, Conversation, spoken
from components.errors import first_line
from components.prepare.examples import Example
from components.prepare.known_shapes import (
    CLASS_FIELDS,
    MEANINGFUL,
    SPEAKERS,
    SYSTEM,
    TURNS,
    Pair,
    names_of,
    pair_of,
)

MAX_LABEL_CHARACTERS = 64
"""Longer labels are answers, not classes, and do not become slices."""
MAX_MESSAGES = 1000

Row = Mapping[Any, object]
"""A row before any of its fields is checked."""


class RejectedRow(ValueError):
    """A row cannot be used. The message is the detail, `reason` a short fixed word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class _Content:
    """The parts of an Example that depend on the shape of its row."""

    prompt: str
    completion: str | None
    conversation: Conversation | None = None
    label: str | None = None


def example_of(row: object, source: DataSource, location: str) -> Example:
    """Return the example that a row holds.

    Args:
        row: a parsed JSON value, or a row of a Parquet file.
        source: names the fields, the verifier and the split.
        location: where the row is in its file, for its provenance.

    Raises:
        RejectedRow: the row has no known shape, or a field that cannot be used.
    """
    if not isinstance(row, dict):
        remedy = "; if the file is one array, set `format: json`" if isinstance(row, list) else ""
        raise RejectedRow("not_an_object", f"a {type(row).__name__}, not an object{remedy}")
    content = _content_of(row, source)
    if content.completion is None and source.split != "unlabelled":
        raise RejectedRow(
            "no_completion",
            f"no {source.completion_field!r} ({_fields_found(row)}); only split unlabelled takes "
            "prompts without answers",
        )
    return Example(
        prompt=content.prompt,
        completion=content.completion,
        conversation=content.conversation,
        verifier=source.verifier,
        reference=_reference(row, source, content.completion),
        check=check_of(source),
        tags={} if content.label is None else {"label": content.label},
        provenance={"uri": source.uri, "place": location},
    )


def check_of(source: DataSource, code: str = "") -> Check:
    """Return the settings of a source's verifier.

    Args:
        source: has them.
        code: digest of the bundle with the user's own verifiers.
    """
    return Check(
        threshold=source.threshold,
        seconds=source.check_seconds,
        memory_mb=source.check_memory_mb,
        tolerance=source.tolerance,
        relative_tolerance=source.relative_tolerance,
        code=code,
    )


def _reference(row: Row, source: DataSource, completion: str | None) -> JsonObject:
    """Return what the verifier knows: the completion as `answer`, and other fields of the row."""
    missing = [name for name in source.reference_fields if row.get(name) is None]
    if missing:
        raise RejectedRow("no_reference", f"no {missing[0]!r}, of data.sources reference_fields")
    fields = {name: row[name] for name in source.reference_fields}
    if source.verifier == "code":
        if row.get(source.tests_field) is None:
            raise RejectedRow("no_tests", f"no {source.tests_field!r}; data.sources tests_field")
        fields["tests"] = row[source.tests_field]
        fields["entry_point"] = row.get("entry_point")
    if source.verifier == "json_schema":
        schema = source.json_schema or row.get(source.schema_field)
        if schema is None:
            raise RejectedRow("no_schema", f"no {source.schema_field!r}; data.sources schema_field")
        fields["schema"] = schema
    if source.verifier == "sql":
        if row.get(source.tables_field) is None:
            raise RejectedRow("no_tables", f"no {source.tables_field!r}; data.sources tables_field")
        fields["tables"] = row[source.tables_field]
    reference = _json_object(fields)
    return reference if completion is None else {**reference, "answer": completion}


def shapes_of(source: DataSource) -> str:
    """Return the shapes of rows that are understood, for messages."""
    pair = f"{{{source.prompt_field}, {source.completion_field}}}"
    return (
        f"{pair}, {{question, answer}}, {{instruction, input, output}}, {{messages}}, "
        "{conversations}, {text} or {text, label}; other names: set prompt_field and "
        "completion_field"
    )


def parse_json(line: bytes) -> object:
    """Return a JSON value, or raise RejectedRow. NaN and Infinity are no JSON."""
    try:
        value: object = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RejectedRow("invalid_utf8", f"byte {error.start} is not UTF-8") from None
    except RejectedRow:
        raise
    except (ValueError, RecursionError) as error:
        # RecursionError: a line of thousands of open brackets.
        raise RejectedRow("not_json", first_line(error)) from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RejectedRow("not_a_number", f"{name} is not JSON")


def _content_of(row: Row, source: DataSource) -> _Content:
    names = names_of(row)
    _refuse_what_would_be_lost(row, names, source)
    pair = pair_of(names, source)
    turns = next((names[name] for name in TURNS if name in names), "")
    # A conversation is more than a question that stands beside it.
    if turns and (pair is None or not pair.completion or row.get(pair.completion) is None):
        return _content_of_messages(
            row[turns], _value_of(row, names, "tools"), _system_of(row, names)
        )
    if pair is not None:
        return _content_of_pair(row, pair, names)
    if "text" in names and _value_of(row, names, "label") is not None:
        label = _text(row, names["label"])
        return _Content(_text(row, names["text"]), label, label=_class_of(label))
    if "text" in names and source.split == "unlabelled":
        # Raw text asks nothing: here it is a text without its label.
        return _Content(_text(row, names["text"]), None)
    if "text" in names:
        return _Content("", _text(row, names["text"]))
    raise RejectedRow("unknown_shape", f"{_fields_found(row)}; expected {shapes_of(source)}")


def _system_of(row: Row, names: dict[str, str]) -> object:
    """Return what a row has beside its turns as the system's text; None without."""
    return next((row[names[name]] for name in SYSTEM if name in names and row[names[name]]), None)


def _value_of(row: Row, names: dict[str, str], name: str) -> object:
    """Return the value of a field by its name in lower case; None without the field."""
    return row[names[name]] if name in names else None


def _fields_found(row: Row) -> str:
    # Cut, because a damaged file may have names of any length.
    names = sorted(str(name)[:40] for name in row)
    listed = ", ".join(names[:10]) or "none"
    for name, value in row.items():
        # An export often wraps its rows in an object. Turns are no rows.
        is_rows = isinstance(value, list) and value and all(_is_row(item) for item in value)
        if is_rows and str(name).isidentifier():
            return (
                f"fields found: {listed}; {name!r} holds rows: jq -c '.{name}[]' FILE > FILE.jsonl"
            )
    return f"fields found: {listed}"


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and not value.keys() & {"role", "from"}


def _refuse_what_would_be_lost(row: Row, names: dict[str, str], source: DataSource) -> None:
    """Raise RejectedRow for fields without which the row would say something else."""
    is_preference = {"chosen", "rejected"} <= names.keys()
    if is_preference and source.completion_field != names["chosen"]:
        raise RejectedRow(
            "preference_pair",
            "a preference pair; set `completion_field: chosen` to train on the preferred answers "
            "(the rejected ones are not used)",
        )
    for name, remedy in MEANINGFUL.items():
        # A field that the recipe names is no surprise, and an empty one loses nothing.
        if name in names and row[names[name]] and name != source.completion_field:
            raise RejectedRow("unknown_shape", f"it has {name!r}; {remedy}")
    # Rows of KTO: the answer is one that should not be given.
    if _value_of(row, names, "label") is False:
        raise RejectedRow("unwanted_answer", "its label is false: the answer is not wanted")


def _content_of_pair(row: Row, pair: Pair, names: dict[str, str]) -> _Content:
    prompt = row[pair.prompt]
    answer = row.get(pair.completion) if pair.completion else None
    system = _system_of(row, names)
    tools = _value_of(row, names, "tools")
    if isinstance(answer, list) and _asks(answer):
        # Preference pairs often repeat the whole conversation in `chosen`.
        return _content_of_messages(answer, tools, system)
    if isinstance(prompt, list) or isinstance(answer, list) or system is not None:
        turns = _as_turns(prompt, "user") + _as_turns(answer, "assistant")
        if system is None and pair.prompt not in TURNS and not _are_turns(turns):
            name = pair.prompt if isinstance(prompt, list) else pair.completion
            raise RejectedRow("wrong_type", f"{name!r} is a list, not text or turns")
        return _content_of_messages(turns, tools, system)
    completion = None if answer is None else _text(row, pair.completion)
    text = _text(row, pair.prompt)
    if pair.context and str(row.get(pair.context) or "").strip():
        text = f"{text}\n\n{_text(row, pair.context)}"
    names_class = pair.completion.lower() in CLASS_FIELDS
    return _Content(text, completion, label=_class_of(completion) if names_class else None)


def _class_of(label: str | None) -> str | None:
    """Return the label if it is as short as the name of a class."""
    return label if label is not None and len(label) <= MAX_LABEL_CHARACTERS else None


def _asks(turns: list[object]) -> bool:
    return any(isinstance(turn, dict) and turn.get("role") == "user" for turn in turns)


def _are_turns(values: list[object]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _as_turns(value: object, role: str) -> list[object]:
    """Return turns from a list of them, or from the text of one."""
    if isinstance(value, list):
        return value
    return [] if value is None else [{"role": role, "content": value}]


def _content_of_messages(messages: object, tools: object, system: object = None) -> _Content:
    """Return the turns before the last one of the assistant as the prompt, that one as completion.

    The turns themselves are kept where they are more than a question and an answer.
    """
    if isinstance(messages, str):
        messages = _turns_in_text(messages)
    if system and isinstance(messages, list):
        messages = [{"role": "system", "content": system}, *messages]
    turns = _turns_to_last_answer(messages)
    has_answer = turns[-1]["role"] == "assistant"
    asked = turns[:-1] if has_answer else turns
    if not any(turn["role"] == "user" for turn in asked):
        raise RejectedRow("empty", "no user turn before the answer")
    prompt = Conversation(messages=tuple(asked)).as_text()
    completion = spoken(turns[-1]) if has_answer else None
    schemas = _tools_of(tools)
    is_plain = all(turn.keys() <= {"role", "content"} for turn in turns)
    if len(asked) == 1 and is_plain and not schemas:
        return _Content(prompt, completion)
    return _Content(prompt, completion, Conversation(messages=tuple(turns), tools=schemas))


def _turns_in_text(text: str) -> object:
    """Return the turns that the cell of a table holds as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RejectedRow(
            "not_json",
            f"the turns are text that is no JSON ({first_line(error)}); write the file as JSON Lines",
        ) from None


def _turns_to_last_answer(messages: object) -> list[JsonObject]:
    """Return the turns up to the last one of the assistant; all, if nobody has answered yet."""
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise RejectedRow("wrong_type", f"messages is not a list of 1 to {MAX_MESSAGES} turns")
    turns = [_turn_of(message) for message in messages]
    for end in range(len(turns), 0, -1):
        if turns[end - 1]["role"] == "assistant":
            # Later turns have no answer that could be learnt.
            return turns[:end]
    return turns


def _turn_of(message: object) -> JsonObject:
    """Return a turn with its content as text. Its other fields stay: templates may read them."""
    if isinstance(message, dict):
        message = _turn_in_usual_words(message)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RejectedRow("wrong_type", "a message is not {role, content}")
    turn: JsonObject = _json_object(message)
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
    return {**turn, "content": _text(turn, "content")}


def _turn_in_usual_words(message: Row) -> Row:
    """Return a turn as {role, content}, from the form of ShareGPT, {from, value}, or a mixture."""
    turn = dict(message)
    if "content" not in turn and "value" in turn:
        turn["content"] = turn.pop("value")
    if "role" not in turn and "from" in turn:
        speaker = str(turn["from"])
        if speaker.lower() not in SPEAKERS:
            known = ", ".join(SPEAKERS)
            raise RejectedRow("wrong_type", f"a turn from {speaker[:40]!r}; known are {known}")
        # The form has other fields that no template reads.
        turn = {"role": speaker, "content": turn.get("content")}
    role = turn.get("role")
    if isinstance(role, str):
        # Roles that are not known stay: a template may read them.
        turn["role"] = SPEAKERS.get(role.lower(), role)
    return turn


def _text_of_part(part: object) -> str:
    """Return the text of one part of a content. Pictures and sounds are no text."""
    if not isinstance(part, dict):
        kind = type(part).__name__
    else:
        kind = str(part.get("type", "text"))
        if kind == "text":
            return _text(part, "text")
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
    return {**call, "function": {**function, "arguments": _json_object(arguments)}}


def _tools_of(tools: object) -> tuple[JsonObject, ...]:
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
    return tuple(_json_object(tool) for tool in tools)


def _json_object(value: Row) -> JsonObject:
    """Return an object without None, as JSON would give it back. Raise RejectedRow if it cannot."""
    try:
        text = json.dumps(_without_none(value), allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RejectedRow("invalid_utf8", "half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RejectedRow("wrong_type", first_line(error)) from None
    # An escaped backslash before u0000 is six characters of text, no NUL.
    if "\\u0000" in text.replace("\\\\", ""):
        raise RejectedRow("nul_character", "a NUL character")
    if size > MAX_LINE_BYTES:
        raise RejectedRow("too_long", f"longer than {MAX_LINE_BYTES} bytes")
    result: JsonObject = json.loads(text)
    return result


def _without_none(value: object) -> object:
    # Parquet gives every object of a column the fields of all: a message of a user has
    # `tool_calls: None` where another one in the file calls a tool.
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _text(row: Row, name: str) -> str:
    """Return a field as clean text. Answers and labels are often written as numbers."""
    value = row.get(name)
    if isinstance(value, float) and not math.isfinite(value):
        raise RejectedRow("not_a_number", f"{name!r} is {value}")
    # Empty cells of tables and null of JSON.
    if value is None:
        raise RejectedRow("empty", f"{name!r} is empty")
    # A bool is an int to Python, and no answer.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RejectedRow("wrong_type", f"{name!r} is {type(value).__name__}, not text")
    try:
        text = str(value)
    except ValueError:
        # Python refuses to write an int of more than 4,300 digits.
        raise RejectedRow("wrong_type", f"{name!r} is a number of thousands of digits") from None
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise RejectedRow("invalid_utf8", f"{name!r} holds half of a surrogate pair") from None
    if not text.strip():
        raise RejectedRow("empty", f"{name!r} is empty")
    if "\0" in text:
        raise RejectedRow("nul_character", f"{name!r} holds a NUL character")
    if num_bytes > MAX_LINE_BYTES:
        raise RejectedRow("too_long", f"{name!r} is longer than {MAX_LINE_BYTES} bytes")
    return text
