"""Everything in a store that names receipts.

What cannot be read might name anything: then nothing is called garbage, or all that a run rests on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from components.contracts.artifacts import STATE
from components.contracts.releases import Line
from components.contracts.state import STATE_STEPS, State
from components.contracts.summaries import PublishSummary, StartSummary
from components.errors import Corrupt, Missing, OlderReceipt
from components.runtime import ledger
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary
from components.storage import keys

_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass
class Records:
    """All receipts, states, attempts and releases of a store."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    """Ref → receipt."""
    states: dict[str, State] = field(default_factory=dict)
    """Ref of a receipt → the state in it."""
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    """Run → its attempts, oldest first."""
    lines: list[Line] = field(default_factory=list)
    """All lines of all ledgers."""
    digests_of_others: set[str] = field(default_factory=set)
    """Digests that stand in receipts which this version does not read."""

    def named_by(self, ref: str) -> Iterator[str]:
        """Yield the refs that a receipt names as what a run goes on with."""
        state = self.states.get(ref)
        if state is not None:
            yield from state.receipts
        receipt = self.receipts.get(ref)
        if receipt is None:
            return
        if receipt.step in StartSummary.written_by:
            summary = read_summary(receipt, StartSummary)
            yield summary.base
            yield summary.first_mix
            if summary.teacher is not None:
                yield summary.teacher.receipt
        if receipt.step in PublishSummary.written_by:
            yield read_summary(receipt, PublishSummary).champion

    def with_all_named(self, refs: Iterable[str]) -> set[str]:
        """Return these refs, those that they name, and so on."""
        reached: set[str] = set()
        waiting = list(refs)
        while waiting:
            ref = waiting.pop()
            if ref not in reached:
                reached.add(ref)
                waiting += self.named_by(ref)
        return reached


def read_records(context: Context) -> Records:
    """Read them.

    Raises:
        Corrupt: One is damaged, so what it needs is not known.
    """
    records = Records()
    _read_receipts(context, records)
    _read_attempts(context, records)
    _read_named(context, records)
    _read_ledgers(context, records)
    return records


def _read_receipts(context: Context, records: Records) -> None:
    for key in context.store.list("steps/"):
        step, _, name = key.removeprefix("steps/").partition("/")
        if "/" in name or not name.endswith(".json"):
            # Somebody else's file.
            records.digests_of_others |= _digests_in(context, key)
            continue
        _read_one(context, records, f"{step}/{name.removesuffix('.json')}")


def _read_one(context: Context, records: Records, ref: str) -> None:
    step, _, key = ref.partition("/")
    try:
        receipt = read_receipt(context, ref)
    except OlderReceipt:
        records.digests_of_others |= _digests_in(context, keys.receipt_key(step, key))
        return
    except Missing:
        # Deleted by a person since the listing, or named by a record that outlived it.
        return
    records.receipts[ref] = receipt
    if step in STATE_STEPS and STATE in receipt.objects:
        try:
            state = State.model_validate_json(
                fetch(context, receipt, STATE).read_bytes()
            )
        except ValidationError as error:
            raise Corrupt(
                f"{ref}: its {STATE} is none ({error.error_count()} errors)"
            ) from None
        records.states[ref] = state


def _digests_in(context: Context, key: str) -> set[str]:
    try:
        text = context.store.get_bytes(key)
    except Missing:
        return set()
    return {digest.decode() for digest in _DIGEST.findall(text)}


def _read_attempts(context: Context, records: Records) -> None:
    for key in context.store.list("attempts/"):
        if key.count("/") != 3:
            continue
        _, run_id, _, _ = key.split("/")
        try:
            attempt = Attempt.from_bytes(context.store.get_bytes(key))
        except Missing:
            continue
        except ValidationError:
            raise Corrupt(
                f"{context.store.root}/{key} is not an attempt record; restore or delete it"
            ) from None
        records.attempts.setdefault(run_id, []).append(attempt)
    for attempts in records.attempts.values():
        attempts.sort(key=lambda attempt: attempt.order)


def refs_of(attempts: Iterable[Attempt]) -> Iterator[str]:
    """Yield the refs of all receipts that attempts name."""
    for attempt in attempts:
        yield from attempt.other_receipts
        if attempt.receipt:
            yield attempt.receipt


def _read_named(context: Context, records: Records) -> None:
    """Read the receipts that are named and were not listed: some stores list late."""
    tried = set(records.receipts)
    waiting = [
        ref for attempts in records.attempts.values() for ref in refs_of(attempts)
    ]
    waiting += [ref for known in records.receipts for ref in records.named_by(known)]
    while waiting:
        ref = waiting.pop()
        if ref not in tried:
            tried.add(ref)
            _read_one(context, records, ref)
            waiting += records.named_by(ref)


def _read_ledgers(context: Context, records: Records) -> None:
    names = set(ledger.names(context))
    for receipt in records.receipts.values():
        if receipt.step in PublishSummary.written_by:
            names.add(read_summary(receipt, PublishSummary).name)
    for name in sorted(names):
        records.lines += ledger.read_lines(context, name)
    for line in records.lines:
        for ref in (line.publish, line.state):
            if ref not in records.receipts:
                _read_one(context, records, ref)
