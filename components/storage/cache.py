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
    """Read-only files named by their SHA-256, in `folder/ab/abcdef…`. Safe for concurrent
    processes.

    A file is verified and synced to disk before it gets its name, so a name with the right size is
    trusted. The folder must belong to this user (or root): in a shared temporary folder another
    user could plant files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked = False

    def get(self, store: Store, key: str, sha256: str, size: int) -> Path:
        """Path of a verified local copy, downloading it if needed. Raises Missing, Corrupt (naming
        `key`), UserError, Transient."""
        place = self._place(sha256)
        self._own_folder()
        if _has_size(place, size):
            return place
        with self._temporary(place, size) as temporary:
            download(store, key, sha256, size, temporary)
            temporary.replace(place)
        return place

    def adopt(self, path: Path) -> str:
        """Take a finished local file into the cache (hard link, or copy across file systems) and
        return its SHA-256. The file becomes read-only."""
        size = path.stat().st_size
        with local_errors(path):
            sha256 = _finish(path)
        place = self._place(sha256)
        if _has_size(place, size):
            return sha256
        with self._temporary(place, size) as temporary:
            link_or_copy(path, temporary)
            if not temporary.samefile(path) and _finish(temporary) != sha256:
                raise Corrupt(f"{path} was changed while it was copied; do the step again")
            temporary.replace(place)
        return sha256

    def _place(self, sha256: str) -> Path:
        return self.folder / Path(keys.object_key(sha256)).relative_to("objects")

    @contextmanager
    def _temporary(self, place: Path, size: int) -> Iterator[Path]:
        """A free name beside `place`; whatever has it after the block is deleted."""
        with local_errors(place, size):
            self._own_folder()
            place.parent.mkdir(exist_ok=True)
            temporary = place.parent / f".{os.getpid()}-{secrets.token_hex(8)}"
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)

    def _own_folder(self) -> None:
        if self._checked:
            return
        with local_errors(self.folder):
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.folder.parent, self.folder):
            owner = folder.stat().st_uid
            if owner not in (0, os.getuid()):
                raise UserError(
                    f"cache {folder} belongs to user {owner}; set RATCHET_CACHE to a folder of your own"
                )
        self._checked = True


def download(store: Store, key: str, sha256: str, size: int, path: Path) -> None:
    """Fetch an object to the new file `path` and verify it. Raises Missing, Corrupt (naming `key`),
    UserError, Transient."""
    store.get_file(key, path)
    found = path.stat().st_size
    if found != size:
        raise Corrupt(
            f"{store.root}/{key} has {found:,} bytes instead of {size:,}; restore the object"
        )
    digest = _finish(path)
    if digest != sha256:
        raise Corrupt(
            f"{store.root}/{key} has SHA-256 {digest} instead of {sha256}; restore the object"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Give the bytes of `source` the new name `target`: a hard link where the file systems allow,
    else a copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


def _has_size(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


def _finish(path: Path) -> str:
    """Make a file read-only and durable; returns its SHA-256."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    path.chmod(0o444)
    return sha256
