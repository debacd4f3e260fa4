"""Bounded, tolerant readers for the files that people bring: JSON Lines, Parquet, plain text.

A bad row is handed out as Dropped with its reason and place, never raised: what comes in is kept or
rejected, and counted. Only a file that cannot be used at all is an error.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from components.contracts.recipe import DataSource
from components.contracts.rows import MAX_LINE_BYTES, Conversation, Dropped, spoken
from components.errors import UserError
from components.prepare.examples import Example

MAX_KEPT_CHARACTERS = 500
"""How much of a rejected row is kept beside the accepted ones."""
MAX_LABEL_CHARACTERS = 64
"""Longer labels are answers, not classes, and do not become slices."""
MAX_MESSAGES = 1000


class _Rejected(ValueError):
    """Inside this module: why a row cannot be used."""

    def __init__(self, reason: str, detail: str, content: bytes = b"") -> None:
        super().__init__(detail)
        self.reason = reason
        self.content = content


def read_source(path: Path, source: DataSource) -> Iterator[Example | Dropped]:
    """Read a file row by row: each row is either an Example or a Dropped with the reason.

    Shapes of a row: {prompt, completion} under the source's field names; {messages: [{role,
    content}, …]}; {text}, raw text; {text, label}. A prompt without an answer is usable in split
    `unlabelled` alone. Stops after `source.limit` usable rows. Raises UserError if the file is
    missing, of unknown format, or holds nothing usable.
    """
    usable, reasons, examples = 0, Counter[str](), dict[str, str]()
    for item in _rows(path, source):
        yield item
        if isinstance(item, Dropped):
            reasons[item.reason] += 1
            examples.setdefault(item.reason, item.detail.removeprefix(f"{source.uri}, "))
            continue
        usable += 1
        if usable == source.limit:
            return
    if not usable:
        why = "it is empty"
        for reason, _ in reasons.most_common(1):
            why = f"all {reasons.total()} rows were rejected, most often: {reason}, first at {examples[reason]}"
        raise UserError(
            f"{source.uri}: no usable row ({why}); rows are one JSON object a line, {_shapes(source)}"
        )


def _rows(path: Path, source: DataSource) -> Iterator[Example | Dropped]:
    match _format(path, source):
        case "jsonl":
            numbered: Iterable[tuple[str, Any]] = _json_lines(path)
        case "parquet":
            numbered = _parquet_rows(path, source)
        case _:
            numbered = _paragraphs(path)
    for place, content in numbered:
        try:
            if isinstance(content, _Rejected):
                raise content
            yield _example(
                _parse(content) if isinstance(content, bytes) else content, source, place
            )
        except _Rejected as error:
            kept = content.content if isinstance(content, _Rejected) else content
            yield Dropped(
                reason=error.reason,
                detail=f"{source.uri}, {place}: {error}",
                row={"text": _kept(kept)},
            )


def _format(path: Path, source: DataSource) -> str:
    suffixes = {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".parquet": "parquet",
        ".pq": "parquet",
        ".txt": "txt",
    }
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise UserError(f"{source.uri}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{source.uri} is a folder; name one file in it") from None
    except OSError as error:
        raise UserError(f"{source.uri}: cannot be read ({error})") from None
    known = suffixes.get(Path(source.uri).suffix.lower()) or suffixes.get(path.suffix.lower())
    if known:
        return known
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"{"):
        return "jsonl"
    if start.startswith(b"["):
        raise UserError(
            f"{source.uri} is one JSON array; write one object a line (jq -c '.[]' FILE > FILE.jsonl)"
        )
    # A cut at 4096 bytes may split a character, so a decoding error near the end proves nothing.
    if head and b"\0" not in head and "�" not in head[:-4].decode(errors="replace"):
        return "txt"
    raise UserError(f"{source.uri}: unknown format; use .jsonl, .parquet or .txt, uncompressed")


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _bounded_lines(path):
        place = f"line {number}"
        if isinstance(line, _Rejected):
            yield place, line
        elif not line.strip():
            yield place, _Rejected("empty", "a blank line")
        else:
            yield place, line


def _paragraphs(path: Path) -> Iterator[tuple[str, Any]]:
    """Blocks of lines between blank lines, as {"text": block}."""
    block: list[bytes] = []
    size = first = 0
    for number, line in _bounded_lines(path):
        if isinstance(line, _Rejected):
            yield f"line {number}", line
            continue
        if line.strip() and size + len(line) <= MAX_LINE_BYTES:
            first = first or number
            block.append(line)
            size += len(line)
            continue
        if block:
            yield f"line {first}", _text_block(b"".join(block))
        carries = bool(line.strip())
        block, size, first = ([line], len(line), number) if carries else ([], 0, 0)
    if block:
        yield f"line {first}", _text_block(b"".join(block))


def _text_block(block: bytes) -> Any:
    try:
        return {"text": block.decode("utf-8").strip()}
    except UnicodeDecodeError as error:
        return _Rejected("invalid_utf8", f"byte {error.start} of the paragraph is not UTF-8", block)


def _bounded_lines(path: Path) -> Iterator[tuple[int, bytes | _Rejected]]:
    """Lines with their numbers from 1, in bounded memory: of a longer one only the beginning is
    held."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) <= MAX_LINE_BYTES:
                yield number, line
                continue
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES)
            yield (
                number,
                _Rejected(
                    "too_long", f"longer than {MAX_LINE_BYTES} bytes", line[:MAX_KEPT_CHARACTERS]
                ),
            )


def _parquet_rows(path: Path, source: DataSource) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for index in range(batch.num_rows):
                    number += 1
                    try:
                        row: Any = batch.slice(index, 1).to_pylist()[0]
                    except UnicodeDecodeError:
                        row = _Rejected("invalid_utf8", "a string of this row is not UTF-8")
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        where = f"after row {number}" if number else "from the start"
        raise UserError(
            f"{source.uri}: not readable as Parquet {where} ({_first_line(error)}); write the file anew"
        ) from None


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _Rejected("invalid_utf8", f"byte {error.start} is not UTF-8") from None
    except _Rejected:
        raise
    except (ValueError, RecursionError) as error:
        raise _Rejected("not_json", _first_line(error)) from None


def _no_constant(name: str) -> NoReturn:
    raise _Rejected("not_a_number", f"{name} is not JSON")


def _example(row: Any, source: DataSource, place: str) -> Example:
    if not isinstance(row, dict):
        raise _Rejected("not_an_object", f"a {type(row).__name__}, not an object")
    tags: dict[str, str] = {}
    conversation: Conversation | None = None
    if source.prompt_field in row:
        prompt = _text(row, source.prompt_field)
        completion = (
            None
            if row.get(source.completion_field) is None
            else _text(row, source.completion_field)
        )
    elif "messages" in row:
        prompt, completion, conversation = _conversation(row)
    elif "text" in row and row.get("label") is not None:
        prompt, completion = _text(row, "text"), _text(row, "label")
        if len(completion) <= MAX_LABEL_CHARACTERS:
            tags = {"label": completion}
    elif "text" in row:
        prompt, completion = "", _text(row, "text")
    else:
        found = ", ".join(sorted(str(name)[:40] for name in row)[:10]) or "none"
        raise _Rejected("unknown_shape", f"fields found: {found}; expected {_shapes(source)}")
    if completion is None and source.split != "unlabelled":
        raise _Rejected(
            "no_completion",
            f"no {source.completion_field!r}; only split unlabelled takes prompts without answers",
        )
    return Example(
        prompt=prompt,
        completion=completion,
        conversation=conversation,
        verifier=source.verifier,
        reference={} if completion is None else {"answer": completion},
        tags=tags,
        provenance={"uri": source.uri, "place": place},
    )


def _conversation(row: dict[Any, Any]) -> tuple[str, str | None, Conversation | None]:
    """The prompt as text, the last turn of the assistant as the completion, and the turns
    themselves where they are more than a question and an answer.

    Turns behind the last one of the assistant are left out, unless nobody has answered yet.
    """
    messages = row["messages"]
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise _Rejected("wrong_type", f"messages is not a list of 1 to {MAX_MESSAGES} turns")
    turns = [_message(message) for message in messages]
    answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if answers:
        turns = turns[: answers[-1] + 1]
    before = turns[:-1] if answers else turns
    completion = spoken(turns[-1]) if answers else None
    if not any(turn["role"] == "user" for turn in before):
        raise _Rejected("empty", "no user turn before the answer")
    tools = _tools(row.get("tools"))
    told = Conversation(messages=tuple(before)).as_text()
    if len(before) == 1 and not tools and all(turn.keys() <= {"role", "content"} for turn in turns):
        return told, completion, None
    return told, completion, Conversation(messages=tuple(turns), tools=tools)


def _message(message: Any) -> dict[str, Any]:
    """A turn with its content as text. Whatever else it has, templates may read."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _Rejected("wrong_type", "a message is not {role, content}")
    turn: dict[str, Any] = _json({name: one for name, one in message.items() if one is not None})
    if isinstance(turn.get("content"), list):
        turn["content"] = "".join(map(_part, turn["content"]))
    calls = turn.get("tool_calls")
    if isinstance(calls, list) and calls:
        turn["tool_calls"] = [_call(call) for call in calls]
        if not turn.get("content"):
            return {**turn, "content": ""}
    else:
        # An empty list says nothing, and some templates take it for a call.
        turn.pop("tool_calls", None)
    if turn["role"] == "tool" and turn.get("content") == "":
        return turn
    return {**turn, "content": _text(turn, "content")}


def _part(part: Any) -> str:
    """The text of one part of a content. Pictures and sounds are no text."""
    if not isinstance(part, dict) or part.get("type", "text") != "text":
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise _Rejected("wrong_type", f"a part of a content is {str(kind)[:40]}, not text")
    return _text(part, "text")


def _call(call: Any) -> Any:
    """A call of a tool with its arguments as an object, as templates expect them; APIs write them as
    JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    written = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(written, str):
        return call
    try:
        arguments = json.loads(written)
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": _json(arguments)}}


def _tools(tools: Any) -> tuple[dict[str, Any], ...]:
    """Schemas of functions: a list, or JSON text of one."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise _Rejected("not_json", f"tools: {_first_line(error)}") from None
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _Rejected("wrong_type", "tools is not a list of objects")
    return tuple(_json(tool) for tool in tools)


def _json(value: Any) -> Any:
    """A nested value without None, after checking that it can be written as JSON."""
    try:
        written = json.dumps(_without_none(value), allow_nan=False, ensure_ascii=False)
        size = len(written.encode())
    except UnicodeEncodeError:
        raise _Rejected("invalid_utf8", "half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise _Rejected("wrong_type", _first_line(error)) from None
    if "\\u0000" in written.replace("\\\\", ""):
        raise _Rejected("nul_character", "a NUL character")
    if size > MAX_LINE_BYTES:
        raise _Rejected("too_long", f"longer than {MAX_LINE_BYTES} bytes")
    return json.loads(written)


def _without_none(value: Any) -> Any:
    """Parquet gives every object of a column the fields of all."""
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _text(row: dict[Any, Any], name: str) -> str:
    """A field as clean text. Numbers are accepted as answers and labels are often written so."""
    value = row.get(name)
    if isinstance(value, float) and not math.isfinite(value):
        raise _Rejected("not_a_number", f"{name!r} is {value}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Rejected("wrong_type", f"{name!r} is {type(value).__name__}, not text")
    try:
        text = str(value)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _Rejected("invalid_utf8", f"{name!r} holds half of a surrogate pair") from None
    except ValueError:
        raise _Rejected("wrong_type", f"{name!r} is a number of thousands of digits") from None
    if not text.strip():
        raise _Rejected("empty", f"{name!r} is empty")
    if "\0" in text:
        raise _Rejected("nul_character", f"{name!r} holds a NUL character")
    if size > MAX_LINE_BYTES:
        raise _Rejected("too_long", f"{name!r} is longer than {MAX_LINE_BYTES} bytes")
    return text


def _kept(content: Any) -> str:
    text = content.decode(errors="replace") if isinstance(content, bytes) else repr(content)
    return text.encode(errors="replace").decode()[:MAX_KEPT_CHARACTERS]


def _shapes(source: DataSource) -> str:
    return f"{{{source.prompt_field}, {source.completion_field}}}, {{messages}}, {{text}} or {{text, label}}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
