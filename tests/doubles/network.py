"""What a network and other people's servers do to an S3 client: a meddling proxy, and a server of
poor manners."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.doubles.served import Served

Meddle = Callable[[bytes], bytes | None]
"""Gets bytes on their way and returns what arrives of them; None breaks the connection."""


def unchanged(data: bytes) -> bytes:
    return data


class Answering(BaseHTTPRequestHandler):
    """A quiet handler that answers with JSON, or with bytes as they are."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, status: int, body: dict[str, Any] | bytes, **headers: str) -> None:
        """Send a whole answer; `Retry_After` names the header Retry-After."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        # The answer to a HEAD has the headers alone.
        if self.command != "HEAD":
            self.wfile.write(data)

    def sent_bytes(self) -> bytes:
        """Return the body of the request; empty without one."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def sent_json(self) -> Any:
        """Return the document that was sent; an empty object without one."""
        return json.loads(self.sent_bytes() or b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Proxy:
    """A TCP proxy in front of a server, on a free port of 127.0.0.1."""

    def __init__(self, endpoint: str) -> None:
        self._server = (urlsplit(endpoint).hostname, urlsplit(endpoint).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.upwards: Meddle = unchanged
        self.downwards: Meddle = unchanged
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for source, target, direction in (
                    (client, server, "upwards"),
                    (server, client, "downwards"),
                ):
                    threading.Thread(
                        target=self._pump, args=(source, target, direction), daemon=True
                    ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, direction: str
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                passed = getattr(self, direction)(data)
                if passed is None:
                    break
                target.sendall(passed)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class RudeServer(Served):
    """An S3 server in memory without conditional writes, checksums or credentials, that can be told
    to fail."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures: list[tuple[int, str]] = []
        """Status and code of the answers to the next PUTs."""
        self.down: tuple[int, str] | None = None
        """Status and code of every answer."""
        self.asked: list[str] = []
        """Methods of all requests so far."""
        self.serve(self._handler())

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                server.asked.append(self.command)
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if server.failures or server.down:
                    self._fail(
                        *(
                            server.failures.pop(0)
                            if server.failures
                            else server.down or (500, "")
                        )
                    )
                    return
                server.objects[self.path] = data
                self._answer(200, b"", ETag=f'"{hashlib.md5(data).hexdigest()}"')

            def do_GET(self) -> None:
                server.asked.append(self.command)
                if server.down:
                    self._fail(*server.down)
                elif "list-type" in self.path:
                    self._answer(
                        200,
                        b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>",
                    )
                elif self.path in server.objects:
                    self._answer(200, server.objects[self.path])
                else:
                    self._fail(404, "NoSuchKey")

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

            def _fail(self, status: int, code: str) -> None:
                self._answer(
                    status,
                    f"<Error><Code>{code}</Code><Message>said\nso</Message></Error>".encode(),
                )

            def _answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler
