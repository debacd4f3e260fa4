"""The account of a campaign's alpha: what a round may spend on a false promotion.

The account goes with the state, so a campaign that is continued by `resume_from` does not get its
alpha anew, however often and with whatever settings it goes on. Two runs that continue the same
state are two campaigns, as two are that begin with the same data: each has what was left then. What
is released of them is held by one account all the same, that of the prompts of releases
(publish/openings.py).

A round that promotes costs nothing: if it was right, no alpha was spent, and if it was wrong, the
campaign has its false promotion already (online fallback, 1910.04900). Any other round costs the
size that its test really had: exact tests of counts reach less than their level, and the rest stays
in the account (super-uniformity reward, 2110.01255). A weak round compares nothing and costs
nothing; what makes it weak does not depend on the validation prompts. The sum of all that was spent
is at most alpha, and by the union bound so is the chance that the campaign ever promotes falsely.
"""

from __future__ import annotations

from components.contracts.recipe import DecideSection
from components.contracts.state import AlphaAccount
from components.decide.gate import Comparison
from components.statistics import alpha_of_round

ROUND_0_SHARE = 0.5
"""Part of a round's share of alpha that the comparison of round 0 with the base has."""
ADDED_ROUNDS_END = 0.94
"""Part of alpha that rounds beyond the planned ones may fill up: a campaign that goes on again and
again keeps far enough below alpha for a simulation of it to prove that it does."""


def opened(account: AlphaAccount | None, section: DecideSection) -> AlphaAccount:
    """Return the account under the section of this run; a new one where there is none.

    Args:
        account: That of the state that the round began from.
        section: Of the recipe of this run, which may differ from that of earlier runs.
    """
    if account is None:
        return AlphaAccount(alpha=section.alpha, planned_rounds=section.max_rounds)
    # A larger alpha later would be a level chosen after the results were seen.
    return account.model_copy(update={"alpha": min(account.alpha, section.alpha)})


def level_of_round(
    account: AlphaAccount, round_number: int, max_rounds: int, free_rounds: int
) -> float:
    """Return the highest p-value that proves a gain in this round.

    Args:
        account: The account before the round.
        round_number: Global number of the round, from 0.
        max_rounds: Last round that is planned now; more than at the beginning, if the campaign
            was continued.
        free_rounds: Rounds in a row just before this one that spent nothing.
    """
    if round_number <= account.planned_rounds:
        left = max(0.0, account.alpha - account.spent)
        # What rounds just before this one have left unspent, and its own share.
        first_round = round_number - free_rounds
        shares = sum(_share(number) for number in range(first_round, round_number + 1))
        return min(left, shares * alpha_of_round(account.alpha, account.planned_rounds))
    # Half of what is left for the rounds that were added, half for those that may be added later.
    # What a promotion did not spend is in `left` already.
    left = max(0.0, ADDED_ROUNDS_END * account.alpha - account.spent)
    num_rounds_left = max(1, max_rounds - round_number + 1)
    return left / 2 / num_rounds_left


def _share(round_number: int) -> float:
    """Return the part of alpha / rounds that a round begins with."""
    # Round 0 is compared with the base besides the rounds that are planned. Exact tests of counts
    # leave a fifth of their level unspent on average (15 to 300 discordant pairs). From four rounds
    # on that pays for half a share: the last planned round still has all of its own.
    return ROUND_0_SHARE if round_number == 0 else 1.0


def charged(
    account: AlphaAccount, comparison: Comparison, *, promoted: bool
) -> AlphaAccount:
    """Return the account after a round."""
    if promoted:
        return account
    return account.model_copy(update={"spent": account.spent + comparison.size})
