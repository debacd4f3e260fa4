"""The store in a bucket: `s3://bucket/prefix`, over boto3.

boto3 is imported only when a bucket is first used.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from components.errors import Corrupt, Missing, RatchetError, Transient, UserError, one_line
from components.retry import pauses
from components.storage import keys
from components.storage.folder import changed_file, local_errors, new_file
from components.storage.s3_errors import s3_errors, shown_endpoint, status_of

PART_BYTES = 16 * 1024 * 1024
"""Larger files go in parts of this size, MAX_TRANSFERS at a time; S3 wants at least 5 MiB a part.
"""
MAX_PARTS = 10_000
MAX_TRANSFERS = 4
MAX_TRIES = 4
"""Tries of one request, with growing pauses (botocore's standard retry mode)."""
READ_TRIES = 2
"""Tries of reading an answer that broke off, each with the request's own MAX_TRIES."""

CONFLICT = 409
PRECONDITION_FAILED = 412

T = TypeVar("T")
Client = Any
"""A boto3 S3 client or session; boto3 makes its methods at run time and has no types."""


class S3Store:
    """A `Store` in a bucket; that protocol states the contract.

    Needs s3:ListBucket, s3:GetObject, s3:PutObject and s3:AbortMultipartUpload below the prefix.
    Threads may share it. The bucket is looked up once, before the first use, because some servers
    make a bucket for whoever writes to it.

    Write-once rests on `If-None-Match: *`. For a server without conditional writes, which `probe`
    refuses, it also looks first, and reads back and compares: of writers one after the other the
    first wins; only writers within the same few milliseconds may both believe it, which is harmless
    for equal bytes (receipts are deterministic).

    An upload that is killed leaves parts that cost space: give the bucket a rule
    AbortIncompleteMultipartUpload.
    """

    def __init__(
        self, root: str, environment: Mapping[str, str], *, part_bytes: int = PART_BYTES
    ) -> None:
        """`root` is a canonical `s3://bucket/prefix` URI; `environment` as for `open_store`."""
        self.root = root
        self._bucket, _, prefix = root.removeprefix("s3://").partition("/")
        self._base = f"{prefix}/" if prefix else ""
        self._environment = environment
        self._part_bytes = part_bytes
        request_checksum = _switch(environment, "RATCHET_S3_REQUEST_CHECKSUM")
        self._send_checksum = request_checksum == "when_supported"
        # Looked at now, so that a wrong value shows before the work and not at the first read.
        _switch(environment, "RATCHET_S3_RESPONSE_CHECKSUM")
        self._lock = threading.Lock()
        self._connected: Client = None

    def put_file(self, key: str, path: Path, sha256: str, *, give: bool = False) -> None:
        """Upload a file, in parallel parts if it is large, every part with its SHA-256."""
        size = path.stat().st_size
        keys.relative_path(key)
        is_stored = key.endswith(sha256) and self.size(key) == size
        if not is_stored and size > self._part_bytes:
            self._put_parts(key, path, size, sha256)
        elif not is_stored:
            self._put_whole(key, path, sha256)
        if give:
            path.unlink()

    def _put_whole(self, key: str, path: Path, sha256: str) -> None:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise changed_file(path, sha256, digest)
        with self._errors(key):
            self._put(key, data)

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store a small document; write-once as the class says.

        If the answer to a write was lost and the write repeated, the result is False although the
        stored bytes are the caller's own.
        """
        keys.relative_path(key)
        if not if_absent:
            with self._errors(key):
                self._put(key, data)
            return True
        # Safety may not rest on the condition alone: of 16 writers at once rclone and s3rver let
        # all 16 win. So it also looks first, and reads back.
        if self.size(key) is not None:
            return False
        return self._put_if_absent(key, data) and self.get_bytes(key) == data

    def get_bytes(self, key: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Return the whole object, with the server's checksum verified where it sends one."""
        return self._read(key, max_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Download to the new file `path`, in parallel ranges if it is large."""
        size = self.size(key)
        if size is None:
            raise Missing(f"{self.root}/{key} does not exist")
        with local_errors(path, size), new_file(path) as file:

            def receive(index: int) -> None:
                start = index * self._part_bytes
                length = min(self._part_bytes, size - start)
                data = self._read(key, length, f"bytes={start}-{start + length - 1}")
                _write_at(file, data, start)

            _in_parallel(receive, _ceil_division(size, self._part_bytes))

    def size(self, key: str) -> int | None:
        """Return the size in bytes, or None if there is no such object."""
        head = self._head(key)
        return None if head is None else int(head["ContentLength"])

    def version(self, key: str) -> str | None:
        """Return the object's ETag, or None if there is no object."""
        head = self._head(key)
        return None if head is None else str(head["ETag"])

    def _head(self, key: str) -> Mapping[str, Any] | None:
        with self._errors(key):
            client = self._client()
            try:
                head: Mapping[str, Any] = client.head_object(
                    Bucket=self._bucket, Key=self._name(key)
                )
                return head
            except client.exceptions.ClientError as error:
                if status_of(error) == 404:
                    return None
                raise

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix` (empty, or ending in `/`), in order."""
        base = self._base + keys.folder_prefix(prefix)
        listed: list[str] = []
        with self._errors(prefix):
            paginator = self._client().get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self._bucket, Prefix=base):
                objects = page.get("Contents", ())
                listed += [item["Key"].removeprefix(self._base) for item in objects]
        # A name that ends in a slash is a console's marker of an empty folder.
        objects_only = [key for key in listed if not key.endswith("/")]
        # Not every server lists in order.
        return iter(sorted(objects_only))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._errors(key):
            self._client().delete_object(Bucket=self._bucket, Key=self._name(key))

    def enforces_write_once(self, key: str) -> bool:
        """Return True if the server answers a second conditional write of `key` with 412.

        The same bytes are sent, so nothing changes where the server ignores the condition.
        """
        return not self._put_if_absent(key, self.get_bytes(key))

    def _name(self, key: str) -> str:
        return self._base + keys.foreign_path(key)

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        target = {"Bucket": self._bucket, "Key": self._name(key)}
        self._client().put_object(**target, Body=data, **self._checksum(data), **condition)

    def _checksum(self, data: bytes) -> dict[str, str]:
        if not self._send_checksum:
            return {}
        digest = hashlib.sha256(data).digest()
        return {"ChecksumSHA256": base64.b64encode(digest).decode()}

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object, or return False if one is there."""
        for pause_seconds in islice(pauses(0.1, 0.8), MAX_TRIES):
            with self._errors(key):
                try:
                    self._put(key, data, IfNoneMatch="*")
                    return True
                except self._client().exceptions.ClientError as error:
                    status = status_of(error)
                    if status == PRECONDITION_FAILED:
                        return False
                    if status != CONFLICT:
                        raise
            # Another writer is at it. AWS asks to try again, since that one may yet fail.
            time.sleep(pause_seconds)
        raise Transient(f"{self.root}/{key}: several writers at once; try again")

    def _put_parts(self, key: str, path: Path, size: int, sha256: str) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != sha256:
                raise changed_file(path, sha256, digest)
            client = self._client()
            target = {"Bucket": self._bucket, "Key": self._name(key)}
            with self._errors(key):
                algorithm = {"ChecksumAlgorithm": "SHA256"} if self._send_checksum else {}
                upload = client.create_multipart_upload(**target, **algorithm)
                target["UploadId"] = upload["UploadId"]
                try:
                    self._send_parts(client, target, file, size)
                except client.exceptions.NoSuchUpload:
                    # The answer to the last request may have been lost and the request repeated.
                    if self.size(key) != size:
                        raise
                except BaseException:
                    # The failure in hand matters more than one of tidying up.
                    with suppress(RatchetError), self._errors(key):
                        client.abort_multipart_upload(**target)
                    raise

    def _send_parts(
        self, client: Client, target: dict[str, str], file: BinaryIO, size: int
    ) -> None:
        part_bytes = max(self._part_bytes, _ceil_division(size, MAX_PARTS))

        def send(index: int) -> dict[str, object]:
            # pread, because threads share the file's position.
            data = os.pread(file.fileno(), part_bytes, index * part_bytes)
            checksum = self._checksum(data)
            answer = client.upload_part(**target, PartNumber=index + 1, Body=data, **checksum)
            return {"PartNumber": index + 1, "ETag": answer["ETag"], **checksum}

        parts = _in_parallel(send, _ceil_division(size, part_bytes))
        client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})

    def _read(self, key: str, max_bytes: int, byte_range: str = "") -> bytes:
        # botocore retries requests, but not the reading of an answer's body.
        for _ in range(READ_TRIES - 1):
            with suppress(Transient):
                return self._read_once(key, max_bytes, byte_range)
        return self._read_once(key, max_bytes, byte_range)

    def _read_once(self, key: str, max_bytes: int, byte_range: str) -> bytes:
        request = {"Bucket": self._bucket, "Key": self._name(key)}
        if byte_range:
            request["Range"] = byte_range
        with self._errors(key):
            answer = self._client().get_object(**request)
            size = answer["ContentLength"]
            if size > max_bytes:
                raise Corrupt(
                    f"{self.root}/{key} has {size:,} bytes, expected were {max_bytes:,} at most"
                )
            return bytes(answer["Body"].read())

    def _client(self) -> Client:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> Client:
        """Look the bucket up and return a client. A wrong setting shows within seconds."""
        import boto3

        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        credentials = {name: self._environment.get(name.upper()) or None for name in names}
        # In a pod the first seconds may have no network yet: policies are programmed after it
        # starts (4 of 14 pods on a real cluster), and a store that restarts is away for 16 s. The
        # settings come from the cluster and were right for other pods; the step is tried again.
        in_pod = "KUBERNETES_SERVICE_HOST" in self._environment
        with self._explained(self.root, reached_before=in_pod):
            session = boto3.session.Session(**credentials)
            # A person who mistyped the address should not wait for minutes of tries.
            impatient_client = _make_client(
                session,
                self._environment,
                tries=2,
                connect_seconds=3,
                read_seconds=5,
            )
            impatient_client.list_objects_v2(Bucket=self._bucket, Prefix=self._base, MaxKeys=1)
            return _make_client(
                session,
                self._environment,
                tries=MAX_TRIES,
                connect_seconds=5,
                read_seconds=60,
            )

    def _errors(self, key: str) -> AbstractContextManager[None]:
        self._client()
        return self._explained(f"{self.root}/{key}".rstrip("/"), reached_before=True)

    def _explained(self, object_uri: str, *, reached_before: bool) -> AbstractContextManager[None]:
        server = f"S3 endpoint {shown_endpoint(_endpoint(self._environment))}"
        return s3_errors(
            object_uri=object_uri, bucket=self._bucket, server=server, reached_before=reached_before
        )


def _ceil_division(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up."""
    return -(-dividend // divisor)


def _make_client(
    session: Client,
    environment: Mapping[str, str],
    *,
    tries: int,
    connect_seconds: int,
    read_seconds: int,
) -> Client:
    from botocore.config import Config

    endpoint = _endpoint(environment)
    region = (
        environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or session.region_name
    )
    request_checksum = _switch(environment, "RATCHET_S3_REQUEST_CHECKSUM")
    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        max_pool_connections=2 * MAX_TRANSFERS,
        retries={"mode": "standard", "total_max_attempts": tries},
        request_checksum_calculation=request_checksum,
        response_checksum_validation=_switch(environment, "RATCHET_S3_RESPONSE_CHECKSUM"),
        s3={
            # Servers of one's own rarely have a DNS name for each bucket.
            "addressing_style": "path" if endpoint else "auto",
            # Without checksum headers the signature has to cover the bytes, over https too.
            "payload_signing_enabled": request_checksum == "when_required",
        },
    )
    try:
        return session.client(
            "s3",
            endpoint_url=endpoint,
            # boto3 signs with a region even where the server has none.
            region_name=region or "us-east-1",
            config=config,
        )
    except ValueError as error:
        raise UserError(f"S3 endpoint {shown_endpoint(endpoint)}: {one_line(error)}") from error


def _endpoint(environment: Mapping[str, str]) -> str | None:
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None


def _switch(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name) or "when_supported"
    if value not in ("when_supported", "when_required"):
        raise UserError(f"{name}={value}: use when_supported or when_required")
    return value


def _write_at(file: BinaryIO, data: bytes, offset: int) -> None:
    # pwrite may write less than it is given, and threads share the file's position.
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, offset)
        view = view[written:]
        offset += written


def _in_parallel(work: Callable[[int], T], count: int) -> list[T]:
    """Return the results of `work` for 0 … count-1, in order, MAX_TRANSFERS at a time.

    The first failure cancels the calls that have not begun.
    """
    with ThreadPoolExecutor(max_workers=MAX_TRANSFERS) as pool:
        return list(pool.map(work, range(count)))
