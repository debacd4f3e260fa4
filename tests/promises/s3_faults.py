"""R2: faults of an S3 server are ridden out, or end within a bound in one line that names operation,
key, attempts and seconds. A wrong result is never taken for a right one."""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from components.errors import RatchetError, Transient
from components.storage.cache import download
from components.storage.s3 import S3Store
from components.storage.s3_calls import S3Patience
from tests.conftest import S3Server
from tests.doubles.s3_faults import FOR_EVER, KINDS, FaultyServer
from tests.promises.counting import Case

PART_BYTES = 5 << 20
# The server itself answers later than after a second where other tests keep the machine busy.
PATIENCE = S3Patience(
    tries=3, answer_seconds=5.0, call_seconds=25.0, second_look_seconds=0.05
)
BOUND_SECONDS = 240.0
"""Of the slowest case: three calls, each with two tries of `call_seconds`; and some to spare."""
TIMES = {"once": 1, "burst": 3, "for ever": FOR_EVER}
NAMED = re.compile(r"\[(\w+): (\d+) attempts? in [\d.]+ s\]$")


@dataclass(frozen=True)
class Setting:
    """What one case works with. Its name is in every key, and so in every request of its own."""

    name: str
    store: S3Store
    """Behind the server that does harm."""
    direct: S3Store
    """The same store without the harm."""
    folder: Path
    """For files of the case."""

    @property
    def key(self) -> str:
        """A small object that is there."""
        return f"steps/{self.name}/there.json"

    @property
    def new_key(self) -> str:
        """An object that is not there yet."""
        return f"steps/{self.name}/new.json"

    @property
    def large_key(self) -> str:
        """A large object that is there for a download."""
        return f"objects/{self.name}/there"


@dataclass(frozen=True)
class Operation:
    """One operation of a store, the requests that are harmed in it, and its right result."""

    name: str
    concerns: Callable[[str, str], bool]
    """Whether a request (method, path with query) is harmed."""
    carry_out: Callable[[Setting], object]
    is_right: Callable[[Setting, object], bool]


SMALL = b'{"true": "bytes"}'
LARGE = bytes(range(256)) * (6 << 12)
LARGE_DIGEST = hashlib.sha256(LARGE).hexdigest()


def _put_large(case: Setting) -> None:
    (case.folder / "payload").write_bytes(LARGE)
    case.store.put_file(case.new_key, case.folder / "payload", LARGE_DIGEST)


def _get_large(case: Setting) -> bytes:
    path = case.folder / "back"
    download(case.store, case.large_key, LARGE_DIGEST, len(LARGE), path)
    return path.read_bytes()


def _is_listing(method: str, path: str) -> bool:
    return "list-type" in path


def _is_reading(method: str, path: str) -> bool:
    return method == "GET" and not _is_listing(method, path)


OPERATIONS = (
    Operation(
        "write once",
        lambda method, _: method == "PUT",
        lambda case: case.store.put_bytes(case.new_key, SMALL, if_absent=True),
        lambda case, _: case.direct.get_bytes(case.new_key) == SMALL,
    ),
    Operation(
        "upload in parts",
        lambda method, _: method in ("PUT", "POST"),
        _put_large,
        lambda case, _: case.direct.get_bytes(case.new_key) == LARGE,
    ),
    Operation(
        "read",
        _is_reading,
        lambda case: case.store.get_bytes(case.key),
        lambda _, result: result == SMALL,
    ),
    Operation("download", _is_reading, _get_large, lambda _, result: result == LARGE),
    Operation(
        "size",
        lambda method, _: method == "HEAD",
        lambda case: case.store.size(case.key),
        lambda _, result: result == len(SMALL),
    ),
    Operation(
        "list",
        _is_listing,
        lambda case: list(case.store.list(f"steps/{case.name}/")),
        lambda case, result: result == [case.key],
    ),
    Operation(
        "delete",
        lambda method, _: method == "DELETE",
        lambda case: case.store.delete(case.key),
        lambda case, _: case.direct.size(case.key) is None,
    ),
)

NOT_TO_BE_TOLD = {("flipped", "list", how_often) for how_often in TIMES} | {
    ("not_found", "size", "burst"),
    ("not_found", "size", "for ever"),
}
"""No cases: a listing has no checksum, and nothing is decided by one; and a 404 each time is how a
server says that there is no such object."""


class Servers:
    """A store behind a harmful server for each thread: clients of boto3 take a second to make."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._mine = threading.local()
        self._uri = server.new_uri()
        self._all: list[FaultyServer] = []
        self.direct = S3Store(self._uri, server.environment, part_bytes=PART_BYTES)

    def of_this_thread(self) -> tuple[FaultyServer, S3Store]:
        """Return the harmful server and the store behind it."""
        if not hasattr(self._mine, "pair"):
            faulty = FaultyServer(self._server.endpoint)
            self._all.append(faulty)
            self._mine.pair = (faulty, self._connected(faulty.endpoint))
        pair: tuple[FaultyServer, S3Store] = self._mine.pair
        return pair

    def close(self) -> None:
        """End the harmful servers."""
        for faulty in self._all:
            faulty.close()

    def _connected(self, endpoint: str) -> S3Store:
        environment = {**self._server.environment, "AWS_ENDPOINT_URL_S3": endpoint}
        store = S3Store(
            self._uri, environment, part_bytes=PART_BYTES, patience=PATIENCE
        )
        for _ in range(5):
            with suppress(Transient):
                store.size("first/contact")
                break
        return store


def cases(servers: Servers) -> Iterator[Case]:
    """Yield 12 kinds × 7 operations × once, in a burst, for ever. They may run side by side."""
    number = 0
    # The cases that wait longest begin first: none of them is then waited for alone at the end.
    for kind in sorted(KINDS, key=lambda kind: kind not in ("trickle", "silent")):
        for operation in OPERATIONS:
            for how_often in TIMES:
                if (kind, operation.name, how_often) in NOT_TO_BE_TOLD:
                    continue
                number += 1
                check = partial(
                    _check, servers, f"case-{number}-end", kind, operation, how_often
                )
                yield Case(f"{kind}, {operation.name}, {how_often}", check)


def _check(
    servers: Servers, name: str, kind: str, operation: Operation, how_often: str
) -> str:
    faulty, store = servers.of_this_thread()
    with tempfile.TemporaryDirectory() as folder:
        case = Setting(name, store, servers.direct, Path(folder))
        case.direct.put_bytes(case.key, SMALL)
        if operation.name == "download":
            source = case.folder / "source"
            source.write_bytes(LARGE)
            case.direct.put_file(case.large_key, source, LARGE_DIGEST)
        # Requests of an earlier case that was given up may still be under way.
        faulty.harm(
            kind, TIMES[how_often], lambda m, p: name in p and operation.concerns(m, p)
        )
        began = time.monotonic()
        fault = _outcome(case, operation, how_often)
        seconds = time.monotonic() - began
        if not fault and not faulty.hits:
            fault = "no request was harmed"
        if seconds > BOUND_SECONDS:
            fault = f"{fault}; it took {seconds:.0f} s"
        return fault


def _outcome(case: Setting, operation: Operation, how_often: str) -> str:
    try:
        result = operation.carry_out(case)
    except RatchetError as error:
        said = str(error)
        if how_often == "once":
            return f"one fault was not ridden out: {said}"
        if (
            not NAMED.search(said)
            or f"{case.store.root}/" not in said
            or case.name not in said
        ):
            return f"the error does not say enough: {said}"
        return "" if "\n" not in said else f"more than a line: {said}"
    return (
        ""
        if operation.is_right(case, result)
        else f"a wrong result: {str(result)[:80]}"
    )
