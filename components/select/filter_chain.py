"""Let the filters work over all samples of a round, pass by pass, in bounded memory and with a
full account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from components.contracts.rows import Dropped
from components.contracts.summaries.select import FilterAudit, FilterCounts, Votes
from components.select.filter_audit import Audit
from components.select.filter_settings import Rules
from components.select.filters import BEFORE_VERIFIER, PASSES, VERIFIER, Entry
from components.select.row_files import write_line
from components.select.scored_sample_file import Spool
from components.select.scored_samples import Block, Filter, ScoredSample
from components.select.vote_tally import VoteTally


@dataclass
class Account:
    """What went in, what came out, and where the rest stayed."""

    given: int = 0
    kept: int = 0
    filters: dict[str, FilterCounts] = field(default_factory=dict)
    """In the order they worked."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason → rows dropped."""
    audit: FilterAudit | None = None
    votes: Votes | None = None
    hinted: Account | None = None
    """The same of samples with a hint, which are counted nowhere else; None without hints."""

    def note(self, name: str, given: int, kept: int, dropped: Iterable[Dropped]) -> None:
        """Add a filter's verdict on a block; asserts that no sample was lost."""
        reasons = Counter(row.reason for row in dropped)
        assert kept + reasons.total() == given, (
            f"{name} lost samples: {given} in, {kept} + {reasons.total()} out"
        )
        before = self.filters.get(name, FilterCounts(given=0, kept=0))
        self.filters[name] = FilterCounts(given=before.given + given, kept=before.kept + kept)
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
    votes = VoteTally(rules.validation)
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
            outcomes = list(_filtered(block, filters, account, rejected))
            if number == 1:
                _count_votes(votes, block, outcomes)
            _withdraw(votes, block, outcomes)
            after.write(outcomes[-1][1])
        for entry, one in filters:
            if entry.checks_quality:
                audit.pass_through(entry.name, one)
        spool.remove()
        spool = after
    account.kept = spool.count - spool.num_hinted
    account.audit = audit.summary()
    account.votes = votes.summary()
    if account.hinted is not None:
        account.hinted.kept = spool.num_hinted
    account.check()
    return spool, account


def _filtered(
    block: Block, filters: list[tuple[Entry, Filter]], account: Account, rejected: BinaryIO
) -> Iterator[tuple[Entry, Block]]:
    """One block through the filters of one pass: each filter with what it leaves."""
    for entry, one in filters:
        kept, dropped = one(block)
        _note(account, entry.name, block, kept, dropped)
        for row in dropped:
            write_line(rejected, row)
        yield entry, kept
        block = kept


def _count_votes(votes: VoteTally, block: Block, outcomes: list[tuple[Entry, Block]]) -> None:
    """Add up the votes of a block that went through the first pass. Without a verifier all samples
    pass it."""
    judged = passed = block
    for entry, kept in outcomes:
        if entry.name in BEFORE_VERIFIER:
            judged = passed = kept
        elif entry.name == VERIFIER:
            passed = kept
    votes.judge(judged, passed)


def _withdraw(votes: VoteTally, block: Block, outcomes: list[tuple[Entry, Block]]) -> None:
    """Take back the votes of samples that a filter behind the verifier refuses for what they say."""
    for entry, kept in outcomes:
        if entry.checks_quality and entry.name not in (*BEFORE_VERIFIER, VERIFIER):
            votes.withdraw(block, kept)
        block = kept


def _note(account: Account, name: str, block: Block, kept: Block, dropped: list[Dropped]) -> None:
    """A verdict on a block, in the account of samples with a hint as far as it is about them."""
    if account.hinted is None:
        account.note(name, len(block), len(kept), dropped)
        return
    for one, hinted in ((account, False), (account.hinted, True)):
        given, left = (sum(each.hinted == hinted for each in some) for some in (block, kept))
        one.note(name, given, left, [row for row in dropped if ("hinted" in row.row) == hinted])
