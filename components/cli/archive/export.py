"""The `export` verb: a run, and all that it rests on, in one file."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.cli.archive.archive_file import Entry, Manifest, Writer
from components.cli.collect.records import Records, read_records, refs_of
from components.cli.stores import unknown_run
from components.contracts.releases import LEDGER_FOLDER
from components.contracts.summaries import PublishSummary
from components.errors import Missing, UserError
from components.publish.approval import standing_of
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary
from components.storage import keys
from components.storage.cache import download
from components.storage.folder import local_errors
from components.storage.objects import find


@dataclass(frozen=True)
class Exported:
    """What was written."""

    run_id: str
    file: str
    receipts: int
    objects: int
    bytes: int
    collected: int


def export_run(context: Context, run_id: str, path: Path) -> Exported:
    """Write a run to a new file, which appears once it is whole.

    In it are the run's receipts and all that led to them, in whichever run that was, their objects,
    the models that it published, verdicts of people, its recipe, reports and attempts. The ledger of
    releases is not: which release is in force is a matter of each store.

    Args:
        context: The store.
        run_id: The run.
        path: The file.

    Raises:
        UserError: The file exists or cannot be written, or there is no such run.
        Corrupt: Something that the run rests on is damaged.
    """
    if path.exists() or not path.parent.is_dir():
        raise UserError(f"{path} exists, or its folder does not; name a new file")
    records = read_records(context)
    if run_id not in records.attempts:
        raise unknown_run(context, run_id)
    receipts = _receipts(records, run_id)
    objects = {
        ref.sha256: ref.size for receipt in receipts for ref in receipt.objects.values()
    }
    with tempfile.TemporaryDirectory(prefix="export-", dir=path.parent) as name:
        folder = Path(name)
        documents = _documents(context, run_id, receipts, folder)
        present = {
            sha256: size
            for sha256, size in objects.items()
            if find(context.store, sha256, size) is not None
        }
        entries = [
            Entry(key=keys.object_key(sha256), size=size, sha256=sha256)
            for sha256, size in sorted(present.items())
        ]
        manifest = Manifest(
            run_id=run_id,
            collected=len(objects) - len(present),
            entries=(*entries, *(entry for entry, _ in documents)),
        )
        unfinished = folder / "archive"
        with (
            local_errors(path),
            tarfile.open(unfinished, "w:", format=tarfile.PAX_FORMAT) as tar,
        ):
            writer = Writer(tar, manifest)
            for entry in entries:
                # Not out of the cache: an archive may be larger than there is room for twice.
                copy = folder / "object"
                address = find(context.store, entry.sha256, entry.size)
                if address is None:
                    raise Missing(
                        f"{context.store.root}/{entry.key} went while it was exported"
                    )
                download(context.store, address, entry.sha256, entry.size, copy)
                writer.add(entry, copy)
                copy.unlink()
            for entry, file in documents:
                writer.add(entry, file)
        with local_errors(path):
            unfinished.rename(path)
    return Exported(
        run_id=run_id,
        file=str(path),
        receipts=len(receipts),
        objects=len(present),
        bytes=path.stat().st_size,
        collected=manifest.collected,
    )


def _receipts(records: Records, run_id: str) -> list[Receipt]:
    """Return the receipts of a run, and of all work that went into them."""
    by_digest = {receipt.digest: ref for ref, receipt in records.receipts.items()}
    refs = records.with_all_named(refs_of(records.attempts[run_id]))
    waiting = list(refs)
    while waiting:
        receipt = records.receipts.get(waiting.pop())
        digests = [] if receipt is None else list(receipt.inputs.values())
        input_refs = [by_digest[digest] for digest in digests if digest in by_digest]
        new_refs = records.with_all_named(input_refs) - refs
        refs |= new_refs
        waiting += new_refs
    return [records.receipts[ref] for ref in sorted(refs & records.receipts.keys())]


def _documents(
    context: Context, run_id: str, receipts: Iterable[Receipt], folder: Path
) -> list[tuple[Entry, Path]]:
    """Copy everything but objects into a folder; return (entry, file) in the archive's order."""
    document_keys = [
        keys.receipt_key(receipt.step, receipt.key) for receipt in receipts
    ]
    for receipt in receipts:
        document_keys += _published(context, receipt)
    for prefix in (
        f"reviews/{run_id}/",
        f"runs/{run_id}/",
        keys.attempts_prefix(run_id),
    ):
        document_keys += sorted(context.store.list(prefix))
    documents = []
    for number, key in enumerate(dict.fromkeys(document_keys)):
        path = folder / f"document-{number}"
        context.store.get_file(key, path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        documents.append(
            (Entry(key=key, size=path.stat().st_size, sha256=sha256), path)
        )
    return documents


def _published(context: Context, receipt: Receipt) -> Iterator[str]:
    """Yield the keys of the model folder that a receipt has published."""
    if receipt.step not in PublishSummary.written_by:
        return
    if standing_of(context, receipt) != "released":
        return
    prefix = read_summary(receipt, PublishSummary).prefix
    for name in sorted(receipt.objects):
        if prefix and not name.startswith(LEDGER_FOLDER):
            yield prefix + name
