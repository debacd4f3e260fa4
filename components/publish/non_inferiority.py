"""The test that a model is not worse than another by a margin, on the same prompts."""

from __future__ import annotations

import math
from statistics import NormalDist


def non_inferior_p_value(pairs: int, wins: int, losses: int, margin: float) -> float:
    """Return the one-sided p-value that the new model is worse by less than the margin.

    The score test of the difference of paired shares, with the nuisance at its restricted maximum
    likelihood: Tango (1998), and Liu et al. (2002), Tests for equivalence or non-inferiority for
    paired binary data. Where few pairs differ, its normal approximation is too sure: 100 pairs that
    all agree, with a margin of 0.02, give it 0.08, and models that differ by the margin agree on
    all of them with a chance of 0.13. So the larger of its p-value and of the exact one under the
    assumption that the new model only loses is returned.

    Args:
        pairs: Prompts.
        wins: Prompts that only the new model got right.
        losses: Prompts that only the old model got right.
        margin: Share of prompts, above 0.
    """
    # The null hypothesis: share of wins minus share of losses is `difference`.
    difference = -margin
    a = 2 * pairs
    b = (a - wins + losses) * difference - wins - losses
    c = -losses * difference * (1 - difference)
    share_lost = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    variance = pairs * (2 * share_lost + difference * (1 - difference))
    if variance <= 0:
        return 1.0
    z = (wins - losses - pairs * difference) / math.sqrt(variance)
    return max(1 - NormalDist().cdf(z), _binomial_cdf(losses - wins, pairs, margin))


def _binomial_cdf(count: int, trials: int, share: float) -> float:
    """Return the chance of at most `count` successes."""
    from scipy.stats import binom

    return float(binom.cdf(count, trials, share))
