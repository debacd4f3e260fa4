"""The account of the prompts that releases are decided on: what each opening may spend.

A number stays honest as long as nothing was chosen by it. Each opening of the vault (or of the test
split, where the data has no vault) is recorded before the prompts are read, with the level at which
a gain is proved: half of what is left of alpha. An opening that releases a model costs nothing: if
the release was right, no alpha was spent, and if it was wrong, the prompts have had their false
release already. All others cost their level, so equal models are ever released on one set of
prompts with a chance of at most alpha (the rule of `decide`'s account: online fallback, 1910.04900).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from components.contracts.artifacts import split_file
from components.contracts.releases import Opening, OpeningId
from components.contracts.summaries.publish import Split
from components.runtime.context import Context
from components.runtime.ledger import append_opening, read_lines, read_openings
from components.runtime.receipts import Receipt

MAX_SPENT_OPENINGS = 4
"""Openings without a release after which a set of prompts is worn out: the next one would prove a
gain at a thirty-second of alpha, which few prompts can reach."""


@dataclass(frozen=True)
class Label:
    """Name of the release and of the run that asks for it."""

    name: str
    run_id: str


@dataclass(frozen=True)
class Account:
    """The standing of a set of prompts."""

    alpha: float
    spent: float
    """Sum of the levels of the openings that released nothing."""
    spent_openings: int
    """Number of these openings."""

    @property
    def level(self) -> float:
        """Highest p-value that proves a gain at the next opening."""
        return max(0.0, self.alpha - self.spent) / 2

    @property
    def worn_out(self) -> bool:
        """True if the prompts may not be opened again."""
        return self.spent_openings >= MAX_SPENT_OPENINGS

    @property
    def new_prompts_due(self) -> bool:
        """True if one opening is left, or none."""
        return self.spent_openings >= MAX_SPENT_OPENINGS - 1


def deciding_split(prepared: Receipt) -> tuple[Split, str]:
    """Return (split, SHA-256 of its file) of the prompts that decide about a release."""
    splits: tuple[Split, ...] = ("vault", "test")
    for split in splits:
        ref = prepared.objects.get(split_file(split))
        if ref is not None and ref.size:
            return split, ref.sha256
    # `prepare` refuses data without test prompts.
    return "test", ""


def account_of(context: Context, prompts: str, alpha: float) -> Account:
    """Return the standing of a set of prompts.

    Args:
        context: Store of the ledger.
        prompts: SHA-256 of their file.
        alpha: That of the recipe; the least of all openings counts.
    """
    openings = read_openings(context, prompts)
    released: set[OpeningId] = set()
    for name in {opening.name for opening in openings}:
        released |= {line.opening for line in read_lines(context, name) if line.opening}
    numbers = {opening.number for opening in released if opening.prompts == prompts}
    return account_after(openings, numbers, alpha)


def account_after(
    openings: Sequence[Opening], released: Container[int], alpha: float
) -> Account:
    """Return the standing of a set of prompts.

    Args:
        openings: All openings, oldest first.
        released: Numbers of those that led to a release, from 1.
        alpha: That of the recipe; the least of all openings counts.
    """
    levels = [
        opening.level
        for number, opening in enumerate(openings, 1)
        if number not in released
    ]
    # A larger alpha later would be a level chosen after results were seen.
    least_alpha = min([alpha, *(opening.alpha for opening in openings)])
    return Account(least_alpha, sum(levels), len(levels))


def nearly_worn_out(opening: Opening) -> bool:
    """Return True if the prompts have one opening left, or none, after this one without a release."""
    # From the opening itself, which does not change, so that a receipt says the same at every try:
    # its level is alpha halved once more than openings were spent before it.
    last_levels = opening.alpha / float(2 ** (MAX_SPENT_OPENINGS - 1))
    return opening.level <= 1.001 * last_levels


def opened(
    context: Context,
    prompts: str,
    alpha: float,
    model: str,
    rivals: tuple[str, ...],
    label: Label,
) -> tuple[OpeningId, Opening] | None:
    """Record an opening, or return the one of the same comparison that there is; None if the
    prompts are worn out.

    Args:
        context: Store of the ledger.
        prompts: SHA-256 of the file of prompts.
        alpha: That of the recipe.
        model: Digest of the weights that are decided about.
        rivals: Digests of the weights that they are compared with.
        label: Name and run, for people.
    """
    while True:
        openings = read_openings(context, prompts)
        for number, opening in enumerate(openings, 1):
            # The same question has the same answer: it tells nothing new about the prompts.
            if (opening.model, opening.rivals, opening.name) == (
                model,
                rivals,
                label.name,
            ):
                return OpeningId(prompts=prompts, number=number), opening
        account = account_of(context, prompts, alpha)
        if account.worn_out:
            return None
        opening = Opening(
            alpha=account.alpha,
            level=account.level,
            model=model,
            rivals=rivals,
            name=label.name,
            run_id=label.run_id,
        )
        number = len(openings) + 1
        # Of two publishes at the same time, the second counts the opening of the first.
        if append_opening(context, prompts, number, opening):
            return OpeningId(prompts=prompts, number=number), opening
