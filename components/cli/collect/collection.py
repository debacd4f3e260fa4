"""One collection: condemn what is garbage now, delete what was condemned long enough ago.

In this order, so that no writer can come in between (storage/objects.py has the writers' side):

1. Tell that garbage is collected here, then that a sweep is under way.
2. List the marks that are older than the grace period, by the store's own clock.
3. Read all records (records.py), all of them after these marks were written. What a record needs
   that was written before, this reading sees. Its writer looked at the marks after it had written
   it: what it could see condemned, it has stored anew elsewhere.
4. Delete the objects of these marks, unless they are needed and nowhere else. The marks stay: they
   tell that the object was collected, and keep its address from being used again.
5. Write marks beside new garbage; end the sweep.

A collection that is killed leaves less garbage or more marks, and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from components.canonical import canonical_json
from components.cli.collect.marking import UNNAMED, Policy, mark
from components.cli.collect.records import read_records
from components.errors import Corrupt, Missing, Transient
from components.runtime.context import Context
from components.runtime.reviews import read_batch
from components.storage import keys
from components.storage.entry import Entry

PROGRESS = "checkpoints and batches of finished work"
SURPLUS = "second copies of what is needed"
CACHE_SECONDS = 3600.0
"""Files that came into this machine's cache within this time may be about to be opened."""
STALE_SECONDS = 7 * 86400.0
"""A sweep that began earlier was killed."""


@dataclass
class Amount:
    """Some objects."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.objects += 1
        self.bytes += size


@dataclass
class Collection:
    """The account of one collection."""

    store: str
    deletes: bool
    """False: a dry run."""
    grace_seconds: float
    found: dict[str, Amount] = field(default_factory=dict)
    """Kind → garbage that was there when it began: condemned now, or at an earlier time."""
    condemned: Amount = field(default_factory=Amount)
    """Marked now (dry run: that would be)."""
    waiting: Amount = field(default_factory=Amount)
    """Marked earlier, within the grace period."""
    deleted: Amount = field(default_factory=Amount)
    """Deleted now (dry run: that would be)."""
    kept: Amount = field(default_factory=Amount)
    """Needed, too small or too new."""
    needed_again: int = 0
    """Condemned objects that stay, because somebody needs them again."""
    unfinished: Amount = field(default_factory=Amount)
    """Progress of work without a receipt, which can go on; kept."""
    kept_runs: dict[str, str] = field(default_factory=dict)
    """Run → why it is kept."""
    dropped_runs: list[str] = field(default_factory=list)
    stale_sweeps: int = 0
    """Sweeps that were killed, whose traces are removed."""


def collect(
    context: Context, policy: Policy, *, grace_seconds: float, delete: bool
) -> Collection:
    """Collect the garbage of a store; without `delete` say what would happen.

    Raises:
        Corrupt: A record is damaged. Nothing is deleted.
        Transient: The store does not answer.
    """
    account = Collection(context.store.root, delete, grace_seconds)
    if not delete:
        _Sweep(context, policy, account, "", context.clock()).carry_out()
        return account
    begun = canonical_json(
        {"purpose": "garbage is collected here; see storage/objects.py"}
    )
    context.store.put_bytes(keys.collections_key(), begun, if_absent=True)
    sweep_key = keys.sweep_key(secrets.token_hex(8))
    context.store.put_bytes(sweep_key, canonical_json({"by": context.asked_by}))
    try:
        now = _begin_of(context, sweep_key)
        _Sweep(context, policy, account, sweep_key, now).carry_out()
        account.stale_sweeps = _remove_stale_sweeps(
            context, now - _stale_after(grace_seconds)
        )
    finally:
        # A sweep that is killed stays: until it is stale, writers store anew what it could delete.
        context.store.delete(sweep_key)
    return account


def _begin_of(context: Context, sweep_key: str) -> float:
    """Return the time of this sweep by the store's clock, which all marks have too."""
    for entry in context.store.entries(keys.sweeps_prefix()):
        if entry.key == sweep_key:
            return entry.modified
    raise Corrupt(
        f"{context.store.root}: the listing does not show what was just written; gc needs a store "
        "whose listings are up to date"
    )


def _remove_stale_sweeps(context: Context, before: float) -> int:
    stale = [
        entry.key
        for entry in context.store.entries(keys.sweeps_prefix())
        if entry.modified < before
    ]
    for key in stale:
        context.store.delete(key)
    return len(stale)


def _stale_after(grace_seconds: float) -> float:
    # The trace of a sweep protects until then: one that was suspended for so long stops itself.
    return max(2 * grace_seconds, STALE_SECONDS)


class _Sweep:
    """One look at all objects."""

    def __init__(
        self,
        context: Context,
        policy: Policy,
        account: Collection,
        sweep_key: str,
        now: float,
    ) -> None:
        self._context = context
        self._policy = policy
        self._account = account
        self._sweep_key = sweep_key
        self._due_before = now - account.grace_seconds
        # The marks first: every record that is read below is read after they were written.
        self._is_due = {
            entry.key: entry.modified <= self._due_before
            for entry in context.store.entries("condemned/")
        }
        self._stored = _objects_by_digest(context)
        try:
            self._records = read_records(context)
        except Corrupt as error:
            raise Corrupt(
                f"nothing is deleted while a record cannot be read: {error}"
            ) from None
        self._marks = mark(self._records, policy, _reviewed(context))

    def carry_out(self) -> None:
        """Delete, condemn or keep every object."""
        self._account.kept_runs = self._marks.kept_runs
        self._account.dropped_runs = self._marks.dropped_runs
        for sha256, copies in sorted(self._stored.items()):
            if sha256 in self._marks.needed:
                self._judge_needed(sha256, copies)
            else:
                self._judge_unneeded(sha256, copies)
        self._judge_progress()
        self._tidy_cache()

    def _judge_needed(self, sha256: str, copies: dict[int, Entry]) -> None:
        # Of several copies the newest stays: the others were condemned before it was stored.
        newest = max(copies)
        for generation, entry in sorted(copies.items()):
            mark_key = keys.condemned_key(sha256, generation)
            is_marked = mark_key in self._is_due
            if is_marked and generation < newest and entry.size == copies[newest].size:
                self._take(SURPLUS, mark_key, "stored anew", entry)
                continue
            self._account.needed_again += is_marked
            self._account.kept.add(entry.size)

    def _judge_unneeded(self, sha256: str, copies: dict[int, Entry]) -> None:
        kind, named_by = self._marks.unneeded.get(
            sha256, (UNNAMED, "it was never used")
        )
        for generation, entry in sorted(copies.items()):
            if not _may_go(self._policy, kind, entry, self._due_before):
                self._account.kept.add(entry.size)
                continue
            mark_key = keys.condemned_key(sha256, generation)
            self._take(kind, mark_key, named_by, entry)

    def _take(self, kind: str, mark_key: str, named_by: str, entry: Entry) -> None:
        """Condemn a piece of garbage, or delete it if it is due."""
        account = self._account
        account.found.setdefault(kind, Amount()).add(entry.size)
        if mark_key not in self._is_due:
            account.condemned.add(entry.size)
            if account.deletes:
                self._condemn(mark_key, kind, named_by, entry)
        elif not self._is_due[mark_key]:
            account.waiting.add(entry.size)
        else:
            account.deleted.add(entry.size)
            if account.deletes:
                self._delete(entry)

    def _condemn(self, mark_key: str, kind: str, named_by: str, entry: Entry) -> None:
        document = {
            "object": entry.key,
            "bytes": entry.size,
            "why": f"{kind}: {named_by}",
            "by": self._context.asked_by,
        }
        self._context.store.put_bytes(
            mark_key, canonical_json(document), if_absent=True
        )

    def _delete(self, entry: Entry) -> None:
        # A machine may have slept for days since the records were read.
        if self._context.store.size(self._sweep_key) is None:
            raise Transient(
                f"{self._context.store.root}: this collection took so long that another one ended "
                "it; start it again"
            )
        self._context.store.delete(entry.key)

    def _tidy_cache(self) -> None:
        """Delete what this machine keeps of objects that an earlier collection deleted."""
        if not self._account.deletes:
            return
        hour_ago = self._context.clock() - CACHE_SECONDS
        for mark_key in self._is_due:
            sha256 = mark_key.rpartition("/")[2].removesuffix(".json")
            if sha256 not in self._stored and sha256 not in self._marks.needed:
                self._context.cache.discard(sha256, before=hour_ago)

    def _judge_progress(self) -> None:
        """Delete the progress of work that has its receipt; a killed task may have left it."""
        by_work: dict[tuple[str, str], list[Entry]] = {}
        for entry in self._context.store.entries("progress/"):
            _, step, folder, *_ = f"{entry.key}///".split("/")
            # Peers keep theirs in a folder each, `KEY-1`.
            by_work.setdefault((step, folder.partition("-")[0]), []).append(entry)
        account = self._account
        for (step, key), entries in by_work.items():
            is_finished = f"{step}/{key}" in self._records.receipts
            is_new = max(entry.modified for entry in entries) > self._due_before
            for entry in entries:
                if not is_finished:
                    account.unfinished.add(entry.size)
                elif is_new:
                    account.kept.add(entry.size)
                else:
                    account.found.setdefault(PROGRESS, Amount()).add(entry.size)
                    account.deleted.add(entry.size)
                    if account.deletes:
                        self._delete(entry)


def _objects_by_digest(context: Context) -> dict[str, dict[int, Entry]]:
    """Return digest → generation → object."""
    stored: dict[str, dict[int, Entry]] = {}
    for entry in context.store.entries("objects/"):
        address = keys.split_object_key(entry.key)
        # What has another name is somebody else's.
        if address is not None:
            sha256, generation = address
            stored.setdefault(sha256, {})[generation] = entry
    return stored


def _may_go(policy: Policy, kind: str, entry: Entry, due_before: float) -> bool:
    """Return True for an object that nobody needs, if it is neither too small nor too new to go."""
    if kind == UNNAMED:
        # Its receipt may be on its way.
        return entry.size > policy.unnamed_bytes and entry.modified <= due_before
    return entry.size > policy.small_bytes


def _reviewed(context: Context) -> Iterator[str]:
    """Yield the digests of the verdicts of people, which no receipt names before they are used."""
    for key in context.store.list("reviews/"):
        try:
            yield read_batch(context, key).sha256
        except Missing:
            continue
