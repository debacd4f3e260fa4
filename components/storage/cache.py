"""A local cache of verified objects, shared by hard links."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import Corrupt, Missing, UserError
from components.retry import Stopwatch
from components.storage import keys
from components.storage.folder import local_errors
from components.storage.store import Store

# Another file system, one without hard links, or a file that has as many as it may have.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class _Identity:
    """The properties of a file that an edit changes."""

    # Not the time of a change of its metadata: a hard link, which the cache makes for every reader,
    # changes that.
    inode: int
    size: int
    mtime_ns: int


class Cache:
    """Read-only files named by their SHA-256, in `folder/ab/abcdef…`.

    Safe for concurrent processes.

    A file is verified before it gets its name, and hashed again at its first use in each process;
    later uses compare inode, size and time of change. A file that is not what its name says is
    fetched again: so none need be synced to disk. The folder must belong to this user or to root.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.verify_seconds = 0.0
        """Spent on hashing files that were in the cache already."""
        self._folder_is_safe = False
        self._verified: dict[Path, _Identity] = {}

    def get(self, store: Store, key: str, sha256: str, size: int) -> Path:
        """Return the path of a verified local copy, downloaded if needed.

        Raises Missing, Corrupt (naming `key`), UserError or Transient.
        """
        cached = self._path_of(sha256)
        self._require_safe_folder()
        if self._is_intact(cached, sha256, size):
            return cached
        with self._temporary(cached, size) as temporary:
            download(store, key, sha256, size, temporary)
            self._name(temporary, cached)
        return cached

    def adopt(self, path: Path) -> str:
        """Take a finished local file into the cache and return its SHA-256.

        A hard link, or a copy across file systems. The file becomes read-only.
        """
        size = path.stat().st_size
        with local_errors(path):
            sha256 = _seal(path)
        cached = self._path_of(sha256)
        if self._is_intact(cached, sha256, size):
            return sha256
        with self._temporary(cached, size) as temporary:
            link_or_copy(path, temporary)
            # A link is the file that was hashed above; a copy was read a second time.
            if not temporary.samefile(path) and _seal(temporary) != sha256:
                raise Corrupt(
                    f"{path} was changed while it was copied; do the step again"
                )
            self._name(temporary, cached)
        return sha256

    def discard(self, sha256: str, before: float) -> None:
        """Delete a file that the store does not hold any more, if it came before a time.

        A younger one may have been fetched by a process that is about to open it.
        """
        cached = self._path_of(sha256)
        identity = _identity_of(cached)
        if identity is not None and identity.mtime_ns < before * 1e9:
            with local_errors(cached):
                cached.unlink(missing_ok=True)
            self._verified.pop(cached, None)

    def _is_intact(self, cached: Path, sha256: str, size: int) -> bool:
        """Return True if the file of this name is there and holds what its name says."""
        # An editor, a broken disk or a restored backup changes bytes and keeps the size.
        identity = _identity_of(cached)
        if identity is None or identity.size != size:
            return False
        if self._verified.get(cached) == identity:
            return True
        watch = Stopwatch()
        with local_errors(cached), cached.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.verify_seconds += watch.seconds
        if digest != sha256:
            print(
                f"cache: {cached} was changed (its SHA-256 is {digest}); it is fetched again",
                file=sys.stderr,
            )
            return False
        self._verified[cached] = identity
        return True

    def _name(self, verified_file: Path, cached: Path) -> None:
        """Give a file that was just hashed its name in the cache."""
        identity = _identity_of(verified_file)
        verified_file.replace(cached)
        if identity is not None:
            self._verified[cached] = identity

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
        if self._folder_is_safe:
            return
        with local_errors(self.folder):
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        # By default the cache is in the temporary folder that all users share: another one could
        # have made it first, and planted files.
        for folder in (self.folder.parent, self.folder):
            owner = folder.stat().st_uid
            if owner not in (0, os.getuid()):
                raise UserError(
                    f"cache {folder} belongs to user {owner}; set RATCHET_CACHE to a folder of "
                    "your own"
                )
        self._folder_is_safe = True


def download(store: Store, key: str, sha256: str, size: int, path: Path) -> None:
    """Fetch an object to the new file `path` and verify it.

    Bytes that are not the right ones are fetched once more: they may have been changed on their
    way. Raises Missing, Corrupt (naming `key`), UserError or Transient.
    """
    watch = Stopwatch()
    try:
        _download_once(store, key, sha256, size, path)
    except Missing:
        raise
    except Corrupt:
        path.unlink(missing_ok=True)
        try:
            _download_once(store, key, sha256, size, path)
        except Corrupt as error:
            raise type(error)(
                f"{error} [download: 2 attempts in {watch.seconds:.1f} s]"
            ) from None


def _download_once(store: Store, key: str, sha256: str, size: int, path: Path) -> None:
    store.get_file(key, path)
    # The size first: it tells a broken transfer from bytes that rotted.
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


def _identity_of(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Identity(status.st_ino, status.st_size, status.st_mtime_ns)


def _seal(path: Path) -> str:
    """Make a file read-only, and return its SHA-256."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path.chmod(0o444)
    return sha256
