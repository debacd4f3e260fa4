"""A test of a mean that holds for every distribution with known bounds, however skewed.

A candidate that gains a little in nine families of ten and loses all in the tenth is no better, but
41 families may well show none that it loses. Sign flips, bootstrap and t-test then prove a gain
that is not there. Gaffke's test counts one family more than was seen, and that one lost as much as
a family can lose.

Sources: Gaffke (2005), "Three test statistics for a nonparametric one-sided hypothesis on the mean
of a nonnegative variable"; Learned-Miller and Thomas (1905.06208). For two values it is the exact
binomial test. For others its level is a conjecture that no simulation has refuted;
`tests/benchmarks/gate.py` has ours.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from components.statistics import (
    BOOTSTRAPS,
    cluster_standard_error,
    cluster_totals,
    row_chunks,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class MeanTest:
    """Result of the test that a mean gain is above 0."""

    p_value: float
    """One-sided; never 0, and 1.0 if nothing differs."""
    detectable: float | None
    """True mean gain that is shown four times out of five if gains are spread as these are; None if
    so few clusters could show none."""


def bounded_mean_test(
    gains: Sequence[float],
    clusters: Sequence[Hashable],
    largest_loss: float,
    level: float,
    power: float = 0.8,
) -> MeanTest:
    """Test whether the mean of paired gains is above 0. Deterministic.

    Args:
        gains: Candidate minus champion of each prompt, none below -largest_loss.
        clusters: Family of each prompt. Prompts of one family are not independent: each family
            counts once, by the sum of its gains.
        largest_loss: What a prompt can lose at most, whether or not one did.
        level: Highest p-value that will be taken for a proof; 0 for none.
        power: Chance with which the detectable gain is shown.
    """
    import numpy as np

    if not len(gains):
        return MeanTest(1.0, None)
    totals = np.asarray(cluster_totals(gains, clusters))
    sizes = cluster_totals([1.0] * len(gains), clusters)
    # In units of a prompt: the mean of these values is the mean gain.
    per_prompt = len(totals) / len(gains)
    values = totals * per_prompt
    worst = -largest_loss * max(sizes) * per_prompt
    mean = float(values.mean())
    # Where the level is small, 10,000 draws could not reach it: the least p-value is about one over
    # their number.
    num_draws = max(BOOTSTRAPS, math.ceil(20 / level)) if level > 0 else BOOTSTRAPS
    # The mean gain of a drawn distribution is `mean - needed`: it is above 0 where more than
    # `needed` was gained.
    needed = np.concatenate(list(_needed_gains(values - mean, worst, num_draws)))
    # A hair more than was gained, so that ties count whatever the order of adding.
    num_refuted = int((needed >= mean - 1e-12 * largest_loss).sum())
    # The sample itself is one of the outcomes, so p is never 0.
    p_value = (1 + num_refuted) / (1 + num_draws) if totals.any() else 1.0
    return MeanTest(
        p_value, _detectable(needed, gains, clusters, largest_loss, level, power)
    )


def _needed_gains(
    residuals: npt.NDArray[np.float64], worst: float, num_draws: int
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield, for drawn weights of the clusters, the mean gain from which the weighted mean is above
    0.

    The weights are the spacings of uniform numbers, as in the Bayesian bootstrap (Rubin 1981), with
    one more of them for the worst value there can be.
    """
    import numpy as np

    # Equal values share the sum of their weights, which has a gamma distribution: few values are
    # quick, whatever the number of clusters.
    distinct, counts = np.unique(residuals, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(0))
    for size in row_chunks(num_draws, len(distinct)):
        weights = generator.standard_gamma(counts, (size, len(counts)))
        weight_of_worst = generator.standard_exponential(size)
        yield -(weights @ distinct + weight_of_worst * worst) / weights.sum(axis=1)


def _detectable(
    needed: npt.NDArray[np.float64],
    gains: Sequence[float],
    clusters: Sequence[Hashable],
    largest_loss: float,
    level: float,
    power: float,
) -> float | None:
    """Return the gain that the test shows with the given power, or None."""
    import numpy as np

    standard_error = cluster_standard_error(gains, clusters)
    if standard_error is None or level <= 0:
        return None
    critical = float(np.quantile(needed, 1 - level, method="higher"))
    detectable = critical + NormalDist().inv_cdf(power) * standard_error
    # No prompt gains more than the largest loss.
    return detectable if detectable <= largest_loss else None
