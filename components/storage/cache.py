"""A local cache of verified objects, shared by hard links."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import Corrupt, UserError
from components.storage import keys
from components.storage.folder import local_errors
from components.storage.store import Store

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}


class Cache:
    """Read-only files named by their SHA-256, in `folder/ab/abcdef…`.

    Safe for concurrent processes.

    A file is verified and synced to disk before it gets its name, so a name with the right size is
    trusted. The folder must belong to this user (or root): in a shared temporary folder another
    user could plant files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked = False

    def get(self, store: Store, key: str, sha256: str, size: int) -> Path:
        """Return the path of a verified local copy, downloaded if needed.

        Raises Missing, Corrupt (naming `key`), UserError or Transient.
        """
        cached = self._path_of(sha256)
        self._require_safe_folder()
        if _has_size(cached, size):
            return cached
        with self._temporary(cached, size) as temporary:
            download(store, key, sha256, size, temporary)
            temporary.replace(cached)
        return cached

    def adopt(self, path: Path) -> str:
        """Take a finished local file into the cache and return its SHA-256.

        A hard link, or a copy across file systems. The file becomes read-only.
        """
        size = path.stat().st_size
        with local_errors(path):
            sha256 = _seal(path)
        cached = self._path_of(sha256)
        if _has_size(cached, size):
            return sha256
        with self._temporary(cached, size) as temporary:
            link_or_copy(path, temporary)
            if not temporary.samefile(path) and _seal(temporary) != sha256:
                raise Corrupt(f"{path} was changed while it was copied; do the step again")
            temporary.replace(cached)
        return sha256

    def _path_of(self, sha256: str) -> Path:
        return self.folder / Path(keys.object_key(sha256)).relative_to("objects")

    @contextmanager
    def _temporary(self, cached: Path, size: int) -> Iterator[Path]:
        """Yield a free path beside `cached`, whose file is deleted after the block."""
        with local_errors(cached, size):
            self._require_safe_folder()
            cached.parent.mkdir(exist_ok=True)
            temporary = cached.parent / f".{os.getpid()}-{secrets.token_hex(8)}"
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)

    def _require_safe_folder(self) -> None:
        """Make the folder, or raise UserError if it belongs to another user."""
        if self._checked:
            return
        with local_errors(self.folder):
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.folder.parent, self.folder):
            owner = folder.stat().st_uid
            if owner not in (0, os.getuid()):
                raise UserError(
                    f"cache {folder} belongs to user {owner}; set RATCHET_CACHE to a folder of "
                    "your own"
                )
        self._checked = True


def download(store: Store, key: str, sha256: str, size: int, path: Path) -> None:
    """Fetch an object to the new file `path` and verify it.

    Raises Missing, Corrupt (naming `key`), UserError or Transient.
    """
    store.get_file(key, path)
    received_bytes = path.stat().st_size
    if received_bytes != size:
        raise Corrupt(
            f"{store.root}/{key} has {received_bytes:,} bytes instead of {size:,}; restore the "
            "object"
        )
    digest = _seal(path)
    if digest != sha256:
        raise Corrupt(
            f"{store.root}/{key} has SHA-256 {digest} instead of {sha256}; restore the object"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source` where the file systems allow it, else a copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


def _has_size(cached: Path, size: int) -> bool:
    try:
        return cached.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


def _seal(path: Path) -> str:
    """Make a file read-only and durable, and return its SHA-256."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    path.chmod(0o444)
    return sha256
