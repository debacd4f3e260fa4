"""A round with too few accepted samples: it trains no candidate, and `decide` looks for the cause."""

from __future__ import annotations

from components.contracts.recipe import SelectSection
from components.select.filter_chain import Account
from components.select.remedies import remedy_for


def reason_weak(
    section: SelectSection, account: Account, labelled_pairs: int | None = None
) -> str | None:
    """Return why a round is weak, with its numbers and what helps, or None if it is not.

    Args:
        section: Has the number of samples that a round has to accept.
        account: Counts of the round's samples.
        labelled_pairs: Labelled rows with an answer of the model's own beside them, which teach
            something new as well; None unless the recipe asks for them.
    """
    num_hinted = account.hinted.accepted if account.hinted is not None else 0
    if account.accepted + num_hinted + (labelled_pairs or 0) >= section.min_accepted:
        return None
    # The reason that dropped most first: it is the one to do something about.
    by_count = sorted(account.reasons.items(), key=lambda item: (-item[1], item[0]))
    reasons = ", ".join(f"{reason} {count}" for reason, count in by_count) or "none"
    besides = f" and {num_hinted} with a hint" if account.hinted is not None else ""
    if labelled_pairs is not None:
        besides += f" and {labelled_pairs} beside labelled rows"
    return (
        f"{account.accepted} of {account.given} samples{besides} accepted, select.min_accepted "
        f"is {section.min_accepted} (dropped: {reasons}); {remedy_for(account.by_reason)}"
    )
