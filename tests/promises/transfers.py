"""R1, to and from a bucket: a process that is killed in the middle of a transfer loses nothing.

A relay before a real S3 server ends the process (SIGKILL) at a numbered byte of what it sends or
receives. The same work, done again, ends with the receipt and the bytes of work that nobody
interrupted.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pydantic import RootModel

from components.runtime.attempts import Task
from components.runtime.context import Context, make_context
from components.runtime.receipts import Receipt, commit_once, fetch, read_receipt
from tests.conftest import S3Server
from tests.doubles.counting_proxy import CountingProxy, Direction
from tests.promises.counting import Case

KILLED = -signal.SIGKILL
FILE = "weights.bin"
NUM_BYTES = 20 * 1024 * 1024
"""Two parts of an upload."""
WEIGHTS = random.Random(7).randbytes(NUM_BYTES)


class Transfers:
    """Work over one bucket, with and without a relay that kills."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._numbers = itertools.count()
        self._proxy = CountingProxy(server.endpoint)
        first = self._place()
        self._receipt = commit(self._context(first))
        self._sent = self._proxy.counted("sent")
        self._proxy.count_anew()
        _fetch(self._context(self._place(first[0])), self._receipt.ref)
        self._received = self._proxy.counted("received")

    def close(self) -> None:
        """End the relay."""
        self._proxy.close()

    def cases(self, per_direction: int) -> Iterator[Case]:
        """Yield kills that are spread evenly over the bytes of an upload and of a download."""
        for part in range(per_direction):
            share = (2 * part + 1) / (2 * per_direction)
            sent = int(share * self._sent)
            yield Case(
                f"upload, byte {sent:,} of {self._sent:,}", partial(self._upload, sent)
            )
            received = int(share * self._received)
            yield Case(
                f"download, byte {received:,} of {self._received:,}",
                partial(self._download, received),
            )

    def _upload(self, num_bytes: int) -> str:
        place = self._place()
        if fault := self._killed(partial(_commit_at, *place), "sent", num_bytes):
            return fault
        again = commit(self._context(place))
        if again != self._receipt:
            return f"another receipt: {again.digest} instead of {self._receipt.digest}"
        return _difference(self._context(self._place(place[0])), again)

    def _download(self, num_bytes: int) -> str:
        uri, environment = self._place()
        commit(make_context(uri, {**environment, **self._server.environment}))
        place = self._place(uri)
        work = partial(_fetch_at, *place, self._receipt.ref)
        return self._killed(work, "received", num_bytes) or _difference(
            self._context(place), self._receipt
        )

    def _killed(
        self, work: Callable[[], object], direction: Direction, num_bytes: int
    ) -> str:
        """Do the work in a process that is killed at a byte; return what went wrong with that."""
        self._proxy.count_anew()
        process = multiprocessing.get_context("forkserver").Process(target=work)
        process.start()
        pid = process.pid
        assert pid is not None
        self._proxy.call_at(direction, num_bytes, lambda: os.kill(pid, signal.SIGKILL))
        process.join()
        return (
            ""
            if process.exitcode == KILLED
            else f"it ended with status {process.exitcode}"
        )

    def _place(self, uri: str = "") -> tuple[str, dict[str, str]]:
        """Return (store, environment) with a cache of its own; the store is new, or `uri`."""
        environment = {
            **self._server.environment,
            "AWS_ENDPOINT_URL_S3": self._proxy.endpoint,
            "RATCHET_CACHE": str(self._folder / f"cache-{next(self._numbers)}"),
        }
        return uri or self._server.new_uri(), environment

    def _context(self, place: tuple[str, dict[str, str]]) -> Context:
        return make_context(*place)


class _Summary(RootModel[dict[str, int]]):
    """What the work has to say."""


def commit(context: Context) -> Receipt:
    """Return the receipt of work that makes one large file."""

    def work(folder: Path) -> _Summary:
        (folder / FILE).write_bytes(WEIGHTS)
        return _Summary({"bytes": NUM_BYTES})

    task = Task(run_id="run-1", name="train-r1", round=1)
    return commit_once(
        context, task, "train", config={"steps": 2}, inputs={}, seed=1, work=work
    )


def _commit_at(uri: str, environment: Mapping[str, str]) -> None:
    commit(make_context(uri, environment))


def _fetch(context: Context, ref: str) -> Path:
    return fetch(context, read_receipt(context, ref), FILE)


def _fetch_at(uri: str, environment: Mapping[str, str], ref: str) -> None:
    _fetch(make_context(uri, environment), ref)


def _difference(context: Context, receipt: Receipt) -> str:
    """Return what is wrong with the file that a receipt names, as this cache and store have it."""
    if read_receipt(context, receipt.ref) != receipt:
        return "the stored receipt is another one"
    return "" if _fetch(context, receipt.ref).read_bytes() == WEIGHTS else "other bytes"


def cases_of(server: S3Server, per_direction: int) -> Iterator[Case]:
    """Yield all cases; they are carried out one at a time, while this goes on."""
    # On a disk: the relay and the server share the machine's memory with the tests beside this one.
    with tempfile.TemporaryDirectory(prefix="ratchet-transfers-") as name:
        transfers = Transfers(server, Path(name))
        try:
            yield from transfers.cases(per_direction)
        finally:
            transfers.close()
