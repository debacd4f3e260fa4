"""What a collection is asked for, and its account in lines: for the verb and for `python -m`.

It needs no package of the command line, so images have it.
"""

from __future__ import annotations

from collections.abc import Collection as Names
from dataclasses import dataclass, field

from components.cli.collect import DEFAULT_GRACE_HOURS, DEFAULT_KEPT_RUNS
from components.cli.collect.collection import Amount, Collection, collect
from components.cli.collect.marking import Policy
from components.errors import UserError
from components.runtime.context import Context

# An hour: between the last look at a mark and the record that rests on it, a writer needs less.
LEAST_GRACE_HOURS = 1.0


@dataclass(frozen=True)
class Request:
    """What a caller asks for."""

    delete: bool
    """False: a dry run."""
    keep_runs: int = DEFAULT_KEPT_RUNS
    """That many of the runs begun last are kept."""
    grace_hours: float = DEFAULT_GRACE_HOURS
    """From being condemned to being deleted."""
    forgotten: Names[str] = field(default_factory=tuple)
    """Runs that are given up, also unfinished."""

    def __post_init__(self) -> None:
        if self.grace_hours < LEAST_GRACE_HOURS:
            raise UserError(
                f"--grace-hours {self.grace_hours:g}: at least {LEAST_GRACE_HOURS:g}, so that a "
                "task which is just storing its result has time to name it"
            )
        if self.keep_runs < 1:
            raise UserError(f"--keep-runs {self.keep_runs}: at least 1")


def carry_out(context: Context, request: Request) -> Collection:
    """Collect the garbage of a store.

    Raises:
        UserError: A run that is given up is not in the store.
    """
    policy = Policy(keep_runs=request.keep_runs, forgotten=frozenset(request.forgotten))
    known = {key.split("/")[1] for key in context.store.list("attempts/")}
    unknown = sorted(policy.forgotten - known)
    if unknown:
        raise UserError(
            f"--forget {unknown[0]}: {context.store.root} knows no such run"
        )
    grace_seconds = 3600 * request.grace_hours
    return collect(context, policy, grace_seconds=grace_seconds, delete=request.delete)


def account_lines(account: Collection) -> list[str]:
    """Return the account of a collection for people."""
    lines = [f"{account.store}: {_size(account.kept)} are needed"]
    lines += [
        f"  {_size(amount)}: {kind}" for kind, amount in sorted(account.found.items())
    ]
    would = "" if account.deletes else "would be "
    hours = account.grace_seconds / 3600
    lines.append(f"{would}deleted: {_size(account.deleted)}")
    lines.append(
        f"{would}condemned: {_size(account.condemned)}; to be deleted in {hours:g} hours"
    )
    if account.waiting.objects:
        lines.append(f"condemned before, not due yet: {_size(account.waiting)}")
    if account.needed_again:
        lines.append(
            f"condemned before, needed again: {account.needed_again} objects, kept"
        )
    if account.unfinished.objects:
        lines.append(f"progress of unfinished work, kept: {_size(account.unfinished)}")
    for run_id, why in account.kept_runs.items():
        lines.append(f"  run {run_id}: {why}")
    lines += [f"  run {run_id}: not kept" for run_id in account.dropped_runs]
    return lines


def _size(amount: Amount) -> str:
    noun = "object" if amount.objects == 1 else "objects"
    return f"{amount.objects:,} {noun}, {amount.bytes:,} bytes"
