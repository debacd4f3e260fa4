"""The file: an uncompressed tar whose first member says what follows, each with size and SHA-256.

Its order is that in which a store may get it: objects, then the receipts that name them, then what
tells of the run. So an import that is killed leaves objects that nothing names.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.canonical import canonical_json
from components.errors import Corrupt, UserError, one_line
from components.storage import keys

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 256 * 2**20
MAX_DOCUMENT_BYTES = 64 * 2**20
"""Of a receipt or an attempt; ours have a few kilobytes."""
FOLDERS = ("objects", "steps", "models", "reviews", "runs", "attempts")
"""Folders of a store whose files an archive may have, in the order in which it has them."""
BLOCK_BYTES = 1 << 20


class Entry(BaseModel):
    """One file of the archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    """In the store; that of an object is its content address."""
    size: Annotated[int, Field(ge=0)]
    sha256: str


class Manifest(BaseModel):
    """What an archive holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    run_id: str
    collected: int
    """Objects of the run that `gc` had deleted: they are not in it."""
    entries: tuple[Entry, ...]

    def check(self) -> None:
        """Raise UserError for a key that an archive may not have, or an object under a false one."""
        keys.part(self.run_id)
        for entry in self.entries:
            key = keys.relative_path(entry.key)
            folder = key.partition("/")[0]
            if folder not in FOLDERS:
                raise UserError(
                    f"the archive holds {key!r}, which is nothing of a campaign"
                )
            if folder in ("steps", "attempts") and entry.size > MAX_DOCUMENT_BYTES:
                raise UserError(f"the archive holds {key!r} of {entry.size:,} bytes")
            if folder == "objects" and key != keys.object_key(entry.sha256):
                raise UserError(
                    f"the archive holds {key!r} with other bytes than its name says"
                )


class Writer:
    """Writes an archive, members in the order of the manifest."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest) -> None:
        self._tar = tar
        document = canonical_json(manifest.model_dump(mode="json"))
        self._add(MANIFEST, io.BytesIO(document), len(document))

    def add(self, entry: Entry, path: Path) -> None:
        """Add a file."""
        with path.open("rb") as file:
            self._add(entry.key, file, entry.size)

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        # No owner and no time: the same campaign is the same archive.
        member = tarfile.TarInfo(name)
        member.size = size
        self._tar.addfile(member, file)


@contextmanager
def reading(path: Path) -> Iterator[tuple[Manifest, Iterator[tuple[Entry, IO[bytes]]]]]:
    """Give (manifest, its entries with the bytes of each, to be read in their order).

    Raises:
        UserError: It is no archive of ours, or holds what it may not.
        Corrupt: It ends early, or something in it is not what the manifest says.
    """
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115 (closed below; other errors are told here)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{path} is no archive that `export` wrote, or its front is lost ({one_line(error)})"
        ) from None
    try:
        with tar:
            manifest = _manifest_of(tar, path)
            yield manifest, _members(tar, manifest, path)
    except (tarfile.TarError, EOFError) as error:
        raise Corrupt(
            f"{path} is no whole archive ({one_line(error)}); export the run anew"
        ) from None


def _manifest_of(tar: tarfile.TarFile, path: Path) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg():
        raise UserError(
            f"{path} is no archive that `export` wrote: it has no {MANIFEST}"
        )
    if member.size > MAX_MANIFEST_BYTES:
        raise UserError(f"{path}: its {MANIFEST} has {member.size:,} bytes")
    file = tar.extractfile(member)
    assert file is not None, "a regular file has bytes"
    try:
        manifest = Manifest.model_validate(json.loads(file.read()))
    except (ValidationError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: its {MANIFEST} cannot be read ({one_line(error)})"
        ) from None
    manifest.check()
    return manifest


def _members(
    tar: tarfile.TarFile, manifest: Manifest, path: Path
) -> Iterator[tuple[Entry, IO[bytes]]]:
    for entry in manifest.entries:
        member = tar.next()
        if member is None:
            raise Corrupt(f"{path} ends before {entry.key}; export the run anew")
        is_it = member.isreg() and not member.issparse() and member.name == entry.key
        if not is_it or member.size != entry.size:
            raise Corrupt(f"{path} holds {member.name!r} in place of {entry.key}")
        file = tar.extractfile(member)
        assert file is not None, "a regular file has bytes"
        yield entry, file
    if tar.next() is not None:
        raise Corrupt(f"{path} holds more than its {MANIFEST} says")


def copied(source: IO[bytes], target: IO[bytes] | None) -> str:
    """Copy a member, or only read it; return its SHA-256."""
    digest = hashlib.sha256()
    while block := source.read(BLOCK_BYTES):
        digest.update(block)
        if target is not None:
            target.write(block)
    return digest.hexdigest()
