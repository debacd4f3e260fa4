"""Which objects are needed, and by whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from components.cli.collect.records import Records, refs_of
from components.contracts.artifacts import CHECKER
from components.contracts.state import STATE_STEPS, State
from components.contracts.summaries import PrepareSummary, PublishSummary
from components.runtime.attempts import Attempt
from components.runtime.receipts import Receipt, read_summary
from components.runtime.stored_files import ObjectRef

WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Policy:
    """What is kept beside releases, open work and what nobody has named yet."""

    keep_runs: int = 10
    """Runs begun last that are kept, however they ended."""
    forgotten: frozenset[str] = frozenset()
    """Runs that a person has given up, finished or not."""
    small_bytes: int = 64 * 1024
    """Smaller objects stay: states, recipes, cards and scores tell what a run was."""
    # The code of a checker is in the store before the first receipt that names it, and a schedule
    # names it again each week.
    unnamed_bytes: int = 16 * 1024 * 1024
    """Objects that no receipt names stay if they are no larger."""


@dataclass(frozen=True)
class Keeper:
    """Something that needs receipts."""

    why: str
    refs: frozenset[str]
    without_weights: frozenset[str] = frozenset()
    """Training receipts whose weights it does not need: candidates that were judged and rejected."""


@dataclass
class Marks:
    """The result: digest → reason, of needed and of other objects."""

    needed: set[str] = field(default_factory=set)
    unneeded: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Digest → (kind of garbage, receipt and file that name it)."""
    kept_runs: dict[str, str] = field(default_factory=dict)
    """Run → why it is kept."""
    dropped_runs: list[str] = field(default_factory=list)


REJECTED = "weights of rejected candidates"
OLD_RUNS = "runs that are not kept"
UNNAMED = "objects that no receipt names"


def mark(records: Records, policy: Policy, reviewed: Iterable[str]) -> Marks:
    """Return what is needed.

    Args:
        records: All that names receipts.
        policy: What is kept.
        reviewed: Digests of verdicts of people, which are always kept.
    """
    marks = Marks()
    marks.needed |= records.digests_of_others
    marks.needed.update(reviewed)
    keepers = [*_releases(records), *_unnamed(records), *_runs(records, policy, marks)]
    for keeper in keepers:
        for ref in keeper.refs:
            if ref in records.receipts:
                without = ref in keeper.without_weights
                marks.needed.update(
                    _digests(records.receipts[ref], without_weights=without)
                )
    rejected = {ref for keeper in keepers for ref in keeper.without_weights}
    for ref, receipt in records.receipts.items():
        always = receipt.step in STATE_STEPS
        for name, stored in receipt.objects.items():
            if always or (
                receipt.step in PrepareSummary.written_by and name == CHECKER
            ):
                marks.needed.add(stored.sha256)
            kind = REJECTED if ref in rejected else OLD_RUNS
            marks.unneeded.setdefault(stored.sha256, (kind, f"{ref} {name}"))
    for digest in marks.needed:
        marks.unneeded.pop(digest, None)
    return marks


def _digests(receipt: Receipt, *, without_weights: bool) -> Iterator[str]:
    objects: Mapping[str, ObjectRef] = receipt.objects
    for name, stored in objects.items():
        if not (without_weights and name.endswith(WEIGHTS_SUFFIX)):
            yield stored.sha256


def _releases(records: Records) -> Iterator[Keeper]:
    """Yield every line of every ledger: the model in force, and all that a rollback may go to."""
    for line in records.lines:
        refs = records.with_all_named([line.publish, line.state])
        yield _keeper(
            records, f"release {line.number} of {line.name}", refs, [line.state]
        )


def _unnamed(records: Records) -> Iterator[Keeper]:
    """Yield receipts that no run names: their task may have died before it said so."""
    named = records.with_all_named(
        ref for attempts in records.attempts.values() for ref in refs_of(attempts)
    )
    for ref in records.receipts.keys() - named:
        refs = records.with_all_named([ref])
        yield _keeper(records, "no attempt names it yet", refs, [ref])


def _runs(records: Records, policy: Policy, marks: Marks) -> Iterator[Keeper]:
    newest_first = sorted(
        records.attempts,
        key=lambda run_id: _newest_start(records.attempts[run_id]),
        reverse=True,
    )
    for number, run_id in enumerate(newest_first):
        attempts = records.attempts[run_id]
        why = _why_kept(records, attempts)
        if run_id in policy.forgotten and why != _WAITING:
            why = ""
        elif not why and number < policy.keep_runs:
            why = f"one of the last {policy.keep_runs} runs"
        if not why:
            marks.dropped_runs.append(run_id)
            continue
        marks.kept_runs[run_id] = why
        refs = records.with_all_named(refs_of(attempts))
        yield _keeper(
            records, f"run {run_id}", refs, _states_of_last_start(records, attempts)
        )


_WAITING = "its champion waits for approval"
_OPEN = "not finished: it can go on"


def _why_kept(records: Records, attempts: list[Attempt]) -> str:
    """Return why a run is kept whatever its age; empty if it is not."""
    for attempt in attempts:
        if _waits(records, attempt.receipt):
            return _WAITING
    last_sequence = attempts[-1].sequence
    last_started = _newest_start(attempts)
    # By both: a store that could not be listed gave no sequence, and clocks may be wrong.
    last = [
        one
        for one in attempts
        if last_sequence == one.sequence or last_started == one.started
    ]
    # The last word of a finished run is a publication.
    ended = all(one.step in PublishSummary.written_by and one.receipt for one in last)
    return "" if ended else _OPEN


def _newest_start(attempts: list[Attempt]) -> float:
    return max(attempt.started for attempt in attempts)


def _waits(records: Records, ref: str) -> bool:
    receipt = records.receipts.get(ref)
    if receipt is None or receipt.step not in PublishSummary.written_by:
        return False
    summary = read_summary(receipt, PublishSummary)
    if not (summary.released and summary.needs_approval):
        return False
    return all(line.publish != ref for line in records.lines)


def _states_of_last_start(records: Records, attempts: list[Attempt]) -> list[str]:
    """Return the receipts with states that a run has named since it was last started."""
    # A start with other settings of the gate may promote what an earlier one rejected.
    starts = [
        index for index, attempt in enumerate(attempts) if attempt.step == "prepare"
    ]
    since = attempts[starts[-1] :] if starts else attempts
    return [ref for ref in refs_of(since) if ref in records.states]


def _keeper(
    records: Records, why: str, refs: set[str], judged_by: Iterable[str]
) -> Keeper:
    """Return the keeper of receipts, without the weights that its states have rejected."""
    champions = {state.champion for ref, state in records.states.items() if ref in refs}
    rejected: set[str] = set()
    for ref in judged_by:
        state = records.states.get(ref)
        if state is not None:
            rejected.update(_rejected_by(records, state))
    return Keeper(why, frozenset(refs), frozenset(rejected - champions))


def _rejected_by(records: Records, state: State) -> Iterator[str]:
    """Yield the trainings of rejected candidates whose evaluation is stored."""
    for record in state.history:
        train = record.receipts.get("train")
        evaluated = record.receipts.get("evaluate") in records.receipts
        if record.verdict == "rejected" and train is not None and evaluated:
            yield train
