"""What `doctor` tries of an object store, on the server itself and without the care that `S3Store`
takes."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.cli.doctor.findings import Finding, guarded
from components.errors import Missing, UserError
from components.storage import keys
from components.storage.s3 import S3Store
from components.storage.s3_errors import status_of
from components.storage.store import open_store, probe

Json = dict[str, Any]
WRITERS = 16
PART_BYTES = 5 * 1024 * 1024
"""The smallest that S3 takes for a part which is not the last."""
MAX_SKEW_SECONDS = 300.0
"""S3 refuses requests at 15 minutes; nodes may be off the other way."""
USE_ANOTHER = "use a server with conditional writes and checksums (AWS S3, SeaweedFS 4, MinIO, Ceph from Squid on)"


class Inspected(S3Store):
    """A store whose server is spoken to directly."""

    @property
    def without_checksums(self) -> bool:
        """The user said that the server knows none."""
        return not self._send_checksum

    def ask(self, operation: str, name: str, **arguments: Any) -> tuple[int, Json]:
        """HTTP status and answer of one request about one object beside the probe. A refusal is an
        answer; what keeps the server from answering is an error as in `S3Store`."""
        with self._errors(name):
            client = self._client()
            try:
                answer = getattr(client, operation)(
                    Bucket=self._bucket, Key=self._name(_key(name)), **arguments
                )
            except client.exceptions.ClientError as error:
                return status_of(error), error.response
            return int(answer["ResponseMetadata"]["HTTPStatusCode"]), answer


def _key(name: str) -> str:
    """Beside the one object by which a store is tried out."""
    return f"{keys.probe_key().rpartition('/')[0]}/{name}"


def store_checks(
    uri: str, environment: Mapping[str, str], clock: Callable[[], float]
) -> Iterator[Finding]:
    """Try a store out; after the first failure that all others would share, the rest is left out."""
    root = keys.canonical_root(uri)
    if root.startswith("file://"):
        probe(open_store(root, environment))
        yield Finding(
            "store",
            "warning",
            f"{root} can be written and keeps what was first",
            "pods share no disk: use s3://bucket/prefix",
        )
        return
    endpoint = _endpoint(environment)
    if endpoint:
        reached = guarded("store endpoint", lambda: _reach(endpoint))
        yield reached
        if reached.status == "failed":
            return
    store = Inspected(root, environment, part_bytes=PART_BYTES)
    access = guarded("store credentials", lambda: _may_read(store))
    yield access
    if access.status == "failed":
        return
    trial = uuid.uuid4().hex
    try:
        written = guarded("store write", lambda: _may_write(store))
        yield written
        if written.status == "failed":
            return
        yield guarded("store write-once", lambda: _write_once(store, trial))
        yield guarded("store checksums", lambda: _checksums(store, trial))
        yield guarded("store multipart", lambda: _multipart(store, trial))
        yield guarded("store clock", lambda: _clock(store, clock))
    finally:
        removed = guarded("store delete", lambda: _clear(store, trial))
    yield removed


def _endpoint(environment: Mapping[str, str]) -> str:
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


def _reach(endpoint: str) -> Finding:
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=5):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"{parts.scheme}://{parts.hostname} cannot be reached ({error}); check AWS_ENDPOINT_URL_S3, the network "
            "policies and that the server runs"
        ) from None
    return Finding("store endpoint", "ok", f"{parts.scheme}://{parts.hostname}:{port} answers")


def _may_read(store: Inspected) -> Finding:
    next(store.list("probe/"), None)
    return Finding("store credentials", "ok", f"{store.root} can be listed")


def _may_write(store: Inspected) -> Finding:
    """Written and read back; it stays, for it is the object that `run` tries stores with."""
    key, content = keys.probe_key(), b'{"purpose":"shows that this store can be used"}'
    store.put_bytes(key, content)
    if store.get_bytes(key) != content:
        raise UserError(
            f"{store.root}: an object just written reads back differently; {USE_ANOTHER}"
        )
    return Finding("store write", "ok", "an object was written and read back")


def _write_once(store: Inspected, trial: str) -> Finding:
    """Sixteen writers at once, each with bytes of its own: exactly one may win, and its bytes are
    those that stay."""
    together = threading.Barrier(WRITERS)

    def write(number: int) -> int:
        together.wait()
        return store.ask("put_object", f"{trial}-once", Body=b"%d" % number, IfNoneMatch="*")[0]

    with ThreadPoolExecutor(WRITERS) as pool:
        statuses = list(pool.map(write, range(WRITERS)))
    winners = [number for number, status in enumerate(statuses) if status < 300]
    if len(winners) != 1:
        found = f"{len(winners)} of {WRITERS} writers of one object at once were let in (If-None-Match is not honoured)"
        cure = f"results could change after others were built on them; {USE_ANOTHER}"
        return Finding("store write-once", "failed", found, cure)
    kept = store.get_bytes(_key(f"{trial}-once"))
    if kept != b"%d" % winners[0]:
        return Finding(
            "store write-once", "failed", "the bytes that stay are not the winner's", USE_ANOTHER
        )
    return Finding(
        "store write-once", "ok", f"one of {WRITERS} writers at once won, and its bytes stay"
    )


def _checksums(store: Inspected, trial: str) -> Finding:
    if store.without_checksums:
        return Finding(
            "store checksums",
            "skipped",
            "switched off by RATCHET_S3_REQUEST_CHECKSUM=when_required",
        )
    wrong = base64.b64encode(hashlib.sha256(b"other bytes").digest()).decode()
    status, _ = store.ask("put_object", f"{trial}-checksum", Body=b"bytes", ChecksumSHA256=wrong)
    if status < 300:
        return Finding(
            "store checksums",
            "failed",
            "bytes with a wrong SHA-256 were stored",
            f"damage on the way would be found only by the next reader; {USE_ANOTHER}",
        )
    if status == 501:
        return Finding(
            "store checksums",
            "failed",
            "the server knows no SHA-256 checksums (501)",
            "set RATCHET_S3_REQUEST_CHECKSUM=when_required in ConfigMap ratchet-store",
        )
    return Finding("store checksums", "ok", f"bytes with a wrong SHA-256 were refused ({status})")


def _multipart(store: Inspected, trial: str) -> Finding:
    data = hashlib.sha256(trial.encode()).digest() * (PART_BYTES // 32) + b"the second part"
    with tempfile.TemporaryDirectory(prefix="ratchet-doctor-") as folder:
        sent, back = Path(folder) / "sent", Path(folder) / "back"
        sent.write_bytes(data)
        store.put_file(_key(f"{trial}-parts"), sent, hashlib.sha256(data).hexdigest())
        store.get_file(_key(f"{trial}-parts"), back)
        if back.read_bytes() != data:
            raise UserError(
                f"{store.root}: an upload of two parts reads back differently; {USE_ANOTHER}"
            )
    return Finding("store multipart", "ok", "an upload of two parts reads back as it was")


def _clock(store: Inspected, clock: Callable[[], float]) -> Finding:
    _, answer = store.ask("head_object", keys.probe_key().rpartition("/")[2])
    stamp = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        there = email.utils.parsedate_to_datetime(stamp).timestamp()
    except ValueError:
        return Finding("store clock", "skipped", "the server does not say its time")
    skew = clock() - there
    if abs(skew) > MAX_SKEW_SECONDS:
        found = f"this machine's clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
        return Finding(
            "store clock", "failed", found, "set both by NTP: at 15 minutes requests are refused"
        )
    return Finding("store clock", "ok", f"{abs(skew):.0f} s apart")


def _clear(store: Inspected, trial: str) -> Finding:
    """Delete what was tried; steps delete their own old checkpoints alike."""
    for name in ("once", "checksum", "parts"):
        with suppress(Missing):
            store.delete(_key(f"{trial}-{name}"))
    left = [key for key in store.list("probe/") if trial in key]
    if left:
        return Finding(
            "store delete",
            "warning",
            f"{left[0]} stays though it was deleted",
            "allow s3:DeleteObject below the prefix",
        )
    return Finding("store delete", "ok", "what was tried is gone")
