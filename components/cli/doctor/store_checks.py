"""Trials of an object store, on the server itself and without the care that `S3Store` takes.

What the store promises rests on the server: an object is written once, wrong bytes are refused,
large objects arrive whole. Servers exist that answer 200 and do none of it.
"""

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
from urllib.parse import urlsplit

from components.cli.doctor.findings import Finding, guarded
from components.cli.json_documents import Json
from components.errors import Missing, UserError
from components.storage import keys
from components.storage.s3 import S3Store
from components.storage.s3_client import Client
from components.storage.s3_errors import status_of
from components.storage.store import open_store, probe

NUM_WRITERS = 16

# The smallest that S3 takes for a part which is not the last.
PART_BYTES = 5 * 1024 * 1024

# S3 refuses requests at 15 minutes; nodes may be off the other way.
MAX_SKEW_SECONDS = 300.0
USE_ANOTHER = (
    "use a server with conditional writes and checksums (AWS S3, SeaweedFS 4, MinIO, Ceph from "
    "Squid on)"
)


class Inspected(S3Store):
    """A store whose server is spoken to directly."""

    @property
    def without_checksums(self) -> bool:
        """The user said that the server knows none."""
        return not self._send_checksum

    def ask(self, operation: str, name: str, **arguments: object) -> tuple[int, Json]:
        """Return HTTP status and answer of one request about one object beside the probe.

        A refusal is an answer; what keeps the server from answering is an error as in `S3Store`.
        """
        target = self._target(_key(name))

        def request(client: Client) -> tuple[int, Json]:
            try:
                answer = getattr(client, operation)(**target, **arguments)
            except client.exceptions.ClientError as error:
                return status_of(error), error.response
            return int(answer["ResponseMetadata"]["HTTPStatusCode"]), answer

        return self._call(operation, name, request)


def _key(name: str) -> str:
    """Return the key of an object beside the one by which a store is tried out."""
    folder, _, _ = keys.probe_key().rpartition("/")
    return f"{folder}/{name}"


def store_checks(
    uri: str, environment: Mapping[str, str], clock: Callable[[], float]
) -> Iterator[Finding]:
    """Try a store out.

    After the first failure that all others would share, the remaining checks are left out.

    Args:
        uri: The store.
        environment: Endpoint and credentials.
        clock: Seconds since the epoch, to compare with the server's.
    """
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
        connection = guarded("store endpoint", lambda: _check_connection(endpoint))
        yield connection
        if connection.status == "failed":
            return
    store = Inspected(root, environment, part_bytes=PART_BYTES)
    reading = guarded("store credentials", lambda: _check_reading(store))
    yield reading
    if reading.status == "failed":
        return
    # Names of its own: two doctors may look at one store at once.
    trial = uuid.uuid4().hex
    try:
        writing = guarded("store write", lambda: _check_writing(store))
        yield writing
        if writing.status == "failed":
            return
        yield guarded("store write-once", lambda: _check_write_once(store, trial))
        yield guarded("store checksums", lambda: _check_checksums(store, trial))
        yield guarded("store multipart", lambda: _check_multipart(store, trial))
        yield guarded("store clock", lambda: _check_clock(store, clock))
    finally:
        deletion = guarded("store delete", lambda: _check_deletion(store, trial))
    yield deletion


def _endpoint(environment: Mapping[str, str]) -> str:
    return (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or ""
    )


def _check_connection(endpoint: str) -> Finding:
    parts = urlsplit(endpoint)
    try:
        # A bare connection first: it fails in seconds, where the S3 client would go on trying.
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=5):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"{parts.scheme}://{parts.hostname} cannot be reached ({error}); check "
            "AWS_ENDPOINT_URL_S3, the network policies and that the server runs"
        ) from None
    address = f"{parts.scheme}://{parts.hostname}:{port}"
    return Finding("store endpoint", "ok", f"{address} answers")


def _check_reading(store: Inspected) -> Finding:
    next(store.list("probe/"), None)
    return Finding("store credentials", "ok", f"{store.root} can be listed")


def _check_writing(store: Inspected) -> Finding:
    # The object stays: it is the one that `run` tries stores with.
    key = keys.probe_key()
    content = b'{"purpose":"shows that this store can be used"}'
    store.put_bytes(key, content)
    if store.get_bytes(key) != content:
        raise UserError(
            f"{store.root}: an object just written reads back differently; {USE_ANOTHER}"
        )
    return Finding("store write", "ok", "an object was written and read back")


def _check_write_once(store: Inspected, trial: str) -> Finding:
    """Let writers race for one object: exactly one may win, and its bytes must stay."""
    check = "store write-once"
    name = f"{trial}-once"
    # Servers that look before they write honour If-None-Match for one writer after the other, and
    # let in several at once.
    start_together = threading.Barrier(NUM_WRITERS)

    def write(writer: int) -> int:
        start_together.wait()
        status, _ = store.ask("put_object", name, Body=b"%d" % writer, IfNoneMatch="*")
        return status

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        statuses = list(pool.map(write, range(NUM_WRITERS)))
    winners = [writer for writer, status in enumerate(statuses) if status < 300]
    if len(winners) != 1:
        problem = (
            f"{len(winners)} of {NUM_WRITERS} writers of one object at once were let in "
            "(If-None-Match is not honoured)"
        )
        cure = f"results could change after others were built on them; {USE_ANOTHER}"
        return Finding(check, "failed", problem, cure)
    if store.get_bytes(_key(name)) != b"%d" % winners[0]:
        return Finding(
            check, "failed", "the bytes that stay are not the winner's", USE_ANOTHER
        )
    observation = f"one of {NUM_WRITERS} writers at once won, and its bytes stay"
    return Finding(check, "ok", observation)


def _check_checksums(store: Inspected, trial: str) -> Finding:
    check = "store checksums"
    if store.without_checksums:
        observation = "switched off by RATCHET_S3_REQUEST_CHECKSUM=when_required"
        return Finding(check, "skipped", observation)
    wrong_digest = hashlib.sha256(b"other bytes").digest()
    checksum = base64.b64encode(wrong_digest).decode()
    status, _ = store.ask(
        "put_object", f"{trial}-checksum", Body=b"bytes", ChecksumSHA256=checksum
    )
    if status < 300:
        return Finding(
            check,
            "failed",
            "bytes with a wrong SHA-256 were stored",
            f"damage on the way would be found only by the next reader; {USE_ANOTHER}",
        )
    if status == 501:
        return Finding(
            check,
            "failed",
            "the server knows no SHA-256 checksums (501)",
            "set RATCHET_S3_REQUEST_CHECKSUM=when_required in ConfigMap ratchet-store",
        )
    return Finding(check, "ok", f"bytes with a wrong SHA-256 were refused ({status})")


def _check_multipart(store: Inspected, trial: str) -> Finding:
    # One byte more than a part would do; the bytes differ from trial to trial, so that an older
    # object of this name would be seen.
    first_part = hashlib.sha256(trial.encode()).digest() * (PART_BYTES // 32)
    data = first_part + b"the second part"
    with tempfile.TemporaryDirectory(prefix="ratchet-doctor-") as folder:
        upload = Path(folder) / "upload"
        download = Path(folder) / "download"
        upload.write_bytes(data)
        key = _key(f"{trial}-parts")
        store.put_file(key, upload, hashlib.sha256(data).hexdigest())
        store.get_file(key, download)
        if download.read_bytes() != data:
            raise UserError(
                f"{store.root}: an upload of two parts reads back differently; {USE_ANOTHER}"
            )
    return Finding(
        "store multipart", "ok", "an upload of two parts reads back as it was"
    )


def _check_clock(store: Inspected, clock: Callable[[], float]) -> Finding:
    _, _, probe_name = keys.probe_key().rpartition("/")
    _, answer = store.ask("head_object", probe_name)
    stamp = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        server_time = email.utils.parsedate_to_datetime(stamp).timestamp()
    except ValueError:
        return Finding("store clock", "skipped", "the server does not say its time")
    skew_seconds = clock() - server_time
    if abs(skew_seconds) <= MAX_SKEW_SECONDS:
        return Finding("store clock", "ok", f"{abs(skew_seconds):.0f} s apart")
    direction = "ahead of" if skew_seconds > 0 else "behind"
    problem = (
        f"this machine's clock is {abs(skew_seconds):,.0f} s {direction} the store's"
    )
    cure = "set both by NTP: at 15 minutes requests are refused"
    return Finding("store clock", "failed", problem, cure)


def _check_deletion(store: Inspected, trial: str) -> Finding:
    """Delete the objects of the trial, as `train` deletes its old checkpoints."""
    for name in ("once", "checksum", "parts"):
        with suppress(Missing):
            store.delete(_key(f"{trial}-{name}"))
    remaining_keys = [key for key in store.list("probe/") if trial in key]
    if remaining_keys:
        problem = f"{remaining_keys[0]} stays though it was deleted"
        cure = "allow s3:DeleteObject below the prefix"
        return Finding("store delete", "warning", problem, cure)
    return Finding("store delete", "ok", "what was tried is gone")
