"""Let the filters work over all samples of a round, pass by pass, in bounded memory and with a
full account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from components.contracts.rows import Dropped
from components.select.filter_audit import Audit
from components.select.filter_settings import Rules
from components.select.filters import PASSES, Entry
from components.select.row_files import write_line
from components.select.scored_sample_file import Spool
from components.select.scored_samples import Block, Filter, ScoredSample


@dataclass
class Account:
    """What went in, what came out, and where the rest stayed."""

    given: int = 0
    kept: int = 0
    filters: dict[str, dict[str, int]] = field(default_factory=dict)
    """Name → given, kept, in the order they worked."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason → rows dropped."""
    audit: dict[str, Any] | None = None
    hinted: Account | None = None
    """The same of samples with a hint, which are counted nowhere else; None without hints."""

    def note(self, name: str, given: int, kept: int, dropped: Iterable[Dropped]) -> None:
        """Add a filter's verdict on a block; asserts that no sample was lost."""
        reasons = Counter(row.reason for row in dropped)
        assert kept + reasons.total() == given, (
            f"{name} lost samples: {given} in, {kept} + {reasons.total()} out"
        )
        counts = self.filters.setdefault(name, {"given": 0, "kept": 0})
        counts["given"] += given
        counts["kept"] += kept
        self.reasons.update(reasons)

    @property
    def by_reason(self) -> dict[str, int]:
        """Reason → rows dropped, in alphabetical order."""
        return dict(sorted(self.reasons.items()))

    def check(self) -> None:
        """Conservation over all filters."""
        assert self.kept + self.reasons.total() == self.given, "samples were lost between filters"
        if self.hinted is not None:
            self.hinted.check()


def collect(
    blocks: Iterable[Block], audit_ids: frozenset[str], path: Path
) -> tuple[Spool, list[ScoredSample]]:
    """All samples in a spool but those of audit prompts, which are few and are given back as
    they are."""
    spool, audit = Spool(path), list[ScoredSample]()
    for block in blocks:
        teaching, apart = list[ScoredSample](), list[ScoredSample]()
        for one in block:
            (apart if one.prompt.id in audit_ids else teaching).append(one)
        spool.write(teaching)
        audit += apart
    return spool, audit


def filter_all(spool: Spool, rules: Rules, rejected: BinaryIO) -> tuple[Spool, Account]:
    """Let every filter work on what the one before it kept; dropped rows go to `rejected` as they
    fall. Every sample is in exactly one of the two. Audit samples (`rules.audit`) pass the
    filters that check quality, apart from the others."""
    account, audit = Account(given=spool.count - spool.num_hinted), Audit(rules.audit)
    if rules.hints is not None:
        account.hinted = Account(given=spool.num_hinted)
    for number, entries in enumerate(PASSES, 1):
        remaining = spool.blocks
        filters = [
            (entry, one)
            for entry in entries
            if (one := entry.filter_of(rules, remaining)) is not None
        ]
        if not filters:
            continue
        after = Spool(rules.folder / f"pass-{number}")
        for block in remaining():
            after.write(_filtered(block, filters, account, rejected))
        for entry, one in filters:
            if entry.checks_quality:
                audit.pass_through(entry.name, one)
        spool.remove()
        spool = after
    account.kept, account.audit = spool.count - spool.num_hinted, audit.summary()
    if account.hinted is not None:
        account.hinted.kept = spool.num_hinted
    account.check()
    return spool, account


def _filtered(
    block: Block, filters: list[tuple[Entry, Filter]], account: Account, rejected: BinaryIO
) -> Block:
    """One block through the filters of one pass."""
    for entry, one in filters:
        kept, dropped = one(block)
        _note(account, entry.name, block, kept, dropped)
        for row in dropped:
            write_line(rejected, row)
        block = kept
    return block


def _note(account: Account, name: str, block: Block, kept: Block, dropped: list[Dropped]) -> None:
    """A verdict on a block, in the account of samples with a hint as far as it is about them."""
    if account.hinted is None:
        account.note(name, len(block), len(kept), dropped)
        return
    for one, hinted in ((account, False), (account.hinted, True)):
        given, left = (sum(each.hinted == hinted for each in some) for some in (block, kept))
        one.note(name, given, left, [row for row in dropped if ("hinted" in row.row) == hinted])
