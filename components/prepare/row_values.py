"""Values of a row's fields, as clean text or as JSON, and what makes a row unusable."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from components.canonical import JsonObject
from components.contracts.rows import MAX_LINE_BYTES
from components.errors import first_line

Row = Mapping[Any, object]
"""A row before any of its fields is checked."""


class RejectedRow(ValueError):
    """A row cannot be used. The message is the detail, `reason` a short fixed word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def with_nested(row: Row, names: Iterable[str]) -> Row:
    """Return a row with the values that dotted names lead to, `doc.answers.0`, beside its fields.

    A field that has the name with its dots comes first. A path that leads nowhere adds nothing.
    """
    nested: dict[Any, object] = {}
    for name in names:
        if "." not in name or name in row:
            continue
        value: object = row
        for key in name.split("."):
            if (
                isinstance(value, list | tuple)
                and key.isdecimal()
                and int(key) < len(value)
            ):
                value = value[int(key)]
            else:
                value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            nested[name] = value
    return {**row, **nested} if nested else row


def parse_json(line: bytes) -> object:
    """Return a JSON value, or raise RejectedRow. NaN and Infinity are no JSON."""
    try:
        value: object = json.loads(
            line.decode("utf-8"), parse_constant=_refuse_constant
        )
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


def text_of(row: Row, name: str) -> str:
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
        raise RejectedRow(
            "wrong_type", f"{name!r} is a number of thousands of digits"
        ) from None
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise RejectedRow(
            "invalid_utf8", f"{name!r} holds half of a surrogate pair"
        ) from None
    if not text.strip():
        raise RejectedRow("empty", f"{name!r} is empty")
    if "\0" in text:
        raise RejectedRow("nul_character", f"{name!r} holds a NUL character")
    if num_bytes > MAX_LINE_BYTES:
        raise RejectedRow("too_long", f"{name!r} is longer than {MAX_LINE_BYTES} bytes")
    return text


def json_object(value: Row) -> JsonObject:
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
        return {
            name: _without_none(item)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
