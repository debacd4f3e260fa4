"""One logged request and its answer, in the shapes in which servers, proxies and tracers log them.

Read are: requests and responses of OpenAI's chat completions and responses APIs, also one inside the
other (`request`, `response`, `body`); the payload that LiteLLM logs
(docs.litellm.ai/docs/proxy/logging_spec); `input` and `output` of a Langfuse trace; and plain rows of
`messages`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.canonical import JsonObject
from components.prepare.row_values import RejectedRow, Row
from components.prepare.turns import tools_of, turns_to_last_answer

ID_FIELDS = (
    "id",
    "request_id",
    "trace_id",
    "traceId",
    "custom_id",
    "completion_id",
    "call_id",
)
"""Fields by which feedback finds its exchange."""
_REQUEST_FIELDS = ("request", "body", "input")
_RESPONSE_FIELDS = ("response", "output", "completion")
_FAILED_STATUS = 400
"""HTTP status from which a request has failed."""


@dataclass(frozen=True)
class Exchange:
    """What was asked and answered."""

    ids: tuple[str, ...]
    prompt_turns: tuple[JsonObject, ...]
    """Turns up to the one that was answered."""
    tools: tuple[JsonObject, ...]
    answer: JsonObject | None
    """The assistant's turn; None where there is none that could teach."""
    flaw: str = ""
    """Why there is none: `cut_off`, `refused`, `no_answer` or `several_answers`."""


def exchange_of(row: object) -> Exchange:
    """Return the exchange that a logged row holds. Raises RejectedRow."""
    if not isinstance(row, dict):
        raise RejectedRow("wrong_type", f"a row is {type(row).__name__}, not an object")
    # Callbacks of LiteLLM have the payload inside.
    payload = row.get("standard_logging_object")
    if isinstance(payload, dict):
        row = payload
    request = _request_of(row)
    envelope = next(
        (_parsed(row[name]) for name in _RESPONSE_FIELDS if row.get(name)), None
    )
    response = envelope
    if isinstance(envelope, dict) and "body" in envelope:
        response = _parsed(envelope["body"])
    if any(_has_failed(layer) for layer in (row, envelope, response)):
        raise RejectedRow("failed", "the request failed")
    messages = _messages_of(request)
    turns = turns_to_last_answer(messages, is_asked=True)
    flaw, answer = "no_answer", None
    if response is not None:
        flaw, answer = _answer_in(response)
    elif turns[-1]["role"] == "assistant":
        flaw, answer = "", turns.pop()
    if not any(turn["role"] == "user" for turn in turns):
        raise RejectedRow("empty", "no turn of a user")
    ids = tuple(_ids_in(row, response))
    tools = tools_of(request.get("tools") or request.get("functions"))
    return Exchange(ids, tuple(turns), tools, answer, flaw)


def ids_of(row: Row) -> tuple[str, ...]:
    """Return what names a row's exchange."""
    return tuple(str(row[name]) for name in ID_FIELDS if row.get(name))


def _ids_in(row: Row, response: object) -> Iterator[str]:
    yield from ids_of(row)
    if isinstance(response, Mapping):
        # `chatcmpl-…`: what the application that collects feedback has seen.
        yield from ids_of(response)


def _has_failed(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    status = value.get("status_code")
    if isinstance(status, int) and status >= _FAILED_STATUS:
        return True
    return bool(value.get("error")) or value.get("status") in (
        "failure",
        "failed",
        "error",
    )


def _parsed(value: object) -> object:
    """Return a value, from its JSON where a log holds that as text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        parsed: object = json.loads(value)
    except (ValueError, RecursionError):
        # An answer may well begin with a bracket.
        return value
    return parsed


def _request_of(row: Row) -> Row:
    """Return the object that has what was asked: the row, or one inside it."""
    if "messages" in row:
        return row
    for name in _REQUEST_FIELDS:
        inner = _parsed(row.get(name))
        if isinstance(inner, dict):
            return _request_of(inner)
        if name == "input" and inner:
            return {**row, "messages": inner}
    if row.get("prompt"):
        return {**row, "messages": row["prompt"]}
    names = ", ".join(sorted(str(name)[:40] for name in row)[:10]) or "none"
    raise RejectedRow("no_request", f"nothing that was asked; fields found: {names}")


def _messages_of(request: Row) -> list[object]:
    messages = _parsed(request["messages"])
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        raise RejectedRow("wrong_type", "messages is not a list of turns")
    messages = [_in_chat_words(message) for message in messages]
    system = request.get("instructions") or request.get("system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _in_chat_words(message: object) -> object:
    """Return a turn of the responses API with its parts of text as those of chat completions."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    parts = [
        {**part, "type": "text"}
        if isinstance(part, Mapping)
        and part.get("type") in ("input_text", "output_text")
        else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _answer_in(response: object) -> tuple[str, JsonObject | None]:
    """Return (flaw, the assistant's turn) of a response."""
    if isinstance(response, str):
        return _turn({"content": response})
    if isinstance(response, Mapping):
        choices = response.get("choices")
        if isinstance(choices, list) and len(choices) > 1:
            return "several_answers", None
        if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
            return _answer_of_choice(choices[0])
        if response.get("status") == "incomplete":
            return "cut_off", None
        if isinstance(response.get("output"), list):
            return _turn({"content": _text_of_output(response["output"])})
        if "content" in response or "tool_calls" in response:
            return _turn(response)
    return "no_answer", None


def _answer_of_choice(choice: Row) -> tuple[str, JsonObject | None]:
    match choice.get("finish_reason"):
        case "length":
            return "cut_off", None
        case "content_filter":
            return "refused", None
    message = choice.get("message")
    if isinstance(message, Mapping):
        return ("refused", None) if message.get("refusal") else _turn(message)
    return _turn({"content": choice.get("text")})


def _text_of_output(items: list[object]) -> str:
    """Return what the messages among a response's items say."""
    messages = [item for item in items if isinstance(item, Mapping)]
    parts = [part for message in messages for part in message.get("content") or ()]
    texts = [str(part.get("text") or "") for part in parts if isinstance(part, Mapping)]
    return "".join(texts)


def _turn(message: Row) -> tuple[str, JsonObject | None]:
    if not message.get("content") and not message.get("tool_calls"):
        return "no_answer", None
    fields = {name: value for name, value in message.items() if value is not None}
    question: JsonObject = {"role": "user", "content": "…"}
    try:
        # Behind a question, because a conversation needs one.
        _, turn = turns_to_last_answer([question, {**fields, "role": "assistant"}])
    except RejectedRow:
        return "no_answer", None
    return "", turn
