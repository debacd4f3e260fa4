"""A webhook on 127.0.0.1 that keeps what it is told, and fails in the ways that webhooks fail."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Literal

from tests.doubles.served import Served

SECRET_PATH = "/services/T0/B0/a-secret-that-no-log-may-show"
Manner = Literal["ok", "refuses", "redirects", "hangs", "dribbles", "hangs up"]


class Webhook(Served):
    """The server; closed at the end of a `with` block."""

    def __init__(self, manner: Manner = "ok") -> None:
        self.manner = manner
        self.told: list[dict[str, Any]] = []
        """Documents, in order."""
        self.paths: list[str] = []
        self.content_types: list[str] = []
        self._is_over = threading.Event()

    @property
    def url(self) -> str:
        """The secret."""
        return f"{self.endpoint}{SECRET_PATH}"

    @property
    def texts(self) -> list[str]:
        """The sentences that it was told."""
        return [document["text"] for document in self.told]

    def __enter__(self) -> Webhook:
        self.serve(self._handler())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.told.append(json.loads(body))
                webhook.paths.append(self.path)
                webhook.content_types.append(self.headers["Content-Type"])
                match webhook.manner:
                    case "ok":
                        self._answer(200)
                    case "refuses":
                        self._answer(404)
                    case "redirects":
                        self._answer(302)
                    case "hangs":
                        webhook._is_over.wait()
                    case "dribbles":
                        while not webhook._is_over.wait(0.02):
                            self.wfile.write(b"H")
                    case "hangs up":
                        self.connection.close()

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
