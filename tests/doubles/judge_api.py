"""A judge that speaks OpenAI's chat completions on 127.0.0.1, and grades by a function of the
test's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.doubles.served import Served


class JudgeApi(Served):
    """The server; close it when done. `reply` gets question and answer and gives the text of the
    reply."""

    def __init__(self, reply: Callable[[str, str], str]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        """Bodies, in order."""
        self.keys: list[str] = []
        """Authorization headers, in order."""
        self.failures: list[int] = []
        """Statuses that the next requests are answered with."""
        self.documents: dict[str, tuple[int, Any]] = {}
        """Answer that is graded → status and body of the response, in the place of a reply."""
        self.lock = threading.Lock()
        self.serve(self._handler())

    @property
    def url(self) -> str:
        """What RATCHET_JUDGE_URL is set to."""
        return f"{self.endpoint}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with api.lock:
                    api.requests.append(body)
                    api.keys.append(self.headers.get("Authorization", ""))
                    failure = api.failures.pop(0) if api.failures else 0
                if self.path != "/v1/chat/completions" or failure:
                    self._send(
                        failure or 404, {"error": {"message": "refused on purpose"}}
                    )
                    return
                material = json.loads(body["messages"][-1]["content"])
                if material["answer"] in api.documents:
                    self._send(*api.documents[material["answer"]])
                    return
                text = api.reply(material["question"], material["answer"])
                message = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
                about = {
                    "id": "grade",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                }
                self._send(200, {**about, "choices": [message]})

            def _send(self, status: int, document: Any) -> None:
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                # Without it a client waits for half a second and more before it asks again.
                self.send_header("retry-after-ms", "5")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        return Handler
