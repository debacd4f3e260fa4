"""Errors of endpoints, in the forms of many servers: their words, and what they are about."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from components.canonical import JsonObject
from components.chat_api.replies import FAILED, finish_reason, first_choice

_CONTEXT_LENGTH = re.compile(
    r"context[ _-]?(?:length|window|size)|contextwindow"
    r"|max(?:imum)?[ _-](?:model|sequence|input|prompt|context|position)[ _-]?\w*[ _-]?(?:len|tok)"
    r"|(?:prompt|input|inputs|request|messages?|sequence)`?\b.{0,60}\btoo (?:long|large)"
    r"|too many (?:input |prompt )?tokens|exceed\w*\b.{0,80}\b(?:tokens?|length)\b"
    r"|tokens?\b.{0,60}\bexceed|reduce (?:the|your) (?:length|prompt|input)|must be reduced"
    r"|string[ _]too[ _]long|range of input length|\u8d85\u957f|`inputs`.{0,40}must (?:be|have)|request too large",
    re.IGNORECASE | re.DOTALL,
)
"""Words for a prompt that is too long: OpenAI, vLLM, SGLang, llama.cpp, TGI, LiteLLM, Ollama,
Anthropic, Bedrock, Mistral, Groq."""
_CONTENT_POLICY = re.compile(
    r"content[ _-]?(?:policy|filter|management|moderation)|moderation|usage polic"
    r"|responsible ?ai|safety (?:system|filter|reasons?|polic)|inappropriate|data_?inspection"
    r"|prohibited|flagged|sensitive (?:content|information|words?)|high risk|guardrail|\u654f\u611f",
    re.IGNORECASE,
)
"""Words for a prompt that a content filter refuses: OpenAI, Azure, LiteLLM, OpenRouter, Bedrock,
DashScope, Moonshot, Zhipu."""
_NO_QUOTA = re.compile(
    r"insufficient[ _](?:quota|balance|funds|credit)|billing|credit balance|out of credits",
    re.IGNORECASE,
)
_BUSY = re.compile(
    r"rate[ _-]?limit|too many requests|overload|busy|timed? ?out|temporar|unavailable|try again"
    r"|server[ _]error|internal error|upstream|loading model|capacity|throttl",
    re.IGNORECASE,
)
_REFUSED_PROMPT_STATUSES = frozenset({400, 403, 413, 422, 451, 500})
"""Statuses with which servers refuse a prompt. Older versions of llama.cpp and gateways send 500."""
_WORD_FIELDS = (
    "message",
    "detail",
    "msg",
    "status_msg",
    "error",
    "errors",
    "title",
    "reason",
)


@dataclass(frozen=True)
class ServerError:
    """An error as a server words it."""

    words: str
    """Its message; may hold several lines."""
    status: int | None = None
    """HTTP status that the document names (400 to 599); None if it names none."""
    codes: tuple[str, ...] = ()
    """Its code, type and the like."""
    parameters: tuple[str, ...] = field(default=())
    """Names of the request's fields that the error is about, as far as it says so."""

    @property
    def all_words(self) -> str:
        """Codes and message."""
        return " ".join((*self.codes, self.words))

    def refused_prompt(self, status: int) -> str:
        """Return the reason if this prompt alone is refused for good, else an empty text.

        Args:
            status: HTTP status of the answer.
        """
        if status == 429:
            # One request larger than the limit of a minute: no pause lets it pass.
            is_too_large = re.search(
                r"request too large|must be reduced", self.words, re.I
            )
            return "refused (context length)" if is_too_large else ""
        if status not in _REFUSED_PROMPT_STATUSES:
            return ""
        if _CONTENT_POLICY.search(self.all_words):
            return "refused (content policy)"
        # A key that may not use a model is refused in words such as "exceeds your access".
        if status != 403 and _CONTEXT_LENGTH.search(self.all_words):
            return "refused (context length)"
        return ""

    def is_about_quota(self, status: int) -> bool:
        """Return True if the account has nothing left, which no pause mends."""
        return status == 402 or (
            status in (400, 403, 429) and bool(self._found(_NO_QUOTA))
        )

    def is_final(self, status: int) -> bool:
        """Return True if the same request will be refused again, whatever the status says."""
        return bool(self.refused_prompt(status)) or self.is_about_quota(status)

    @property
    def implied_status(self) -> int | None:
        """Status that an error inside a 200 stands for; None if neither code nor words tell."""
        if self.status is not None:
            return self.status
        if self._found(_NO_QUOTA):
            return 402
        if self._found(_CONTENT_POLICY) or self._found(_CONTEXT_LENGTH):
            return 400
        return 503 if self._found(_BUSY) else None

    def _found(self, pattern: re.Pattern[str]) -> bool:
        return pattern.search(self.all_words) is not None


def read_error(document: object) -> ServerError | None:
    """Return the error in a document, whatever status it came with; None if it holds none."""
    if isinstance(document, list):
        # Gemini's endpoint wraps its errors in a list.
        document = document[0] if document else None
    if not isinstance(document, dict):
        return None
    error = _error_part(document)
    if error is None:
        return None
    if not isinstance(error, dict):
        # TGI and older Ollama: {"error": "…", "error_type": "overloaded"}.
        return ServerError(_words(error), _status(document), _codes(document))
    return ServerError(
        words=_words(error),
        status=_status(error) or _status(document),
        codes=_codes(error),
        parameters=_parameters(error),
    )


def _error_part(document: JsonObject) -> object:
    """Return the part of a document that tells of an error; None if no part does."""
    error = document.get("error")
    if error:
        return error
    choice = first_choice(document)
    if choice is not None:
        # OpenRouter: a choice that broke off has an error beside its text.
        has_failed = finish_reason(choice) in FAILED
        broken = choice.get("error") or {
            "message": f"finish_reason {finish_reason(choice)}"
        }
        return {"code": 502, **_as_object(broken)} if has_failed else None
    outcome = document.get("base_resp")
    if isinstance(outcome, dict) and outcome.get("status_code"):
        # MiniMax; its numbers are no HTTP status.
        return {"message": outcome.get("status_msg"), "code": 503}
    if "choices" in document and document["choices"] is None:
        # A router whose upstream is gone.
        return {"message": _words(document) or "choices is null", "code": 502}
    if "choices" in document:
        return None
    # FastAPI's detail, and the flat form of vLLM and SGLang: {"object": "error", "message": …}.
    return document if _words(document) else None


def _as_object(error: object) -> JsonObject:
    return error if isinstance(error, dict) else {"message": error}


def _words(error: object) -> str:
    """Return the message within an error of any form."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "; ".join(filter(None, (_words(part) for part in error)))
    if not isinstance(error, dict):
        return ""
    if "loc" in error and "msg" in error:
        return f"{'.'.join(_location(error))}: {error['msg']}"
    for name in _WORD_FIELDS:
        words = _words(error.get(name))
        if words:
            return words + _upstream_words(error)
    return ""


def _upstream_words(error: JsonObject) -> str:
    """Return the words of the server behind a router (OpenRouter), in brackets."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f" ({raw})" if isinstance(raw, str) and raw else ""


def _location(problem: JsonObject) -> list[str]:
    """Return the keys that lead to a field which FastAPI refuses, without `body`."""
    location = problem["loc"] if isinstance(problem["loc"], list) else [problem["loc"]]
    return [str(part) for part in location if part != "body"]


def _status(error: JsonObject) -> int | None:
    for name in ("code", "status_code", "http_status", "status"):
        value = str(error.get(name))
        if value.isdecimal() and 400 <= int(value) <= 599:
            return int(value)
    return None


def _codes(error: JsonObject) -> tuple[str, ...]:
    names = ("code", "type", "error_type", "status")
    values = [error.get(name) for name in names]
    inner = error.get("innererror")
    if isinstance(inner, dict):
        # Azure: {"code": "ResponsibleAIPolicyViolation"}.
        values.append(inner.get("code"))
    return tuple(
        value for value in values if isinstance(value, str) and not value.isdecimal()
    )


def _parameters(error: JsonObject) -> tuple[str, ...]:
    """Return names of the fields that an error is about."""
    names = [str(error["param"])] if error.get("param") else []
    # Mistral has FastAPI's list within its message.
    details = error.get("detail")
    if isinstance(error.get("message"), dict):
        details = error["message"].get("detail")
    if isinstance(details, list):
        for problem in details:
            if isinstance(problem, dict) and "loc" in problem:
                names += _location(problem)
    return tuple(names)
