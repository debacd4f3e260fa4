"""An endpoint that speaks OpenAI's chat completions, in memory, that can be told to be slow, busy,
rude or garbled."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.doubles.served import Served

KEY = "sk-a-key-that-no-message-may-show"
MODEL = "teacher-1"
Fault = tuple[int, dict[str, Any] | bytes] | str
"""Status and body of an answer; or `slow` (answers too late), `broken` (ends halfway), `closed`
(says nothing)."""


def refusal(status: int, code: str, message: str) -> Fault:
    """An answer in OpenAI's form of errors."""
    return status, {
        "error": {"message": message, "type": "error", "param": None, "code": code}
    }


class OpenAiApi(Served):
    """The server; close it when done. It answers `<seed>!`, and cuts off every fifth seed."""

    def __init__(
        self, *, slow_seconds: float = 1.0, thinks_seconds: float = 0.0
    ) -> None:
        self.payloads: list[dict[str, Any]] = []
        """Bodies of all requests, in order."""
        self.faults: list[Fault] = []
        """What happens to the next requests."""
        self.always: Fault | None = None
        self.fault_of: Callable[[dict[str, Any]], Fault | None] = lambda payload: None
        """What happens to a request with this body."""
        self.answers_left: int | None = None
        """How many more requests it answers before it is busy; None: all."""
        self.counts_tokens = True
        self.most_at_once = 0
        """Requests that were under way at the same time."""
        self.slow_seconds, self.thinks_seconds = slow_seconds, thinks_seconds
        self._now = 0
        self._lock = threading.Lock()
        self.serve(self._handler())

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OPENAI_BASE_URL": f"{self.endpoint}/v1",
            "OPENAI_API_KEY": KEY,
        }

    def completion(self, payload: dict[str, Any]) -> dict[str, Any]:
        """What it says to one request: the same to the same."""
        seed = int(payload["seed"])
        cut = seed % 5 == 0
        digest = hashlib.sha256(
            json.dumps(payload, sort_keys=True).encode()
        ).hexdigest()
        name = digest[:12]
        done: dict[str, Any] = {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "created": 0,
            "model": payload["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "length" if cut else "stop",
                    "message": {"role": "assistant", "content": f" {seed}!\n"},
                }
            ],
        }
        if self.counts_tokens:
            done["usage"] = {
                "prompt_tokens": 3,
                "completion_tokens": 7,
                "total_tokens": 10,
            }
        return done

    def _taken(self, payload: dict[str, Any]) -> Fault | None:
        with self._lock:
            self.payloads.append(payload)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if self.answers_left is not None:
                self.answers_left -= 1
                if self.answers_left < 0:
                    return refusal(429, "rate_limit_exceeded", "slow down")
            if self.faults:
                return self.faults.pop(0)
            return self.fault_of(payload) or self.always

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                payload = json.loads(
                    self.rfile.read(int(self.headers["Content-Length"]))
                )
                fault = server._taken(payload)
                try:
                    time.sleep(server.thinks_seconds)
                    self._respond(payload, fault)
                except (BrokenPipeError, ConnectionResetError):
                    """The caller has gone."""
                finally:
                    with server._lock:
                        server._now -= 1

            def _respond(self, payload: dict[str, Any], fault: Fault | None) -> None:
                if isinstance(fault, tuple):
                    self._answer(*fault)
                elif fault == "closed":
                    self.close_connection = True
                elif fault == "broken":
                    self._answer(200, server.completion(payload), promised=4096)
                elif self.path != "/v1/chat/completions":
                    self._answer(404, b"<html>no such page</html>")
                elif self.headers.get("Authorization") != f"Bearer {KEY}":
                    self._answer(
                        *refusal(
                            401,
                            "invalid_api_key",
                            f"Incorrect key: {self.headers['Authorization']}",
                        )
                    )
                elif payload["model"] != MODEL:
                    self._answer(
                        *refusal(
                            404,
                            "model_not_found",
                            f"The model `{payload['model']}` does not exist",
                        )
                    )
                else:
                    if fault == "slow":
                        time.sleep(server.slow_seconds)
                    self._answer(200, server.completion(payload))

            def _answer(
                self, status: int, body: dict[str, Any] | bytes, *, promised: int = 0
            ) -> None:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header(
                    "Content-Type",
                    "text/html" if isinstance(body, bytes) else "application/json",
                )
                self.send_header("Content-Length", str(promised or len(content)))
                if status in (429, 500, 503) or b'"error"' in content:
                    self.send_header("retry-after-ms", "5")
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = bool(promised)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        return Handler
