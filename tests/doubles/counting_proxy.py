"""A relay before a server that counts the bytes each way, and calls back at one of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

Direction = Literal["sent", "received"]
CHUNK_BYTES = 64 * 1024


class CountingProxy:
    """Relays TCP on a free port of 127.0.0.1 to the server at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        self._server = (str(address.hostname), int(address.port or 80))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._counts: dict[Direction, int] = {"sent": 0, "received": 0}
        self._watched: tuple[Direction, int, Callable[[], object]] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """URL of the relay."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def count_anew(self) -> None:
        """Count from zero, and call nobody."""
        with self._lock:
            self._counts = {"sent": 0, "received": 0}
            self._watched = None

    def counted(self, direction: Direction) -> int:
        """Return the bytes that clients have sent or received."""
        return self._counts[direction]

    def call_at(self, direction: Direction, num_bytes: int, call: Callable[[], object]) -> None:
        """Call once, before byte `num_bytes` goes that way."""
        with self._lock:
            self._watched = (direction, num_bytes, call)

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for source, sink, direction in (
                    (client, server, "sent"),
                    (server, client, "received"),
                ):
                    threading.Thread(
                        target=self._relay, args=(source, sink, direction), daemon=True
                    ).start()

    def _relay(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                self._count(direction, len(chunk))
                sink.sendall(chunk)
        # The other way may still have an answer under way.
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _count(self, direction: Direction, num_bytes: int) -> None:
        with self._lock:
            self._counts[direction] += num_bytes
            if self._watched is None:
                return
            watched, limit, call = self._watched
            if watched != direction or self._counts[direction] < limit:
                return
            self._watched = None
        call()
