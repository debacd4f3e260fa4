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
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from components.errors import Corrupt, Missing, RatchetError, Transient
from components.retry import pauses
from components.storage import keys
from components.storage.entry import Entry
from components.storage.folder import changed_file, local_errors, new_file
from components.storage.s3_calls import S3Call, S3Patience, bounded
from components.storage.s3_client import (
    Client,
    endpoint_of,
    make_client,
    new_core_session,
    switch,
)
from components.storage.s3_errors import s3_errors, shown_endpoint, status_of
from components.storage.s3_parts import (
    Parts,
    ceil_division,
    digest_of,
    in_parallel,
    write_at,
)

PART_BYTES = 16 * 1024 * 1024
"""Larger files go in parts of this size, MAX_TRANSFERS at a time; S3 wants at least 5 MiB a part.
"""
MAX_PARTS = 10_000
CONFLICT_TRIES = 4

CONFLICT = 409
PRECONDITION_FAILED = 412

T = TypeVar("T")
Head = Mapping[str, Any]
"""Answer to a HEAD request."""


class S3Store:
    """A `Store` in a bucket; that protocol states the contract.

    Needs s3:ListBucket, s3:GetObject, s3:PutObject and s3:AbortMultipartUpload below the prefix.
    Threads may share it. The bucket is looked up once, before the first use, because some servers
    make a bucket for whoever writes to it.

    Write-once rests on `If-None-Match: *`. For a server without conditional writes, which `probe`
    refuses, it also looks first, and reads back and compares: of writers one after the other the
    first wins; only writers within the same few milliseconds may both believe it, which is harmless
    for equal bytes (receipts are deterministic).

    Every call of the server ends: with a result, or within `patience` with an error that names the
    operation, the object, the attempts and the time they took.

    An upload that is killed leaves parts that cost space: give the bucket a rule
    AbortIncompleteMultipartUpload.
    """

    def __init__(
        self,
        root: str,
        environment: Mapping[str, str],
        *,
        part_bytes: int = PART_BYTES,
        patience: S3Patience | None = None,
    ) -> None:
        """Use the store at `root`, a canonical `s3://bucket/prefix` URI.

        Args:
            root: URI of the store.
            environment: as for `open_store`.
            part_bytes: larger files go in parts of this size.
            patience: how long and how often the server is asked; None: as by default.
        """
        self.root = root
        self._patience = patience or S3Patience()
        self._bucket, _, prefix = root.removeprefix("s3://").partition("/")
        self._base = f"{prefix}/" if prefix else ""
        self._environment = environment
        self._part_bytes = part_bytes
        request_checksum = switch(environment, "RATCHET_S3_REQUEST_CHECKSUM")
        self._send_checksum = request_checksum == "when_supported"
        # Looked at now, so that a wrong value shows before the work and not at the first read.
        switch(environment, "RATCHET_S3_RESPONSE_CHECKSUM")
        self._lock = threading.Lock()
        self._connected: Client = None

    def put_file(
        self, key: str, path: Path, sha256: str, *, give: bool = False
    ) -> None:
        """Upload a file, in parallel parts if it is large, every part with its SHA-256."""
        size = path.stat().st_size
        keys.relative_path(key)
        is_stored = key.endswith(sha256) and self._size_at_first_look(key) == size
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
        self._call("PutObject", key, lambda client: self._put(client, key, data))

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store a small document; write-once as the class says.

        If the answer to a write was lost and the write repeated, the result is False although the
        stored bytes are the caller's own.
        """
        keys.relative_path(key)
        if not if_absent:
            self._call("PutObject", key, lambda client: self._put(client, key, data))
            return True
        # Safety may not rest on the condition alone: of 16 writers at once rclone and s3rver let
        # all 16 win. So it also looks first, and reads back.
        if self._size_at_first_look(key) is not None:
            return False
        return self._put_if_absent(key, data) and self.get_bytes(key) == data

    def get_bytes(self, key: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Return the whole object, with the server's checksum verified where it sends one."""
        return self._read(key, max_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Download to the new file `path`, in parallel ranges if it is large."""
        size = int(self._head(key)["ContentLength"])
        with local_errors(path, size), new_file(path) as file:

            def receive(index: int) -> None:
                start = index * self._part_bytes
                length = min(self._part_bytes, size - start)
                data = self._read(key, length, f"bytes={start}-{start + length - 1}")
                write_at(file, data, start)

            in_parallel(receive, ceil_division(size, self._part_bytes))

    def size(self, key: str) -> int | None:
        """Return the size in bytes, or None if there is no such object."""
        try:
            return int(self._head(key)["ContentLength"])
        except Missing:
            return None

    def version(self, key: str) -> str | None:
        """Return the object's ETag, or None if there is no object."""
        try:
            return str(self._head(key)["ETag"])
        except Missing:
            return None

    def _head(self, key: str) -> Head:
        """Return what the server tells of an object. Raises Missing."""
        target = self._target(key)
        return self._call(
            "HeadObject", key, lambda client: client.head_object(**target)
        )

    def _size_at_first_look(self, key: str) -> int | None:
        """Return the size before a write, without the second look of `size` at what is missing.

        A new object is missing as a rule, and one wrong 404 only has it sent in vain.
        """
        return self._call(
            "HeadObject", key, lambda client: self._size_or_none(client, key)
        )

    def _size_or_none(self, client: Client, key: str) -> int | None:
        try:
            return int(client.head_object(**self._target(key))["ContentLength"])
        except client.exceptions.ClientError as error:
            if status_of(error) == 404:
                return None
            raise

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix` (empty, or ending in `/`), in order."""
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what `list` does, with the size and the time of each object."""
        base = self._base + keys.folder_prefix(prefix)
        listed: list[Entry] = []
        page: dict[str, str] = {}
        while True:
            # A call for each page: a listing of a million keys may take longer than one call.
            answer = self._list_page(
                prefix, {"Bucket": self._bucket, "Prefix": base, **page}
            )
            for item in answer.get("Contents", ()):
                key = item["Key"].removeprefix(self._base)
                listed.append(
                    Entry(key, item["Size"], item["LastModified"].timestamp())
                )
            if not answer.get("IsTruncated"):
                break
            page = {"ContinuationToken": answer["NextContinuationToken"]}
        # A name that ends in a slash is a console's marker of an empty folder.
        objects_only = [entry for entry in listed if not entry.key.endswith("/")]
        # Not every server lists in order.
        return iter(sorted(objects_only, key=lambda entry: entry.key))

    def _list_page(self, prefix: str, request: dict[str, str]) -> dict[str, Any]:
        """Return the answer to one request of a listing."""
        return self._call(
            "ListObjectsV2", prefix, lambda client: client.list_objects_v2(**request)
        )

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        target = self._target(key)
        self._call("DeleteObject", key, lambda client: client.delete_object(**target))

    def enforces_write_once(self, key: str) -> bool:
        """Return True if the server answers a second conditional write of `key` with 412.

        The same bytes are sent, so nothing changes where the server ignores the condition.
        """
        return not self._put_if_absent(key, self.get_bytes(key))

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._base + keys.foreign_path(key)}

    def _put(self, client: Client, key: str, data: bytes, **condition: str) -> None:
        client.put_object(
            **self._target(key), Body=data, **self._checksum(data), **condition
        )

    def _checksum(self, data: bytes) -> dict[str, str]:
        if not self._send_checksum:
            return {}
        digest = hashlib.sha256(data).digest()
        return {"ChecksumSHA256": base64.b64encode(digest).decode()}

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object, or return False if one is there."""

        def put(client: Client) -> bool:
            for pause_seconds in islice(pauses(0.1, 0.8), CONFLICT_TRIES):
                try:
                    self._put(client, key, data, IfNoneMatch="*")
                    return True
                except client.exceptions.ClientError as error:
                    status = status_of(error)
                    if status not in (PRECONDITION_FAILED, CONFLICT):
                        raise
                if status == PRECONDITION_FAILED:
                    return False
                # AWS asks to try again, since the other writer may yet fail.
                time.sleep(pause_seconds)
            raise Transient(f"{self.root}/{key}: several writers at once; try again")

        return self._call("PutObject", key, put)

    def _put_parts(self, key: str, path: Path, size: int, sha256: str) -> None:
        with path.open("rb") as file, ThreadPoolExecutor(1) as hasher:
            # Beside the sending, which mostly waits. An upload of other bytes is not completed.
            digest = hasher.submit(digest_of, path)
            target = self._target(key)
            algorithm = {"ChecksumAlgorithm": "SHA256"} if self._send_checksum else {}
            upload = self._call(
                "CreateMultipartUpload",
                key,
                lambda client: client.create_multipart_upload(**target, **algorithm),
            )
            target["UploadId"] = upload["UploadId"]
            try:
                parts = self._send_parts(key, target, file, size)
                if digest.result() != sha256:
                    raise changed_file(path, sha256, digest.result())
                self._complete(key, target, parts, size)
            except BaseException:
                # The failure in hand matters more than one of tidying up.
                with suppress(RatchetError):
                    self._call(
                        "AbortMultipartUpload",
                        key,
                        lambda client: client.abort_multipart_upload(**target),
                    )
                raise

    def _send_parts(
        self, key: str, target: dict[str, str], file: BinaryIO, size: int
    ) -> Parts:
        """Send all parts of an upload. Return what the server is told to put together."""
        part_bytes = max(self._part_bytes, ceil_division(size, MAX_PARTS))

        def send(index: int) -> dict[str, object]:
            # pread, because threads share the file's position.
            data = os.pread(file.fileno(), part_bytes, index * part_bytes)
            number = index + 1
            checksum = self._checksum(data)
            part = {**target, "PartNumber": number, "Body": data, **checksum}
            answer = self._call(
                "UploadPart", key, lambda client: client.upload_part(**part)
            )
            return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

        return in_parallel(send, ceil_division(size, part_bytes))

    def _complete(
        self, key: str, target: dict[str, str], parts: Parts, size: int
    ) -> None:
        def complete(client: Client) -> None:
            try:
                client.complete_multipart_upload(
                    **target, MultipartUpload={"Parts": parts}
                )
            except client.exceptions.NoSuchUpload:
                # The answer to this request may have been lost and the request repeated.
                if self._size_or_none(client, key) != size:
                    raise

        self._call("CompleteMultipartUpload", key, complete)

    def _read(self, key: str, max_bytes: int, byte_range: str = "") -> bytes:
        request = self._target(key)
        if byte_range:
            request["Range"] = byte_range

        def get(client: Client) -> bytes:
            answer = client.get_object(**request)
            size = answer["ContentLength"]
            if size > max_bytes:
                raise Corrupt(
                    f"{self.root}/{key} has {size:,} bytes, expected were {max_bytes:,} at most"
                )
            return bytes(answer["Body"].read())

        return self._call("GetObject", key, get)

    def _client(self) -> Client:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> Client:
        """Look the bucket up and return a client. A wrong setting shows within seconds."""
        import boto3

        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        credentials = {
            name: self._environment.get(name.upper()) or None for name in names
        }
        # In a pod the first seconds may have no network yet: policies are programmed after it
        # starts (4 of 14 pods on a real cluster), and a store that restarts is away for 16 s. The
        # settings come from the cluster and were right for other pods; the step is tried again.
        in_pod = "KUBERNETES_SERVICE_HOST" in self._environment
        session = boto3.session.Session(
            botocore_session=new_core_session(), **credentials
        )
        # A person who mistyped the address should not wait for minutes of tries.
        impatient = replace(
            self._patience, tries=2, connect_seconds=3.0, answer_seconds=5.0
        )
        look = {"Bucket": self._bucket, "Prefix": self._base, "MaxKeys": 1}
        self._explained(
            S3Call("ListObjectsV2"),
            self.root,
            lambda: make_client(session, self._environment, impatient).list_objects_v2(
                **look
            ),
            reached_before=in_pod,
        )
        return make_client(session, self._environment, self._patience)

    def _call(self, operation: str, key: str, request: Callable[[Client], T]) -> T:
        """Return the answer of the server about one key (of a listing: a folder)."""
        client = self._client()
        call = S3Call(operation)
        object_uri = f"{self.root}/{key}".rstrip("/")

        def ask() -> T:
            return self._explained(
                call, object_uri, lambda: request(client), reached_before=True
            )

        # botocore retries requests, but not the reading of an answer's body. And an object is called
        # missing or damaged only if it looks so twice: one wrong answer may be a proxy's.
        try:
            return ask()
        except (Transient, Corrupt) as error:
            # What is missing is looked for again at once: often it is just not there yet.
            if not isinstance(error, Missing):
                time.sleep(self._patience.second_look_seconds)
        return ask()

    def _explained(
        self,
        call: S3Call,
        object_uri: str,
        work: Callable[[], T],
        *,
        reached_before: bool,
    ) -> T:
        server = f"S3 endpoint {shown_endpoint(endpoint_of(self._environment))}"
        with s3_errors(
            call=call,
            object_uri=object_uri,
            bucket=self._bucket,
            server=server,
            reached_before=reached_before,
        ):
            return bounded(call, work, self._patience.call_seconds)
