"""The filters at work on all samples of a round, pass by pass, in bounded memory.

Every dropped sample is written with its reason, and every filter is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from components.contracts.rows import Dropped
from components.contracts.summaries.select import FilterAudit, FilterCounts, Votes
from components.select.filter_audit import Audit
from components.select.filter_settings import FilterSettings
from components.select.filters import BEFORE_VERIFIER, PASSES, VERIFIER, Entry
from components.select.row_files import write_line
from components.select.scored_sample_file import ScoredSampleFile
from components.select.scored_samples import Block, Filter, Remaining, ScoredSample
from components.select.vote_tally import VoteTally


@dataclass
class Account:
    """Counts of the samples that went in, came out and were dropped."""

    given: int = 0
    """Samples before the first filter."""
    accepted: int = 0
    """Samples after the last filter."""
    filters: dict[str, FilterCounts] = field(default_factory=dict)
    """Name → counts, in the order of the filters."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason → dropped samples."""
    audit: FilterAudit | None = None
    """None without audit samples."""
    votes: Votes | None = None
    """None if no prompt could be counted."""
    hinted: Account | None = None
    """The same for samples with a hint, which are counted nowhere else; None without hints."""

    def note(
        self, name: str, given: int, accepted: int, dropped: Iterable[Dropped]
    ) -> None:
        """Add the outcome of a filter on a block; assert that no sample was lost.

        Args:
            name: The filter.
            given: Samples before the filter.
            accepted: Samples after it.
            dropped: The others.
        """
        reasons = Counter(row.reason for row in dropped)
        assert accepted + reasons.total() == given, (
            f"{name} lost samples: {given} in, {accepted} + {reasons.total()} out"
        )
        earlier = self.filters.get(name, FilterCounts(given=0, accepted=0))
        self.filters[name] = FilterCounts(
            given=earlier.given + given, accepted=earlier.accepted + accepted
        )
        self.reasons.update(reasons)

    @property
    def by_reason(self) -> dict[str, int]:
        """Reason → dropped samples, in alphabetical order."""
        return dict(sorted(self.reasons.items()))

    def check(self) -> None:
        """Assert that no sample was lost between filters."""
        num_dropped = self.reasons.total()
        assert self.accepted + num_dropped == self.given, (
            "samples were lost between filters"
        )
        if self.hinted is not None:
            self.hinted.check()


def collect(
    blocks: Iterable[Block], audit_ids: frozenset[str], path: Path
) -> tuple[ScoredSampleFile, list[ScoredSample]]:
    """Return (file of the samples that may be trained on, samples of audit prompts).

    Args:
        blocks: All samples of the round.
        audit_ids: Ids of the audit prompts.
        path: Where the file is written.
    """
    file = ScoredSampleFile(path)
    # Audit prompts are few, so their samples are held in memory.
    audit_samples: list[ScoredSample] = []
    for block in blocks:
        teaching: list[ScoredSample] = []
        for scored in block:
            part = audit_samples if scored.prompt.id in audit_ids else teaching
            part.append(scored)
        file.write(teaching)
    return file, audit_samples


def filter_all(
    samples: ScoredSampleFile, settings: FilterSettings, rejected: BinaryIO
) -> tuple[ScoredSampleFile, Account]:
    """Return (file of the samples that passed all filters, account); `samples` is removed.

    Each filter works on the samples that the filter before it passed. Every sample is either in the
    returned file or in `rejected`. Audit samples pass the filters that check quality, apart from
    the others.

    Args:
        samples: All samples but those of audit prompts.
        settings: Settings, scorers and the audit samples.
        rejected: File that dropped rows are appended to, as JSON Lines.
    """
    account = Account(given=samples.count - samples.num_hinted)
    if settings.hints is not None:
        account.hinted = Account(given=samples.num_hinted)
    audit = Audit(settings.audit, settings.room)
    votes = VoteTally(settings.validation)
    for pass_number, entries in enumerate(PASSES, 1):
        filters = _filters_of_pass(entries, settings, samples.blocks)
        if not filters:
            continue
        passed = ScoredSampleFile(settings.folder / f"pass-{pass_number}")
        for block in samples.blocks():
            outcomes = list(_outcomes(block, filters, account, rejected))
            # Only the first pass sees whole prompts as they were sampled, and has the verifier.
            if pass_number == 1:
                _count_votes(votes, block, outcomes)
            _withdraw_votes(votes, block, outcomes)
            # Each filter's outcome is the input of the next one: the last one is what is left.
            _, passed_block = outcomes[-1]
            passed.write(passed_block)
        # Filters against repetition say nothing about right and wrong: no audit sample passes them.
        for entry, apply in filters:
            if entry.checks_quality:
                audit.pass_through(entry.name, apply)
        # The files of two passes are on disk at any time, not those of all.
        samples.remove()
        samples = passed
    account.accepted = samples.count - samples.num_hinted
    if account.hinted is not None:
        account.hinted.accepted = samples.num_hinted
    account.audit = audit.summary()
    account.votes = votes.summary()
    account.check()
    return samples, account


def _filters_of_pass(
    entries: Iterable[Entry], settings: FilterSettings, remaining: Remaining
) -> list[tuple[Entry, Filter]]:
    """Return the filters of a pass that the recipe asks for."""
    filters: list[tuple[Entry, Filter]] = []
    for entry in entries:
        apply = entry.filter_of(settings, remaining)
        if apply is not None:
            filters.append((entry, apply))
    return filters


def _outcomes(
    block: Block,
    filters: list[tuple[Entry, Filter]],
    account: Account,
    rejected: BinaryIO,
) -> Iterator[tuple[Entry, Block]]:
    """Yield each filter of a pass with the samples of the block that it lets through."""
    for entry, apply in filters:
        passed, dropped = apply(block)
        _note(account, entry.name, block, passed, dropped)
        # As they fall: no pass holds its dropped rows in memory.
        for row in dropped:
            write_line(rejected, row)
        yield entry, passed
        block = passed


def _count_votes(
    votes: VoteTally, block: Block, outcomes: list[tuple[Entry, Block]]
) -> None:
    """Count the votes of a block that went through the first pass."""
    checked = block
    accepted = (
        block  # Without a verifier in the recipe every sample counts as accepted.
    )
    for entry, passed in outcomes:
        if entry.name in BEFORE_VERIFIER:
            checked = passed
            accepted = passed
        elif entry.name == VERIFIER:
            accepted = passed
    votes.add(checked, accepted)


def _withdraw_votes(
    votes: VoteTally, block: Block, outcomes: list[tuple[Entry, Block]]
) -> None:
    """Take back the votes of samples that a later quality filter than the verifier drops."""
    for entry, passed in outcomes:
        if entry.checks_quality and entry.name not in (*BEFORE_VERIFIER, VERIFIER):
            votes.withdraw(block, passed)
        block = passed


def _note(
    account: Account, name: str, block: Block, passed: Block, dropped: list[Dropped]
) -> None:
    """Count the outcome of a filter, samples with a hint in the account of their own."""
    if account.hinted is None:
        account.note(name, len(block), len(passed), dropped)
        return
    for part, hinted in ((account, False), (account.hinted, True)):
        num_given = sum(scored.hinted == hinted for scored in block)
        num_passed = sum(scored.hinted == hinted for scored in passed)
        # Dropped rows have the key only where the sample had a hint.
        part_dropped = [row for row in dropped if ("hinted" in row.row) == hinted]
        part.note(name, num_given, num_passed, part_dropped)
