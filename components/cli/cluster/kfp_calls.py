"""Calls of the API of Kubeflow Pipelines: tolerant of faults that pass, plain about the others.

A call that fails for now (429, 5xx, a reset or silent connection) is made again with growing pauses
until `give_up_seconds` are over, then it is `Unreachable`. A call that creates something is not
repeated blindly: its caller looks first whether the lost one had its effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.cli.json_documents import Json
from components.errors import RatchetError, UserError, one_line
from components.retry import Backoff, Patience

if TYPE_CHECKING:
    from kfp_server_api import Configuration
    from kfp_server_api.exceptions import ApiException

TOO_MANY_REQUESTS = 429
UNAUTHORIZED = 401
TOKEN_AUDIENCE = "pipelines.kubeflow.org"
NO_ANSWER = 0
"""In place of an HTTP status: the connection broke, was refused, or stayed silent."""
PASSING = (408, 425, TOO_MANY_REQUESTS, 500, 502, 503, 504)
"""Statuses after which the same call may succeed."""
MAX_MESSAGE_CHARACTERS = 400
PAGE_SIZE = 100
_EQUALS = 1  # operation EQUALS in the filters of the API

# Methods of the generated client: they take anything, and answer with the raw response here.
Method = Callable[..., Any]


class Unreachable(RatchetError):
    """The API did not answer for as long as it was waited for. Exit 4."""

    exit_code = 4


class Lost(Exception):
    """It is not known whether the object was created.

    The connection broke, or the server failed while it worked.
    """


class Taken(Exception):
    """There is an object of this name already (409)."""


class Gone(Exception):
    """There is no such object (404)."""


class NoSuchPath(UserError):
    """The server does not know the path: it is another one than was taken for granted."""


@dataclass(frozen=True)
class Failure:
    """An answer after which the call may be tried again."""

    status: int
    """HTTP status, or NO_ANSWER."""
    message: str


@dataclass(frozen=True, kw_only=True)
class ApiPatience(Patience):
    """Waiting times of a person at a terminal; `submit --wait` lets its poll fail for longer."""

    answer_seconds: float = 60.0
    give_up_seconds: float = 60.0
    refused_seconds: float = 20.0
    """Longest time that a token from a file may be refused: it may be about to be renewed."""


@dataclass(frozen=True)
class Access:
    """Address of the API, and the token for it."""

    endpoint: str
    """URL, up to where `/apis/v2beta1` begins."""
    namespace: str = ""
    """Namespace of the runs; empty where Kubeflow Pipelines has one user."""
    token: str = ""
    token_file: Path | None = None
    """Read anew for every call: such tokens are renewed every hour."""
    ca_file: str = ""

    def bearer(self) -> str:
        """Return the token for the next call; empty: none. Raises UserError."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"token file {self.token_file}: cannot be read ({error})"
            ) from None


def access_from(
    environment: Mapping[str, str],
    endpoint: str,
    namespace: str,
    token_file: Path | None,
) -> Access:
    """Return the access that options and environment describe.

    Options come first, then KF_PIPELINES_ENDPOINT, KF_PIPELINES_SA_TOKEN_PATH, KF_PIPELINES_TOKEN
    and KF_PIPELINES_SSL_CA_CERTS.

    Raises:
        UserError: There is no endpoint, or it is no plain http(s) address.
    """
    url = endpoint or environment.get("KF_PIPELINES_ENDPOINT", "")
    if not url:
        raise UserError(
            "no Kubeflow Pipelines to speak to: pass --endpoint https://… or set "
            "KF_PIPELINES_ENDPOINT"
        )
    if not url.startswith(("http://", "https://")) or "@" in url:
        # Only the part behind the @ is shown: before it stands a password.
        raise UserError(
            f"--endpoint {url.rpartition('@')[2]}: use http(s)://host[/path], without a user or "
            "password"
        )
    path_in_environment = environment.get("KF_PIPELINES_SA_TOKEN_PATH")
    if token_file is None and path_in_environment:
        token_file = Path(path_in_environment)
    return Access(
        # People copy the address of a page of the UI, which goes on with `#/runs`.
        endpoint=url.split("#")[0].rstrip("/"),
        namespace=namespace,
        # Never an option: command lines are seen by every user of a machine.
        token=environment.get("KF_PIPELINES_TOKEN", ""),
        token_file=token_file,
        ca_file=environment.get("KF_PIPELINES_SSL_CA_CERTS", ""),
    )


class ApiCalls:
    """One API server, and how long it is waited for. Answers are the server's JSON."""

    def __init__(self, access: Access, patience: ApiPatience) -> None:
        import kfp_server_api as api

        self.access = access
        self.patience = patience
        configuration = api.Configuration(host=access.endpoint)
        # urllib3 would repeat calls by itself; `call` knows what may be repeated, and for how long.
        configuration.retries = False
        configuration.ssl_ca_cert = access.ca_file or None
        configuration.api_key_prefix["authorization"] = "Bearer"
        if access.bearer():
            configuration.api_key["authorization"] = access.bearer()
            configuration.refresh_api_key_hook = self._renew_token
        self.client = api.ApiClient(configuration)

    @contextmanager
    def giving_up_after(self, seconds: float) -> Iterator[None]:
        """Let calls within a block give up after so long at the latest."""
        patience = self.patience
        give_up_seconds = min(patience.give_up_seconds, seconds)
        self.patience = replace(patience, give_up_seconds=give_up_seconds)
        try:
            yield
        finally:
            self.patience = patience

    def _renew_token(self, configuration: Configuration) -> None:
        configuration.api_key["authorization"] = self.access.bearer()

    def list_named(
        self, method: Method, key: str, name: str, *arguments: str, **scope: Any
    ) -> list[Json]:
        """Return all objects of a display name. Takes arguments as `list_where` does."""
        return self.list_where(method, key, "display_name", name, *arguments, **scope)

    def list_where(
        self,
        method: Method,
        key: str,
        field: str,
        text: str,
        *arguments: str,
        **scope: Any,
    ) -> list[Json]:
        """Return all objects with a text in a field.

        Args:
            method: The client's list method.
            key: The list's name in an answer.
            field: Name of the field.
            text: What stands there.
            arguments: Ids that the method takes before its options.
            scope: Further options: an experiment or a namespace.
        """
        predicate = {"operation": _EQUALS, "key": field, "stringValue": text}
        name_filter = json.dumps({"predicates": [predicate]})
        objects: list[Json] = []
        page_token = ""
        while True:
            page = self.call(
                f"list {key}",
                method,
                *arguments,
                filter=name_filter,
                page_size=PAGE_SIZE,
                page_token=page_token,
                **scope,
            )
            # The server filters; compared again, because an older one may not.
            rows = page.get(key) or ()
            objects += [row for row in rows if row.get(field) == text]
            page_token = str(page.get("next_page_token") or "")
            if not page_token:
                return objects

    def find_or_create(
        self,
        description: str,
        find: Callable[[], Json | None],
        create: Callable[[], Json],
    ) -> Json:
        """Return the object that `find` finds, or else the one that `create` makes.

        Of two who create at once, the second finds the object of the first. Raises Unreachable.
        """
        backoff = Backoff(self.patience)
        while True:
            existing = find()
            if existing is not None:
                return existing
            try:
                return create()
            except (Taken, Lost) as error:
                if not backoff.wait():
                    raise Unreachable(
                        f"{self.access.endpoint}: {description} could not be made: {error}"
                    ) from None

    def create(
        self, action: str, method: Method, *arguments: object, **options: object
    ) -> Json:
        """Call a method that creates something. Raises Lost if its effect is not known, Taken."""
        return self.call(action, method, *arguments, creates=True, **options)

    def call(
        self,
        action: str,
        method: Method,
        *arguments: object,
        creates: bool = False,
        **options: object,
    ) -> Json:
        """Return the JSON of an answer. Takes arguments and raises as `call_for_bytes` does."""
        body = self.call_for_bytes(
            action, method, *arguments, creates=creates, **options
        )
        document = parse_json(body or b"{}")
        if not isinstance(document, dict):
            raise UserError(
                f"{self.access.endpoint} answers with a page, not as the API of Kubeflow Pipelines "
                "does: the address is wrong, or a login stands before it "
                f"({self._token_cure()})"
            )
        return document

    def call_for_bytes(
        self,
        action: str,
        method: Method,
        *arguments: object,
        creates: bool = False,
        **options: object,
    ) -> bytes:
        """Return the body of an answer, after as many tries as the patience allows.

        Args:
            action: The call in words, for errors: "list runs".
            method: The client's method.
            arguments: Its arguments.
            creates: The call is not repeated where it may have had its effect.
            options: Its keyword arguments.

        Raises:
            UserError: The server refuses, or is no API of Kubeflow Pipelines.
            Gone: There is no such object.
            Taken: There is one already.
            Lost: With `creates`, the fate of the call is not known.
            Unreachable: The patience is over.
        """
        patience = self.patience
        endpoint = self.access.endpoint
        backoff = Backoff(patience)
        refused_since = patience.clock()
        while True:
            answer = self._try(action, method, arguments, options)
            if not isinstance(answer, Failure):
                return answer
            if answer.status == UNAUTHORIZED:
                refused_seconds = patience.clock() - refused_since
                refused_too_long = refused_seconds > patience.refused_seconds
                if self.access.token_file is None or refused_too_long:
                    raise UserError(
                        f"{endpoint} refuses the token ({answer.message}); {self._token_cure()}"
                    )
            elif creates and answer.status != TOO_MANY_REQUESTS:
                # The API has no idempotency key: a repeated call could create a second object. A
                # call that was too many was not carried out.
                raise Lost(f"{action}: {answer.message}")
            else:
                refused_since = patience.clock()
            if not backoff.wait():
                raise Unreachable(
                    f"{endpoint} could not {action} for {patience.give_up_seconds:.0f} s: "
                    f"{answer.message}; check the address, the network and that Kubeflow Pipelines "
                    "runs"
                )

    def _token_cure(self) -> str:
        namespace = self.access.namespace or "ratchet"
        # The server takes tokens for its own audience alone: one that pods have by default is
        # answered with 401. The account is that of manifests/components/profile.
        make = f"`kubectl -n {namespace} create token ratchet-ci --audience {TOKEN_AUDIENCE}`"
        if self.access.token_file is not None:
            return f"put a valid one into {self.access.token_file}: {make}"
        return (
            "set KF_PIPELINES_TOKEN, or pass --token-file with a file that is renewed: "
            f"{make} makes one"
        )

    def _try(
        self, action: str, method: Method, arguments: tuple[object, ...], options: Json
    ) -> bytes | Failure:
        """Return the body of one answer, or a failure that may pass. Raises as `call` does."""
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        limits = (self.patience.connect_seconds, self.patience.answer_seconds)
        try:
            # The raw body: the client's models fail on values that are newer than they are.
            response = method(
                *arguments, **options, _preload_content=False, _request_timeout=limits
            )
            # Reads the body: the connection may break within it.
            return bytes(response.data)
        except ApiException as error:
            status = int(error.status or NO_ANSWER)
            # A certificate that is not trusted does not become trusted by waiting.
            is_untrusted = "CERTIFICATE" in str(error.reason).upper()
            is_broken = status == NO_ANSWER and not is_untrusted
            if is_broken or status in (*PASSING, UNAUTHORIZED):
                kind = status or "TLS"
                return Failure(status, f"{kind} {_message(error)}")
            raise self._refusal(action, status, _message(error)) from None
        except (HTTPError, OSError) as error:
            reason = one_line(str(error), MAX_MESSAGE_CHARACTERS)
            return Failure(NO_ANSWER, f"{type(error).__name__}: {reason}")

    def _refusal(self, action: str, status: int, message: str) -> Exception:
        endpoint = self.access.endpoint
        scope = (
            f" in namespace {self.access.namespace}" if self.access.namespace else ""
        )
        match status:
            case 409:
                return Taken(message)
            # The server answers 404 both for a missing object, in JSON, and for a path it does not
            # know: in plain words, that of the UI with a page.
            case 404 if (
                not message or "page not found" in message or "Cannot GET" in message
            ):
                return NoSuchPath(
                    f"{endpoint} is not the API of Kubeflow Pipelines v2 (404); correct --endpoint"
                )
            case 404:
                return Gone(message)
            case 403:
                return UserError(
                    f"no permission to {action}{scope}: {message}; ask for the role kubeflow-edit "
                    "there (manifests/components/profile binds ratchet-ci to it), or correct "
                    "--namespace"
                )
            case 0:
                return UserError(
                    f"no trusted TLS connection to {endpoint}: {message}; set "
                    "KF_PIPELINES_SSL_CA_CERTS to its CA"
                )
        return UserError(f"{endpoint} refuses to {action}{scope}: {message}")


def parse_json(text: str | bytes) -> object:
    """Return the value of a JSON text; None for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Brackets by others may be nested without end.
        return None


def _message(error: ApiException) -> str:
    """Return the server's own words about an error, fit for one line of a terminal."""
    body = error.body or b""
    text = str(body)
    if isinstance(body, bytes):
        text = body.decode("utf-8", errors="replace")
    document = parse_json(text)
    message = None
    if isinstance(document, dict):
        message = document.get("message") or document.get("error")
    return one_line(str(message or text or error.reason or ""), MAX_MESSAGE_CHARACTERS)
