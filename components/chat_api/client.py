"""A client that asks one endpoint: what may pass is tried again, what is wrong is told in a line."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.chat_api.replies import ChatReply, read_reply
from components.chat_api.server_errors import ServerError, read_error
from components.contracts.recipe.endpoint import FIXED_PARAMETERS, ChatEndpoint
from components.errors import Transient, UserError, one_line

MAX_ERROR_CHARACTERS = 200
"""Characters of a server's error in a message."""
MIN_SECRET_CHARACTERS = 6
"""A shorter key is a word for an endpoint that wants none (`none`), and may stand in any message."""
MAX_FIRST_REFUSALS = 3
"""Refusals in unknown words before the first answer, after which the request itself is taken to be
wrong. All requests have the same parameters: once one is answered, a refusal is about its
prompt."""


@dataclass(frozen=True)
class Access:
    """Names of one endpoint's settings, for messages, and their values."""

    section: str
    """Section of the recipe."""
    url: str
    url_variable: str
    """Environment variable that holds the URL."""
    key: str
    key_variable: str
    """Environment variable that holds the key."""


@dataclass(frozen=True)
class Refusal:
    """One prompt that the endpoint refuses for good, while it may answer others."""

    reason: str


class ChatClient:
    """Asks a model; safe to use from several threads. Close it when done.

    The `openai` package retries errors that may pass, with the pauses that the server asks for. An
    error inside an answer with status 200 is treated as if it had come with its own status.
    """

    def __init__(self, settings: ChatEndpoint, access: Access) -> None:
        # Late: the import takes a second.
        import openai

        self._settings = settings
        self._access = access
        self._client = openai.OpenAI(
            api_key=access.key,
            base_url=access.url,
            timeout=settings.timeout_seconds,
            max_retries=settings.max_retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"response": [self._restore_status]}
            ),
        )
        # True once an answer was understood: then address, key, model and parameters are right.
        self._answered = False
        self._num_first_refusals = 0
        self._wrong: UserError | None = None
        self._first_answer = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, payload: Mapping[str, Any]) -> ChatReply | Refusal:
        """Return the answer to one request, or the refusal of its prompt.

        Until the first answer, requests are sent one at a time: a wrong key or parameter is told
        before many are sent.

        Args:
            payload: Body of the request, as `ChatEndpoint.request` makes it.

        Raises:
            UserError: The endpoint refuses the key, the model or the parameters, or is none.
            Transient: The endpoint fails for now, after all retries.
        """
        if self._answered:
            return self._ask(payload)
        with self._first_answer:
            if self._wrong is not None:
                raise self._wrong
            # Not so for those that waited here for the first answer.
            if not self._answered:
                try:
                    return self._ask(payload)
                except UserError as error:
                    self._wrong = error
                    raise
        return self._ask(payload)

    def _ask(self, payload: Mapping[str, Any]) -> ChatReply | Refusal:
        import openai

        settings = self._settings
        try:
            body = self._post(payload)
        except openai.APITimeoutError:
            raise Transient(
                f"{self._name} did not answer within {settings.timeout_seconds:g} s, "
                f"{settings.max_retries + 1} times"
            ) from None
        except openai.APIConnectionError as error:
            cause = self._shown(str(error.__cause__ or error))
            raise Transient(f"{self._name} cannot be reached ({cause})") from None
        except openai.APIStatusError as error:
            document = _parsed(error.response.content)
            return self._refused(
                error.status_code, document, error.response.content, payload
            )
        except (openai.APIError, ValueError) as error:
            raise self._malformed(self._shown(str(error))) from None
        return self._answer(body, payload)

    def _post(self, payload: Mapping[str, Any]) -> bytes:
        """Return the body of the answer as it was sent: servers differ in what they put into it."""
        import httpx2

        response = self._client.post(
            "/chat/completions", body=dict(payload), cast_to=httpx2.Response
        )
        content: bytes = response.content
        return content

    def _answer(self, body: bytes, payload: Mapping[str, Any]) -> ChatReply | Refusal:
        document = _parsed(body)
        max_tokens = payload.get(self._settings.max_tokens_parameter)
        reply = read_reply(
            document, max_tokens if isinstance(max_tokens, int) else None
        )
        if reply is not None:
            self._answered = True
            return reply
        if (
            self._answered
            and isinstance(document, dict)
            and document.get("choices") == []
        ):
            # Gemini has no choice for a prompt that it blocks.
            return Refusal("refused: the answer has no choice in it")
        error = read_error(document)
        words = error.words if error is not None else body.decode("utf-8", "replace")
        raise self._malformed(
            f"its answer is no chat completion ({self._shown(words)})"
        )

    def _restore_status(self, response: Any) -> None:
        """Give an error that came with status 200 the status that it names.

        The package then tries again where that may help, as after any other error.
        """
        document = _parsed(response.read())
        error = read_error(document)
        if response.status_code != 200:
            if error is not None and error.is_final(response.status_code):
                # The package would try again after each 429 and 500.
                response.headers["x-should-retry"] = "false"
            return
        if error is not None:
            implied = error.implied_status
        elif self._answered and read_reply(document) is None:
            # Garbled on its way, since the address is right; but an empty list is an answer.
            is_empty = isinstance(document, dict) and document.get("choices") == []
            implied = None if is_empty else 502
        else:
            implied = None
        if implied is not None:
            response.status_code = implied

    def _refused(
        self, status: int, document: object, body: bytes, payload: Mapping[str, Any]
    ) -> Refusal:
        """Return the refusal of one prompt, or raise what any other status means.

        Args:
            status: HTTP status, as the server or an error inside a 200 has it.
            document: The parsed body.
            body: The body.
            payload: The request.
        """
        error = read_error(document) or ServerError(body.decode("utf-8", "replace"))
        # For statuses without a body too.
        words = f"Error code: {status} - {self._shown(error.words)}".removesuffix(" - ")
        if error.is_about_quota(status):
            raise UserError(f"{self._name}: the account has no quota left ({words})")
        reason = error.refused_prompt(status)
        if reason:
            return Refusal(f"{reason}: {words}")
        access = self._access
        if status in (401, 403):
            raise UserError(
                f"{self._name} refuses the key ({words}): set {access.key_variable}"
            )
        if status in (404, 405, 410):
            raise UserError(
                f"{self._name} knows no model {self._settings.model!r}, or the address is wrong "
                f"({words}): check {access.section}.model and {access.url_variable}"
            )
        # 408 and 425 are a timeout of the request and "too early".
        if status in (408, 409, 425, 429) or status >= 500:
            raise Transient(f"{self._name} is busy or failing ({words})")
        if self._answered:
            return Refusal(f"refused: {words}")
        advice = self._advice(error, payload)
        self._num_first_refusals += 1
        if advice or self._num_first_refusals >= MAX_FIRST_REFUSALS:
            raise UserError(f"{self._name} refuses the request ({words}){advice}")
        return Refusal(f"refused: {words}")

    def _advice(self, error: ServerError, payload: Mapping[str, Any]) -> str:
        """Return what to do about a parameter that the endpoint refuses; empty if it is none."""
        section = self._access.section
        names = [name for name in payload if name not in FIXED_PARAMETERS]
        refused = [name for name in names if name in error.parameters]
        if not refused:
            refused = [
                name
                for name in names
                if re.search(rf"(?<!\w){name}(?!\w)", error.words)
            ]
        if not refused:
            return ""
        name = refused[0]
        if name == "max_tokens" and "max_completion_tokens" in error.words:
            return f"; set {section}.max_tokens_parameter to max_completion_tokens"
        return f"; set {section}.parameters.{name} to null to leave it out, or to a value it takes"

    def _malformed(self, reason: str) -> UserError | Transient:
        """Return the error for an answer that is no chat completion."""
        # Once another answer was right, the address is right: this one was garbled on its way.
        if self._answered:
            return Transient(f"{self._name}: {reason}")
        return UserError(
            f"{self._name}: {reason}; is {self._access.url_variable} right (…/v1)?"
        )

    @property
    def _name(self) -> str:
        """Section and URL, without a user name, password or query that it may hold."""
        parts = urlsplit(str(self._client.base_url))
        address = (
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip(
                "/"
            )
        )
        return f"{self._access.section} {address}"

    def _shown(self, words: str) -> str:
        """Return a server's words on one line, without the key."""
        if len(self._access.key) >= MIN_SECRET_CHARACTERS:
            words = words.replace(self._access.key, "***")
        # Cut before, too: a server may answer with megabytes.
        return one_line(words[:10_000], MAX_ERROR_CHARACTERS)


def _parsed(body: bytes) -> object:
    """Return the JSON document of a body; None if it is none."""
    try:
        # Some servers cut a character in two and send half of its bytes.
        document: object = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return document
