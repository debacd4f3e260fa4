"""Calls to the JSON API of a platform: what may pass is tried again, what is wrong is told."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from components.canonical import JsonObject
from components.errors import RatchetError, Transient, UserError, one_line
from components.retry import Backoff, Patience

PATIENCE = Patience(answer_seconds=15.0, first_pause_seconds=0.5, give_up_seconds=30.0)
"""A platform holds up a run that has its release already, so it is given up on soon."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
NOT_FOUND = 404
CONFLICT = 409
MAX_ANSWER_BYTES = 32 * 2**20
"""A longer answer is cut off, and then no JSON."""

T = TypeVar("T")


class Answer(BaseModel):
    """Base of the parts of a platform's answers that are read; it may send more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Access:
    """The address of a platform and the rights to it, each with the variable that it comes from."""

    title: str
    """Name of the platform, for messages."""
    url_variable: str
    url: str
    key_variable: str
    """Variable of the token or password, for messages."""
    token: str = field(default="", repr=False)
    """Bearer token; empty: none is sent."""
    user: str = ""
    password: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of each request."""

    @property
    def root(self) -> str:
        """The address without user, password and a slash at its end.

        Raises:
            UserError: It is no http(s) address.
        """
        try:
            parts = urllib.parse.urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if (
            not host
            or parts.scheme not in ("http", "https")
            or not self.url.isprintable()
        ):
            raise UserError(
                f"{self.title}: {self.url_variable} is not set, or no address such as "
                "https://host:8080; set it where steps run"
            )
        # The host of an IPv6 address has lost its brackets.
        host = f"[{host}]" if ":" in host else host
        address = host if port is None else f"{host}:{port}"
        return f"{parts.scheme}://{address}{parts.path.rstrip('/')}"

    @property
    def authorization(self) -> str:
        """Value of the header Authorization; empty without a token or password."""
        if self.token:
            return f"Bearer {self.token}"
        parts = urllib.parse.urlsplit(self.url)
        user = self.user or urllib.parse.unquote(parts.username or "")
        password = self.password or urllib.parse.unquote(parts.password or "")
        if not user and not password:
            return ""
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @property
    def secrets(self) -> list[str]:
        """All texts that no message may show."""
        _, _, encoded = self.authorization.partition(" ")
        password = urllib.parse.urlsplit(self.url).password or ""
        return [
            secret
            for secret in (self.token, self.password, password, encoded)
            if secret
        ]


class Refused(Exception):
    """An answer that its caller gives a meaning: there is no such entry, or one already."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def is_there_already(self) -> bool:
        """The entry exists: 409, and with MLflow 400 and a word."""
        return self.status == CONFLICT or "RESOURCE_ALREADY_EXISTS" in self.message


class PlatformApi:
    """The JSON API of one platform."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._patience = PATIENCE
        self._root = access.root
        self._opener = urllib.request.build_opener(_NoRedirect)

    def get(self, path: str, kind: type[A], **query: str) -> A:
        """Return the answer to a GET. Raises what `call` raises."""
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        return self._read(self.call("GET", target), kind)

    def found(self, path: str, kind: type[A], **query: str) -> A | None:
        """Return the answer to a GET; None if there is no such entry."""
        try:
            return self.get(path, kind, **query)
        except Refused as refused:
            if refused.status == NOT_FOUND:
                return None
            raise

    def search(self, path: str, kind: type[A], body: Mapping[str, JsonValue]) -> A:
        """Return the answer to a POST that changes nothing. Raises what `call` raises."""
        return self._read(self.call("POST", path, body), kind)

    def post(self, path: str, body: Mapping[str, JsonValue]) -> None:
        """Send a POST that may be repeated. Raises what `call` raises."""
        self.call("POST", path, body)

    def found_or_made(
        self,
        find: Callable[[], T | None],
        path: str,
        document: Callable[[], JsonObject],
    ) -> tuple[T, bool]:
        """Return an entry and whether it was made here.

        Args:
            find: Returns the entry; None if there is none.
            path: Path that a new one is posted to.
            document: Makes the document of a new one.

        Raises:
            Transient: It was not made, or nobody knows whether it was.
            UserError, Refused: As `call` says.
        """
        backoff = Backoff(self._patience)
        entry = find()
        while entry is None:
            new_document = document()
            try:
                self.call("POST", path, new_document, may_repeat=False)
            except Transient:
                # The answer may have been lost after the effect: a request that was simply repeated
                # would make a second entry.
                if not backoff.wait():
                    raise
                entry = find()
            except Refused as refused:
                # Another announcement may have come first.
                entry = find() if refused.is_there_already else None
                if entry is None:
                    raise
            else:
                entry = find()
                if entry is None:
                    raise Transient(
                        f"{self._name} does not show what it took at {path}"
                    )
                return entry, True
        return entry, False

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        *,
        may_repeat: bool = True,
    ) -> JsonObject:
        """Return the answer to one request.

        Args:
            method: Method of HTTP.
            path: Path below the platform's address, with its query.
            body: Document to send; None: none is sent.
            may_repeat: Whether a second such request does no harm.

        Raises:
            Refused: Status 400, 404, 409 or 422.
            UserError: The platform refuses the rights, or the address is another server's.
            Transient: It does not answer, after all tries.
        """
        headers = {
            "Accept": "application/json",
            "User-Agent": "ratchet",
            **self._access.headers,
        }
        if self._access.authorization:
            headers["Authorization"] = self._access.authorization
        encoded = None
        if body is not None:
            encoded = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(
            self._root + path, data=encoded, headers=headers, method=method
        )
        backoff = Backoff(self._patience)
        while True:
            try:
                return self._parsed(self._sent(request))
            except _Passing as fault:
                if not may_repeat or not backoff.wait():
                    raise Transient(f"{self._name} does not answer ({fault})") from None

    def _sent(self, request: urllib.request.Request) -> bytes:
        """Return the body of the answer, within the seconds that one may take."""
        outcomes: list[bytes | Exception] = []

        def exchange() -> None:
            try:
                outcomes.append(self._exchanged(request))
            except (RatchetError, Refused, _Passing) as error:
                outcomes.append(error)

        # A thread, because no timeout of a socket covers a name server that hangs, or a server that
        # sends its answer a byte at a time. A daemon: the process need not wait for it either.
        thread = threading.Thread(target=exchange, daemon=True)
        thread.start()
        thread.join(self._patience.answer_seconds)
        if not outcomes:
            raise _Passing(
                f"no answer within {self._patience.answer_seconds:g} seconds"
            )
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        return outcomes[0]

    def _exchanged(self, request: urllib.request.Request) -> bytes:
        try:
            with self._opener.open(
                request, timeout=self._patience.answer_seconds
            ) as response:
                return bytes(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                words = self._shown(_message_of(error.read(MAX_ANSWER_BYTES)))
            raise self._refusal(error.code, words) from None
        except ValueError:
            # Not its message: it may show a token with a letter that no header may have.
            access = self._access
            raise UserError(
                f"{access.title}: {access.url_variable} or {access.key_variable} holds a character "
                "that HTTP does not allow"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _Passing(self._shown(str(reason) or type(reason).__name__)) from None

    def _refusal(self, status: int, words: str) -> Exception:
        """Return the exception for an answer that is an error."""
        access = self._access
        status_and_words = f"{status} {words}".strip()
        if status in PASSING:
            return _Passing(status_and_words)
        if status in (401, 403):
            return UserError(
                f"{self._name} refuses the rights ({status_and_words}): set {access.key_variable}"
            )
        if status in (400, 404, 409, 422):
            return Refused(status, status_and_words)
        return UserError(
            f"{self._name} answers {status_and_words}: check {access.url_variable}"
        )

    def _parsed(self, body: bytes) -> JsonObject:
        try:
            document: object = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise UserError(
                f"{self._name} answers with no JSON object: check {self._access.url_variable}"
            )
        return document

    def _read(self, document: JsonObject, kind: type[A]) -> A:
        """Return an answer as its type. Raises UserError if it is something else."""
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            problem = error.errors()[0]
            location = ".".join(map(str, problem["loc"]))
            raise UserError(
                f"{self._name} answers with something else ({location}: {problem['msg']}): check "
                f"{self._access.url_variable}"
            ) from None

    @property
    def _name(self) -> str:
        return f"{self._access.title} {self._root}"

    def _shown(self, words: str) -> str:
        """Return a server's words on one line, without secrets."""
        for secret in self._access.secrets:
            words = words.replace(secret, "***")
        return one_line(words[:10_000])


class _Passing(Exception):
    """A failure after which the same request may succeed."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for an answer: the token is for the address that was given."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Return None, which ends the request with the status of the redirection."""


def _message_of(body: bytes) -> str:
    """Return the words of an error: its fields `error_code` and `message`, else all of it."""
    text = body.decode("utf-8", "replace")
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(document, dict) or "message" not in document:
        return text
    return " ".join(
        str(document[name]) for name in ("error_code", "message") if name in document
    )
