"""A proxy in front of a real S3 server that does one kind of harm to some of the requests.

It understands requests and answers (unlike `network.Proxy`, which sees bytes), so a fault hits one
operation and a count says how often it did.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.doubles.served import Served

FOR_EVER = 1_000_000
KINDS = (
    "refused",
    "reset",
    "lost_answer",
    "silent",
    "trickle",
    "truncated",
    "flipped",
    "not_found",
    "slow_down",
    "internal_error",
    "throttled",
    "garbled",
)
"""Connection closed before the request is read, or reset after it; the request done and its answer
lost; no answer; an answer byte by byte; an answer that ends early; another byte in the request or,
without one, in the answer; the answers 404, 503, 500, 429; and bytes that are no HTTP."""
_STATUS = {
    "not_found": (404, "NoSuchKey"),
    "slow_down": (503, "SlowDown"),
    "internal_error": (500, "InternalError"),
    "throttled": (429, "TooManyRequests"),
}
_HOP = {"connection", "transfer-encoding", "keep-alive"}
TRICKLE_SECONDS = 0.05
SILENT_SECONDS = 8.0


@dataclass
class Answer:
    """An answer of the real server."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class FaultyServer(Served):
    """Passes requests on to a server. `hits` counts the requests that were harmed."""

    endpoint_behind: str
    kind: str = ""
    times: int = 0
    """Requests that are still to be harmed."""
    concerns: Callable[[str, str], bool] = lambda method, path: True
    """Whether a request (method, path with query) is one to harm."""
    hits: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.serve(_handler(self))

    def harm(self, kind: str, times: int, concerns: Callable[[str, str], bool]) -> None:
        """From now on harm that many of the requests that this concerns."""
        with self._lock:
            self.kind, self.times, self.concerns, self.hits = kind, times, concerns, 0

    def next_fault(self, method: str, path: str) -> str:
        """Return the kind of harm for a request; empty for none."""
        with self._lock:
            if not self.times or not self.concerns(method, path):
                return ""
            self.times -= 1
            self.hits += 1
            return self.kind


def _with_flipped_bit(body: bytes) -> bytes:
    middle = len(body) // 2
    return (
        body[:middle]
        + bytes(byte ^ 1 for byte in body[middle : middle + 1])
        + body[middle + 1 :]
    )


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    behind = urlsplit(server.endpoint_behind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            fault = server.next_fault(self.command, self.path)
            if fault == "refused":
                self.close_connection = True
                return
            body = self.read_body()
            match fault:
                case "reset":
                    self.close_connection = True
                case "lost_answer":
                    self.pass_on(body)
                    self.close_connection = True
                case "silent":
                    time.sleep(SILENT_SECONDS)
                    self.close_connection = True
                case "garbled":
                    self.wfile.write(b"\x00\xff no answer of any kind \r\n\r\n")
                    self.close_connection = True
                case "not_found" | "slow_down" | "internal_error" | "throttled":
                    status, code = _STATUS[fault]
                    error = f"<Error><Code>{code}</Code><Message>harm</Message></Error>"
                    self.answer(Answer(status, [], error.encode()))
                case "flipped" if body:
                    self.answer(self.pass_on(_with_flipped_bit(body)))
                case _:
                    self.answer(self.pass_on(body), fault)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        def read_body(self) -> bytes:
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def handle_expect_100(self) -> bool:
            return True  # `read_body` answers it, so that a fault may come first

        def pass_on(self, body: bytes) -> Answer:
            connection = HTTPConnection(behind.hostname or "", behind.port, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _HOP
            }
            headers.pop("Expect", None)
            headers["Content-Length"] = str(len(body))
            # The signature covers the name that the client gave.
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            passed = Answer(answer.status, answer.getheaders(), answer.read())
            connection.close()
            return passed

        def answer(self, answer: Answer, fault: str = "") -> None:
            self.send_response_only(answer.status)
            has_length = False
            for name, value in answer.headers:
                if name.lower() in _HOP:
                    continue
                has_length = has_length or name.lower() == "content-length"
                self.send_header(name, value)
            if not has_length:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            body = b"" if self.command == "HEAD" else answer.body
            if fault == "flipped":
                body = _with_flipped_bit(body)
            if fault == "truncated":
                body = body[: len(body) // 2]
                self.close_connection = True
            if fault != "trickle":
                self.wfile.write(body)
                return
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(TRICKLE_SECONDS)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True  # the client gave up

    return Handler
