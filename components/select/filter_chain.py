"""The filters at work on all samples of a round, pass by pass, in bounded memory.

Every dropped sample is written with its reason, and every filter is counted.
"""

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
    """Counts of the samples that went in, came out and were dropped."""

    given: int = 0
    """Samples before the first filter."""
    kept: int = 0
    """Samples after the last filter."""
    filters: dict[str, dict[str, int]] = field(default_factory=dict)
    """Name → `given`, `kept`, in the order of the filters."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason → dropped samples."""
    audit: dict[str, Any] | None = None
    """`Audit.summary`; None without audit samples."""
    hinted: Account | None = None
    """The same for samples with a hint, which are counted nowhere else; None without hints."""

    def note(self, name: str, given: int, kept: int, dropped: Iterable[Dropped]) -> None:
        """Add the outcome of a filter on a block; assert that no sample was lost.

        Args:
            name: The filter.
            given: Samples before the filter.
            kept: Samples after it.
            dropped: The others.
        """
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
        """Reason → dropped samples, in alphabetical order."""
        return dict(sorted(self.reasons.items()))

    def check(self) -> None:
        """Assert that no sample was lost between filters."""
        assert self.kept + self.reasons.total() == self.given, "samples were lost between filters"
        if self.hinted is not None:
            self.hinted.check()


def collect(
    blocks: Iterable[Block], audit_ids: frozenset[str], path: Path
) -> tuple[Spool, list[ScoredSample]]:
    """Return (spool of the samples that may be trained on, samples of audit prompts).

    Audit prompts are few, so their samples are held in memory.

    Args:
        blocks: All samples of the round.
        audit_ids: Ids of the audit prompts.
        path: The spool's file.
    """
    spool = Spool(path)
    audit_samples: list[ScoredSample] = []
    for block in blocks:
        spool.write([scored for scored in block if scored.prompt.id not in audit_ids])
        audit_samples += [scored for scored in block if scored.prompt.id in audit_ids]
    return spool, audit_samples


def filter_all(spool: Spool, rules: Rules, rejected: BinaryIO) -> tuple[Spool, Account]:
    """Return (spool of the samples that passed all filters, account); `spool` is removed.

    Each filter works on the samples that the filter before it passed. Every sample is either in the
    returned spool or in `rejected`. Audit samples pass the filters that check quality, apart from
    the others.

    Args:
        spool: All samples but those of audit prompts.
        rules: Settings, scorers and the audit samples.
        rejected: File that dropped rows are appended to, as JSON Lines.
    """
    account = Account(given=spool.count - spool.num_hinted)
    if rules.hints is not None:
        account.hinted = Account(given=spool.num_hinted)
    audit = Audit(rules.audit)
    for pass_number, entries in enumerate(PASSES, 1):
        filters: list[tuple[Entry, Filter]] = []
        for entry in entries:
            apply = entry.filter_of(rules, spool.blocks)
            if apply is not None:
                filters.append((entry, apply))
        if not filters:
            continue
        next_spool = Spool(rules.folder / f"pass-{pass_number}")
        for block in spool.blocks():
            next_spool.write(_passed(block, filters, account, rejected))
        for entry, apply in filters:
            if entry.checks_quality:
                audit.pass_through(entry.name, apply)
        spool.remove()
        spool = next_spool
    account.kept = spool.count - spool.num_hinted
    if account.hinted is not None:
        account.hinted.kept = spool.num_hinted
    account.audit = audit.summary()
    account.check()
    return spool, account


def _passed(
    block: Block, filters: list[tuple[Entry, Filter]], account: Account, rejected: BinaryIO
) -> Block:
    """Return the samples of a block that all filters of a pass let through."""
    for entry, apply in filters:
        passed, dropped = apply(block)
        _note(account, entry.name, block, passed, dropped)
        for row in dropped:
            write_line(rejected, row)
        block = passed
    return block


def _note(account: Account, name: str, block: Block, passed: Block, dropped: list[Dropped]) -> None:
    """Count the outcome of a filter, samples with a hint in the account of their own."""
    if account.hinted is None:
        account.note(name, len(block), len(passed), dropped)
        return
    for part, hinted in ((account, False), (account.hinted, True)):
        num_given = sum(scored.hinted == hinted for scored in block)
        num_passed = sum(scored.hinted == hinted for scored in passed)
        part.note(
            name, num_given, num_passed, [row for row in dropped if ("hinted" in row.row) == hinted]
        )
