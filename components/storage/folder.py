"""The default store: a folder (`file:///dir`), with the same promises as a bucket.

An object appears under its key whole or not at all, also if the process is killed or the machine
loses power: it is written and synced to a temporary file in `.incoming/`, then linked (write-once)
or renamed (anything else) into place. Files that a killed process leaves in `.incoming/` are never
listed and may be deleted when nothing runs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from components.errors import Corrupt, Missing, RatchetError, Transient, UserError
from components.storage import keys
from components.storage.entry import Entry

BLOCK_BYTES = 1024 * 1024

# EFBIG and EDQUOT are quotas of a file and of a user: to a person they are a full disk.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A network file system gives most of these while its server restarts.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.EAGAIN}
_UNUSABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EXDEV,
    errno.EMLINK,
    errno.EOPNOTSUPP,
}


class FileStore:
    """A `Store` in a folder, which the first write makes. That protocol states the contract."""

    def __init__(self, root: str) -> None:
        """`root` is a canonical `file:///absolute/folder` URI."""
        self.root = root
        self._folder = Path(unquote(root.removeprefix("file://")))

    def put_file(
        self, key: str, path: Path, sha256: str, *, give: bool = False
    ) -> None:
        """Copy a file in and check its digest; with `give` move it within one file system.

        Raises Corrupt if the digest of a copied file is not `sha256`.
        """
        size = path.stat().st_size
        # A key that ends in the digest is the address of these very bytes.
        is_stored = key.endswith(sha256) and self.size(key) == size
        if not is_stored and not (give and self._move(key, path)):
            self._copy(key, path, sha256, size)
        if give:
            path.unlink(missing_ok=True)

    def _move(self, key: str, path: Path) -> bool:
        """Move a file into place. Return False, unmoved, for another file system or a symlink."""
        object_path = self._folder / keys.relative_path(key)
        if path.is_symlink():
            return False
        with local_errors(object_path), path.open("rb") as file:
            # Objects are read-only, as copied ones are; nobody gets a right that the file lacks.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            os.fchmod(file.fileno(), mode & 0o444)
            try:
                return self._publish(file, path, key)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return False

    def _copy(self, key: str, path: Path, sha256: str, size: int) -> None:
        digest = hashlib.sha256()
        with self._incoming(key, size) as (file, temporary):
            with path.open("rb") as source:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != sha256:
                raise changed_file(path, sha256, digest.hexdigest())
            self._publish(file, temporary, key)

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store a small document, or return False if `if_absent` and an object is there."""
        if if_absent and self.size(key) is not None:
            return False
        with self._incoming(key, len(data)) as (file, temporary):
            file.write(data)
            return self._publish(file, temporary, key, if_absent=if_absent)

    def get_bytes(self, key: str, max_bytes: int = 16 * BLOCK_BYTES) -> bytes:
        """Return the whole object.

        Raises Missing if there is none, Corrupt if it is larger than `max_bytes`.
        """
        with self._reading(key) as source:
            # One byte more shows that there is more, whatever the size was a moment ago.
            data = source.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise Corrupt(
                f"{self.root}/{key} is larger than the {max_bytes:,} bytes expected at most"
            )
        return data

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object to the new file `path`."""
        with self._reading(key) as source:
            size = os.fstat(source.fileno()).st_size
            with local_errors(path, size), new_file(path) as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)

    def size(self, key: str) -> int | None:
        """Return the size in bytes, or None if there is no such object."""
        object_path = self._path(key)
        with local_errors(object_path):
            try:
                status = object_path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def version(self, key: str) -> str | None:
        """Return the SHA-256 of the object's bytes, or None if there is no object."""
        if self.size(key) is None:
            return None
        with local_errors(self._path(key)), self._path(key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix` (empty, or ending in `/`), in order."""
        base = self._folder / keys.folder_prefix(prefix)
        listed: list[str] = []
        with local_errors(base):
            for folder, subfolders, files in os.walk(base, onerror=_unless_absent):
                # Assigned in place, so that os.walk does not enter hidden folders (.incoming).
                subfolders[:] = _visible(subfolders)
                parent = Path(folder).relative_to(self._folder)
                for name in _visible(files):
                    listed.append((parent / name).as_posix())
        return iter(sorted(listed))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what `list` does, with the size and the time of each file."""
        for key in self.list(prefix):
            object_path = self._path(key)
            with local_errors(object_path):
                try:
                    status = object_path.stat()
                except FileNotFoundError:
                    # Somebody deleted it since.
                    continue
            yield Entry(key, status.st_size, status.st_mtime)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        # Its folder stays: another writer may be about to use it.
        object_path = self._path(key)
        with local_errors(object_path):
            object_path.unlink(missing_ok=True)

    def enforces_write_once(self, key: str) -> bool:
        """Return True if the file system refuses a second writer of the existing `key`."""
        content = self.get_bytes(key)
        with self._incoming(key, len(content)) as (file, temporary):
            file.write(content)
            return not self._publish(file, temporary, key, if_absent=True)

    def _path(self, key: str) -> Path:
        return self._folder / keys.foreign_path(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[BinaryIO]:
        object_path = self._path(key)
        with local_errors(object_path):
            try:
                source = object_path.open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise Missing(f"{self.root}/{key} does not exist") from None
            with source:
                yield source

    @contextmanager
    def _incoming(self, key: str, size: int) -> Iterator[tuple[BinaryIO, Path]]:
        """Yield a new temporary file in the store's file system, deleted after the block."""
        object_path = self._folder / keys.relative_path(key)
        temporary = self._folder / ".incoming" / f"{os.getpid()}-{secrets.token_hex(8)}"
        with local_errors(object_path, size):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                with new_file(temporary) as file:
                    yield file, temporary
            finally:
                temporary.unlink(missing_ok=True)

    def _publish(
        self, file: BinaryIO, temporary: Path, key: str, *, if_absent: bool = False
    ) -> bool:
        """Give finished bytes their final name, or return False if `if_absent` and it is taken."""
        object_path = self._path(key)
        # Synced before it gets its name: after a loss of power the name would lead to no bytes.
        file.flush()
        os.fsync(file.fileno())
        changed_folders = _make_folders(object_path.parent)
        if if_absent:
            # The kernel lets only one writer link a name; a rename would overwrite it.
            try:
                os.link(temporary, object_path)
            except FileExistsError:
                return False
        else:
            temporary.replace(object_path)
        for folder in {object_path.parent, *changed_folders}:
            _sync_folder(folder)
        return True


def changed_file(path: Path, expected: str, actual: str) -> Corrupt:
    """Return the failure of storing a file whose bytes are not those of its digest."""
    return Corrupt(
        f"{path} has SHA-256 {actual} instead of {expected}: it was changed while in use; do the "
        "step again"
    )


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write the new, read-only file `path` (mode 0444 less the umask).

    It is deleted again if the block fails. Raises FileExistsError if it exists.
    """
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        # The failure in hand matters more than one of tidying up.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


@contextmanager
def local_errors(path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn an OSError about `path` into UserError or Transient; a full disk with its numbers."""
    try:
        yield
    except OSError as error:
        explained = _explained(error, path, needed_bytes)
        if explained is None:
            raise
        raise explained from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file that a person named, and the folders that it is in.

    Raises UserError where it cannot be: a folder is there, or a file in place of its folder.
    """
    with local_errors(path, len(data)):
        make_folder(path.parent)
        path.write_bytes(data)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if need be. Raises NotADirectoryError for a file in its place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        reason = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, reason, str(folder)) from error


@contextmanager
def full_disk_errors(folder: Path) -> Iterator[None]:
    """Turn the OSError of a full disk into UserError, and leave all others alone.

    For whole steps: any other OSError of theirs may be a bug and keeps its traceback.

    Args:
        folder: Named where the error itself names no file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        path = Path(os.fsdecode(error.filename)) if error.filename else folder / "file"
        raise UserError(_no_room(error, path, 1)) from error


def _no_room(error: OSError, path: Path, needed_bytes: int) -> str:
    reason = os.strerror(error.errno or errno.ENOSPC)
    return (
        f"{path}: no room for {needed_bytes:,} bytes ({reason}; {free_room(path)}): free some "
        "space there or use another folder"
    )


def free_room(path: Path) -> str:
    """Return words for the room on the file system that a path is on, or would be on."""
    # The folder of `path` may be what could not be made, so ask the first one that is there.
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    status = os.statvfs(existing)
    free_bytes = status.f_bavail * status.f_frsize
    # A file system without a table of files (btrfs) tells of 0 in all.
    has_no_inodes = status.f_files > 0 and status.f_favail == 0
    return f"{free_bytes:,} bytes free" + (", no inode free" if has_no_inodes else "")


def has_no_room(path: Path) -> bool:
    """Return True if not even an empty file can be made beside a path, for want of room."""
    status = os.statvfs(path.parent)
    return status.f_bavail == 0 or (status.f_files > 0 and status.f_favail == 0)


def _explained(error: OSError, path: Path, needed_bytes: int) -> RatchetError | None:
    """Return the exception for `error`, or None for one that is no matter of the file system."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_ROOM:
        return UserError(_no_room(error, path, needed_bytes))
    if error.errno in _PASSING:
        return Transient(f"{path}: {reason}")
    if error.errno in _UNUSABLE:
        named_path = error.filename2 or error.filename or path
        return UserError(
            f"{path} cannot be used ({reason}: {named_path}): use one folder that this user may "
            "write"
        )
    return None


def _unless_absent(error: OSError) -> None:
    """Raise an error of os.walk, except for an absent folder: nothing to list is no failure."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        raise error


def _visible(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]


def _make_folders(folder: Path) -> tuple[Path, ...]:
    """Make a folder and return the folders whose entries changed by it, to be synced."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(parent.parent for parent in missing)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder and do not need to.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
