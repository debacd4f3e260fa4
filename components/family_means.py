"""A test of a mean gain over families of results, for gains without a known bound.

The loss of a text has no largest value, so Gaffke's test (`bounded_mean`) has nothing to start from.
Neighbouring texts resemble each other, so each family of neighbours counts once: the t-test of the
families' gains holds its level whatever the dependence within a family, and with variances that
differ from family to family. Up to a level of 0.04 it is conservative then; beyond, the p-value is
that of the variances that make such a result likeliest.

Sources: Ibragimov and Müller (2010), "t-statistic based correlation and heterogeneity robust
inference"; Bakirov and Székely (2006), "Student's t-test for Gaussian scale mixtures", for the
likeliest variances; Bester, Conley and Hansen (2011), "Inference with dependent data using cluster
covariance estimators", for families of neighbours. It takes the gains of families to be nearly
normal: a sum over hundreds of tokens is, but a model that loses very much on one family in a
hundred is not found out by 20 families.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from components.bounded_mean import MeanTest
from components.statistics import cluster_totals, student_quantile, student_upper

LEAST_FAMILIES = 6
"""With fewer families the variance of their gains is hardly known."""
ROUNDING = 1e-12
"""Standard error, as a part of the mean, up to which families differ by rounding alone."""


def family_mean_test(
    gains: Sequence[float],
    families: Sequence[Hashable],
    level: float,
    power: float = 0.8,
) -> MeanTest:
    """Test whether the mean of paired gains is above 0, by Student's t over families.

    Args:
        gains: Candidate minus champion of each prompt.
        families: Family of each prompt.
        level: Highest p-value that will be taken for a proof; 0 for none.
        power: Chance with which the detectable gain is shown.
    """
    totals = cluster_totals(gains, families)
    count = len(totals)
    if count < LEAST_FAMILIES:
        return MeanTest(1.0, None)
    mean = math.fsum(totals) / count
    variance = math.fsum((total - mean) ** 2 for total in totals) / (count - 1)
    standard_error = math.sqrt(variance / count)
    if standard_error <= ROUNDING * abs(mean):
        # Families that all gain the same tell nothing about families that were not seen.
        return MeanTest(1.0, None)
    p_value = _highest_p_value(mean / standard_error, count)
    if level <= 0:
        return MeanTest(p_value, None)
    quantiles = student_quantile(1 - level, count - 1) + student_quantile(
        power, count - 1
    )
    # In units of a prompt, as the gains are.
    return MeanTest(p_value, quantiles * standard_error * count / len(gains))


def _highest_p_value(statistic: float, families: int) -> float:
    """Return the chance that the t statistic of families is above a value, for the variances of
    their gains, equal or not, that make it highest."""
    import numpy as np
    from scipy.stats import t

    if statistic <= 1.0:
        # One family with all of the variance has a statistic of 1 or of -1.
        return max(0.5, student_upper(statistic, families - 1))
    # It is highest where some families have equal variances and the others none. Zeros beside the
    # gains of `sizes` families change their own statistic into that of all families.
    sizes = np.arange(2, families + 1)
    excess = (sizes - families + sizes * (families - 1) / statistic**2) / families
    possible = excess > 0
    degrees = sizes[possible] - 1
    return float(t.sf(np.sqrt(degrees / excess[possible]), degrees).max())
