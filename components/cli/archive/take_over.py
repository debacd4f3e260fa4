"""The `import` verb: a run out of an archive, into a store."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from components.cli.archive.archive_file import Entry, Manifest, copied, reading
from components.errors import Corrupt, UserError
from components.runtime.context import Context
from components.runtime.receipts import Receipt
from components.storage import keys, objects
from components.storage.folder import local_errors


@dataclass
class Imported:
    """What became of an archive."""

    run_id: str
    store: str
    written: int = 0
    present: int = 0
    """Files that the store had already, with the same bytes."""
    collected: int = 0
    """Objects that were not in the archive: `gc` had deleted them before."""


def import_run(context: Context, path: Path) -> Imported:
    """Read an archive twice: once to see that all of it is as it should be, then into the store.

    Nothing that is in the store is changed. What the archive and the store have both must be equal.

    Args:
        context: The store.
        path: The archive.

    Raises:
        UserError: It is no archive, or the store has another document under one of its keys.
        Corrupt: Something in it is damaged. The store is as before.
    """
    _check(path)
    # Beside the cache: the system's temporary folder may be in memory.
    context.scratch.mkdir(parents=True, exist_ok=True)
    in_scratch = tempfile.TemporaryDirectory(prefix="import-", dir=context.scratch)
    with reading(path) as (manifest, members), in_scratch as folder:
        imported = Imported(
            manifest.run_id, context.store.root, collected=manifest.collected
        )
        _refuse_conflicts(context, manifest)
        for entry, source in members:
            file = Path(folder) / "member"
            with local_errors(file, entry.size), file.open("wb") as target:
                sha256 = copied(source, target)
            if sha256 != entry.sha256:
                raise Corrupt(f"{path} was changed while it was read; import it again")
            if _store(context, entry, file):
                imported.written += 1
            else:
                imported.present += 1
    return imported


def _check(path: Path) -> None:
    with reading(path) as (_, members):
        for entry, source in members:
            data = b""
            if entry.key.startswith("steps/"):
                data = source.read()
                source.seek(0)
            sha256 = copied(source, None)
            if sha256 != entry.sha256:
                raise Corrupt(f"{path}: {entry.key} is damaged; export the run anew")
            if data:
                _check_receipt(path, entry, data)


def _check_receipt(path: Path, entry: Entry, data: bytes) -> None:
    """Raise Corrupt for a receipt that no step wrote, however well its digest fits."""
    try:
        receipt = Receipt.from_bytes(data)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise Corrupt(
            f"{path}: {entry.key} is no receipt of this version ({problem})"
        ) from None
    if (
        receipt.to_bytes() != data
        or keys.receipt_key(receipt.step, receipt.key) != entry.key
    ):
        raise Corrupt(f"{path}: {entry.key} was changed after it was written")


def _refuse_conflicts(context: Context, manifest: Manifest) -> None:
    """Raise UserError if the store has something else under a key, before anything is written."""
    for entry in manifest.entries:
        if entry.key.startswith("objects/"):
            continue
        size = context.store.size(entry.key)
        if size is not None and (size != entry.size or not _is_there(context, entry)):
            raise UserError(
                f"{context.store.root} has another {entry.key} than the archive; import it into "
                "another store"
            )


def _is_there(context: Context, entry: Entry) -> bool:
    """Return whether the store has these very bytes under the key."""
    with tempfile.TemporaryDirectory(prefix="import-", dir=context.scratch) as folder:
        copy = Path(folder) / "copy"
        context.store.get_file(entry.key, copy)
        with copy.open("rb") as file:
            return copied(file, None) == entry.sha256


def _store(context: Context, entry: Entry, file: Path) -> bool:
    """Store a member; return False if it was there."""
    if entry.key.startswith("objects/"):
        is_there = objects.find(context.store, entry.sha256, entry.size) is not None
        objects.put(context.store, file, entry.sha256)
        return not is_there
    if context.store.size(entry.key) is not None:
        return False
    if entry.key.startswith(("steps/", "attempts/")):
        return context.store.put_bytes(entry.key, file.read_bytes(), if_absent=True)
    context.store.put_file(entry.key, file, entry.sha256)
    return True
