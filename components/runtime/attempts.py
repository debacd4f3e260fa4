"""Records of attempts: each try of a task, with its times, costs, host and error.

They are for people, reports and budgets, never a source of truth: a receipt holds none of this,
because the same work must give the same receipt.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, PrivateAttr

from components.errors import Corrupt, RatchetError, Transient, without_passwords
from components.runtime.context import Context
from components.runtime.log_lines import LogSubject
from components.storage import keys
from components.storage.folder import full_disk_errors

_SEQUENCE = re.compile(r"\d+-\d+-(\d{6,12})\.json")
"""Name of a record. Those of older versions have no sequence."""


class Task(BaseModel):
    """A task of a run: attempt records are filed under its run and its name in the graph."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    name: str
    """With the round, `train-r1`."""
    round: int
    """Global number of the round; -1 where the base model is measured."""


class Attempt(BaseModel):
    """One try of one task: for people, reports and budgets, never a source of truth."""

    model_config = ConfigDict(extra="forbid")
    task: str
    step: str
    round: int
    sequence: int = 0
    """Place in the order of the run's attempts: one more than any that was there when it began. Of
    equal ones, which began side by side, the times decide."""
    # Times alone are no order: a machine whose clock was ahead would have the last word for ever.
    started: float
    """Seconds since the epoch, by the clock of the machine that did it."""
    seconds: float = 0.0
    """Wall time from the start of the step's process where it is known, else of the step."""
    work_seconds: float = 0.0
    """The part spent in the step's own work, without process start, imports and storage."""
    reused: bool = False
    receipt: str = ""
    """`step/key` of the receipt; empty while running or after a failure."""
    other_receipts: tuple[str, ...] = ()
    """Further receipts that it committed, or found done and went on from: `gc` keeps them."""
    error: str = ""
    error_kind: str = ""
    host: str = ""
    peak_memory_bytes: int = 0
    """Largest resident set of the step's process or of one of its children."""
    costs: dict[str, float] = {}
    """Name of a measure of the step (`compute_seconds`, `tokens`) → amount."""

    _write: Callable[[Attempt], None] | None = PrivateAttr(default=None)
    """Stores a record of this attempt, while it is under way."""

    def name(self, receipt: str) -> None:
        """Name a receipt as the result; an earlier one becomes one of the others."""
        if self.receipt and self.receipt != receipt:
            self._add(self.receipt)
        self.receipt = receipt

    def note_reuse(self, receipt: str) -> None:
        """Store at once that this attempt goes on from a receipt that it found."""
        self._add(receipt)
        # Still running: the result comes with the record at the end.
        if self._write is not None:
            self._write(self.model_copy(update={"receipt": ""}))

    def _add(self, receipt: str) -> None:
        if receipt not in self.other_receipts:
            self.other_receipts = (*self.other_receipts, receipt)

    @property
    def order(self) -> tuple[int, float]:
        """Key by which the attempts of a run are sorted."""
        return self.sequence, self.started

    @property
    def checksum(self) -> str:
        """SHA-256 over all fields."""
        return hashlib.sha256(
            self.model_dump_json(exclude=self._absent).encode()
        ).hexdigest()

    @property
    def _absent(self) -> set[str]:
        """Fields that are left out, as they were before there were such."""
        return set() if self.other_receipts else {"other_receipts"}

    def to_bytes(self) -> bytes:
        """Return the stored form: JSON with a checksum of all other fields."""
        stored = _StoredAttempt(**dict(self), stored_checksum=self.checksum)
        return stored.model_dump_json(exclude=self._absent).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Attempt:
        """Return the attempt of a stored form.

        Raises ValidationError if it is none, Corrupt if it was changed since it was written. A record
        without a checksum is of an older version, and believed.
        """
        stored = _StoredAttempt.model_validate_json(data)
        attempt = Attempt.model_validate(stored.model_dump(exclude={"stored_checksum"}))
        if stored.stored_checksum not in (None, attempt.checksum):
            raise Corrupt(
                f"the attempt record of {attempt.task} was changed after it was written"
            )
        return attempt


class _StoredAttempt(Attempt):
    """The stored form: a flipped bit in a time or an error is valid JSON still."""

    stored_checksum: str | None = None


@contextmanager
def attempting(context: Context, task: Task, step: str) -> Iterator[Attempt]:
    """Record one try of a task, when it begins and when it ends, with the error that ended it."""
    attempt = Attempt(
        task=task.name,
        step=step,
        round=task.round,
        sequence=next_sequence(context, task.run_id),
        started=context.started,
        host=platform.node() or "unknown",
    )
    attempt._write = lambda record: _record(context, task, record, tolerated=())
    subject = LogSubject(run=task.run_id, round=task.round, step=step, task=task.name)
    context.progress.begin(subject)
    # A store that cannot be used is found here, before the work; one that fails for now may be back
    # after it.
    _record(context, task, attempt, tolerated=Transient)
    try:
        with full_disk_errors(context.scratch):
            yield attempt
    except BaseException as error:
        # Interrupts too: a person who stopped a run finds it in the report.
        attempt.error = without_passwords(str(error)) or type(error).__name__
        attempt.error_kind = type(error).__name__
        raise
    else:
        if attempt.reused:
            context.progress.note("reused")
    finally:
        attempt.seconds = round(context.clock() - attempt.started, 3)
        own_usage = resource.getrusage(resource.RUSAGE_SELF)
        children_usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Linux counts in KiB. Of the children it tells the largest one, not their sum.
        peak_kib = max(own_usage.ru_maxrss, children_usage.ru_maxrss)
        attempt.peak_memory_bytes = peak_kib * 1024
        hashing = {"verify_seconds": round(context.cache.verify_seconds, 6)}
        attempt.costs = {**context.costs, **hashing}
        # A missing attempt record costs a line of the report; failing here would hide the result or
        # its failure.
        _record(context, task, attempt, tolerated=RatchetError)


def next_sequence(context: Context, run_id: str) -> int:
    """Return one more than the largest sequence of the run's attempts; 0 if they are not known."""
    prefix = keys.attempts_prefix(run_id)
    try:
        names = [key.rpartition("/")[2] for key in context.store.list(prefix)]
    except Transient:
        return 0
    found = [
        match.group(1) for match in map(_SEQUENCE.fullmatch, names) if match is not None
    ]
    return 1 + max(map(int, found), default=0)


def _record(
    context: Context,
    task: Task,
    attempt: Attempt,
    *,
    tolerated: type[RatchetError] | tuple[type[RatchetError], ...],
) -> None:
    # Unique without a look at the store: two pods may try one task at the same time. The record at
    # the end replaces the one at the begin, so one without an end is of a try that was killed.
    name = f"{int(attempt.started * 1000)}-{os.getpid()}-{attempt.sequence:06d}"
    address = keys.attempt_key(task.run_id, task.name, name)
    try:
        context.store.put_bytes(address, attempt.to_bytes())
    except tolerated as error:
        context.progress.note(
            f"attempt record of {task.name} could not be written: {error}"
        )
