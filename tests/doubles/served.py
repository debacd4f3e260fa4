"""What the stand-ins of HTTP servers share: they serve in a thread, on a free port of 127.0.0.1."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """A server that answers by a handler from `serve` to `close`."""

    def serve(self, handler: type[BaseHTTPRequestHandler]) -> None:
        """Begin to answer; state that the handler reads must be there."""
        # Head and body of an answer are two writes: Nagle's algorithm keeps the second one back until
        # the first is acknowledged, which on a connection that stays open takes 40 ms.
        handler.disable_nagle_algorithm = True
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        # How long `close` waits, which hundreds of tests do.
        poll = {"poll_interval": 0.002}
        threading.Thread(
            target=self._http.serve_forever, kwargs=poll, daemon=True
        ).start()

    @property
    def host(self) -> str:
        """Its address and port."""
        return f"127.0.0.1:{self._http.server_port}"

    @property
    def endpoint(self) -> str:
        """URL of its root."""
        return f"http://{self.host}"

    def close(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()
