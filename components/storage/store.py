"""The object store protocol, over a folder (`file://`, folder.py) or a bucket (`s3://`, s3.py).

Keys come from `components.storage.keys`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from components.errors import Corrupt, UserError
from components.storage import keys
from components.storage.entry import Entry
from components.storage.folder import FileStore
from components.storage.s3 import S3Store


class Store(Protocol):
    """Named objects that are immutable by convention.

    Every method raises Transient for a passing fault, UserError for a store that cannot be used
    (no such bucket, refused credentials, read-only, full), and Missing for an absent key.
    """

    @property
    def root(self) -> str:
        """URI without a trailing slash; `f"{root}/{key}"` is the URI of an object."""
        ...

    def put_file(
        self, key: str, path: Path, sha256: str, *, give: bool = False
    ) -> None:
        """Store a file whole or not at all, with its checksum sent and checked.

        If `key` is the content address of these bytes and an object of that key and size exists,
        nothing is sent. Any other key is overwritten.

        Args:
            key: key of the object.
            path: file to store.
            sha256: digest of the file in lower-case hex.
            give: hand the file over; it is gone afterwards. A file that can be moved into place
                is not read again, so `sha256` must be of the bytes that were just written.

        Raises:
            Corrupt: the digest of the file is not `sha256`.
        """
        ...

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store a small document whole or not at all.

        Return False only with `if_absent`: an object was there first and nothing was changed.
        """
        ...

    def get_bytes(self, key: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Return the whole object. Raise Corrupt if it is larger than `max_bytes`."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`, which must not exist. The caller verifies its digest."""
        ...

    def size(self, key: str) -> int | None:
        """Return the size in bytes, or None if there is no such object."""
        ...

    def version(self, key: str) -> str | None:
        """Return a word that changes with the object's content, or None if there is no object."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix` (empty, or ending in `/`), in order.

        For people and housekeeping, never a source of truth.
        """
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what `list` does, with the size and the age of each object."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object, if it is there.

        A step deletes only its own progress. Objects are deleted by `gc` alone, by its own rules.
        """
        ...

    def enforces_write_once(self, key: str) -> bool:
        """Return True if the store refuses a second write-once writer of the existing object."""
        ...


def open_store(uri: str, environment: Mapping[str, str]) -> Store:
    """Return the store of `file:///dir` or `s3://bucket/prefix`, untouched before its first use.

    Variables of `environment` that are read: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION or
    AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and for
    servers that refuse boto3's checksums RATCHET_S3_REQUEST_CHECKSUM and
    RATCHET_S3_RESPONSE_CHECKSUM (`when_supported`, the default, or `when_required`). Without
    credentials there, boto3's default chain finds them (profile, web identity, instance role).
    """
    # Nothing is contacted here, so that a wrong recipe is told before a store that is away.
    root = keys.canonical_root(uri)
    return FileStore(root) if root.startswith("file://") else S3Store(root, environment)


def probe(store: Store) -> None:
    """Raise UserError unless the store can be written and read and honours write-once.

    Leaves one small object, always the same. Raises Transient where trying again may help.
    """
    key = keys.probe_key()
    # Real servers fail here: rclone and s3rver have no conditional writes, Ceph radosgw 16 ignores
    # checksums.
    content = b'{"purpose":"shows that this store can be used"}'
    store.put_bytes(key, content)
    try:
        read_back = store.get_bytes(key)
    except Corrupt as error:
        raise UserError(
            f"{store.root}: what was just written cannot be read ({error}); use another store"
        ) from error
    if read_back != content:
        raise UserError(
            f"{store.root}: an object just written reads back differently; use another store"
        )
    # Receipts rest on this: of two pods that do the same work, one writes and the other reads.
    if not store.enforces_write_once(key):
        raise UserError(
            f"{store.root}: this server lets a second writer overwrite (it ignores "
            "`If-None-Match: *`), so results could change after others were built on them; use "
            "one with conditional writes (AWS S3, SeaweedFS, MinIO)"
        )
