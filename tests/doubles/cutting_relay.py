"""A relay before a JSON API that breaks off at one request, before or after its effect."""

from __future__ import annotations

import http.client
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import urlsplit

from tests.doubles.network import Answering
from tests.doubles.served import Served

Moment = Literal["before its effect", "after its effect"]


class CuttingRelay(Served):
    """Lets everything pass until it is told where to break off."""

    def __init__(self, endpoint: str) -> None:
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request, in order."""
        self.authorizations: list[str] = []
        self.cut: tuple[int, Moment] | None = None
        """Number of the first request, from 0, that gets no answer, and whether it has an effect.
        Those after it have neither, as after a crash."""
        self._server = urlsplit(endpoint)
        self.serve(self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class Handler(Answering):
            def _relay(self) -> None:
                body = self.sent_bytes()
                number = len(relay.requests)
                relay.requests.append((self.command, urlsplit(self.path).path))
                relay.authorizations.append(self.headers.get("Authorization", ""))
                limit, moment = relay.cut or (number + 1, "before its effect")
                if number > limit or (
                    number == limit and moment == "before its effect"
                ):
                    self.close_connection = True
                    return
                status, answer = relay._ask(
                    self.command, self.path, body, dict(self.headers)
                )
                if number == limit:
                    self.close_connection = True
                    return
                self.answer(status, answer)

            do_GET = do_POST = do_PATCH = _relay

        return Handler

    def _ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(
            self._server.hostname or "", self._server.port
        )
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
