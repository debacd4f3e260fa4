"""Exact small-sample statistics of the gate and the report, as pure functions.

NumPy and SciPy are imported on first use only, so that this module loads at once.

Exact tests are used where tables of normal approximations usually are: evaluation sets are small,
and the discordant pairs that decide a promotion are smaller still.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""
Z_95_ONE_SIDED = 1.6448536269514722
"""One-sided 95 % point of the standard normal distribution."""


def mcnemar_one_sided(wins: int, losses: int) -> float:
    """Return the exact p-value that the candidate is better, 1.0 when nothing differs.

    It is P(X >= wins) with X ~ Binomial(wins + losses, 1/2). Pairs that agree carry no information.
    Source: McNemar (1947), in its exact conditional form.

    Args:
        wins: Pairs that only the candidate got right.
        losses: Pairs that only the champion got right.
    """
    _check_counts(wins, losses)
    total = wins + losses
    # Sum the shorter tail in exact integers: no rounding, and n in the thousands costs
    # milliseconds.
    if 2 * wins > total:
        return _tail_count(total, wins) / (1 << total)
    return ((1 << total) - _tail_count(total, losses + 1)) / (1 << total)


@functools.lru_cache(maxsize=65536)
def mcnemar_size(discordant: int, level: float) -> float:
    """Return the chance that equal models pass the one-sided test at this level.

    It is the largest attainable p-value that is at most the level, given the number of pairs on
    which the models differ; 0 if even a win of all of them is no proof.
    """
    # The p-value falls as wins grow: halving finds the fewest wins that pass.
    low = 0
    high = discordant + 1
    while low < high:
        wins = (low + high) // 2
        if mcnemar_one_sided(wins, discordant - wins) <= level:
            high = wins
        else:
            low = wins + 1
    return mcnemar_one_sided(low, discordant - low) if low <= discordant else 0.0


def mcnemar_two_sided(wins: int, losses: int) -> float:
    """Return the exact p-value that candidate and champion differ: twice the smaller tail."""
    smaller_tail = min(mcnemar_one_sided(wins, losses), mcnemar_one_sided(losses, wins))
    return min(1.0, 2.0 * smaller_tail)


BOOTSTRAPS = 10_000
"""Resamples of a bootstrap, at least."""
BOOTSTRAP_CHUNK = 2**24
"""Random numbers held in memory at a time."""


def bootstrap_lower(
    gains: Sequence[float], clusters: Sequence[Hashable], tail: float = 0.05
) -> float:
    """Return the lower confidence bound of the mean of paired `gains`, one-sided, 95 % by default.

    It is the quantile of the means of 10,000 resamples of whole clusters (Davison and Hinkley
    1997, 5.3).

    Args:
        gains: Candidate minus champion of each prompt.
        clusters: Family of each prompt.
        tail: Probability that the mean is below the bound.

    Raises:
        ValueError: There are no gains.
    """
    import numpy as np

    if not len(gains):
        raise ValueError("no pairs")
    sizes = np.asarray(cluster_totals([1.0] * len(gains), clusters))
    totals = np.asarray(cluster_totals(gains, clusters))
    generator = np.random.Generator(np.random.PCG64(0))
    means: list[npt.NDArray[np.float64]] = []
    for size in row_chunks(BOOTSTRAPS, len(totals)):
        picked = generator.integers(0, len(totals), (size, len(totals)))
        sums = totals[picked].sum(axis=1)
        counts = sizes[picked].sum(axis=1)
        means.append(sums / counts)
    # "lower": a mean that a resample had, not one between two of them.
    quantile = np.quantile(np.concatenate(means), tail, method="lower")
    return float(quantile)


def cluster_standard_error(
    gains: Sequence[float], clusters: Sequence[Hashable]
) -> float | None:
    """Return the standard error of the mean of paired gains, from the spread between clusters.

    None for fewer than two clusters.

    Args:
        gains: Candidate minus champion of each prompt.
        clusters: Family of each prompt.
    """
    totals = cluster_totals(gains, clusters)
    sizes = cluster_totals([1.0] * len(gains), clusters)
    count = len(totals)
    if count < 2:
        return None
    mean = sum(totals) / len(gains)
    # Clusters differ in size, so the mean is a ratio, and a cluster's residual is against its size.
    squares = sum(
        (total - size * mean) ** 2 for total, size in zip(totals, sizes, strict=True)
    )
    variance = count / (count - 1) * squares
    return math.sqrt(variance) / len(gains)


def two_proportions_z(
    first: float, num_first: int, second: float, num_second: int
) -> float:
    """Return the number of standard errors by which the share `first` is above `second`.

    0 where either has no trials.

    Args:
        first: A share, 0 to 1.
        num_first: Trials of which it is the share.
        second: Another share.
        num_second: Its trials.
    """
    if not num_first or not num_second:
        return 0.0
    # One success and one failure are added to each, so that shares of 0 and 1 have a spread too
    # (Agresti and Caffo 2000).
    share_first = (first * num_first + 1) / (num_first + 2)
    share_second = (second * num_second + 1) / (num_second + 2)
    variance_first = share_first * (1 - share_first) / (num_first + 2)
    variance_second = share_second * (1 - share_second) / (num_second + 2)
    return (share_first - share_second) / math.sqrt(variance_first + variance_second)


def binomial_upper(successes: int, trials: int, tail: float = 0.05) -> float:
    """Return the exact upper confidence bound of a share, one-sided, 95 % by default.

    Source: Clopper and Pearson (1934).
    """
    from scipy.stats import beta

    if successes >= trials:
        return 1.0
    return float(beta.ppf(1 - tail, successes + 1, trials - successes))


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf(probability, degrees))


def student_upper(value: float, degrees: int) -> float:
    """Return the chance that Student's t is above a value."""
    from scipy.stats import t

    return float(t.sf(value, degrees))


def cluster_totals(
    values: Sequence[float], clusters: Sequence[Hashable]
) -> list[float]:
    """Return the sum of the values of each cluster, in the order of their first values."""
    totals: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        totals[cluster] = totals.get(cluster, 0.0) + value
    return list(totals.values())


def row_chunks(count: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that sum to `count`; a chunk holds at most BOOTSTRAP_CHUNK numbers."""
    largest = max(1, BOOTSTRAP_CHUNK // width)
    for start in range(0, count, largest):
        yield min(largest, count - start)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion, (0, 1) without trials.

    Source: Wilson (1927).
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    square = Z_95 * Z_95
    shrinkage = 1 + square / trials
    centre = (share + square / (2 * trials)) / shrinkage
    variance = share * (1 - share) / trials
    spread = math.sqrt(variance + square / (4 * trials * trials))
    half_width = Z_95 / shrinkage * spread
    # At the ends the bound is 0 or 1 exactly; rounding must not leave it a hair inside or outside.
    low = 0.0 if successes == 0 else max(0.0, centre - half_width)
    high = 1.0 if successes == trials else min(1.0, centre + half_width)
    return low, high


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate of the chance that at least one of k samples is right.

    It is 1 - C(n-c, k) / C(n, k) (2107.03374).

    Args:
        num_samples: Samples n of a prompt.
        num_correct: Right samples c.
        k: Number of tries, at most n.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} from {num_correct} right of {num_samples} samples")
    # In exact integers: the binomials of 200 samples are beyond a float's digits.
    all_wrong = math.comb(num_samples - num_correct, k)
    return 1.0 - all_wrong / math.comb(num_samples, k)


def alpha_of_round(alpha: float, rounds: int, promotions: int = 0) -> float:
    """Return the share of the campaign's alpha that one round may spend on a false promotion.

    It is the round's own alpha / rounds, and what earlier promotions handed on (online fallback,
    1910.04900).

    Args:
        alpha: Chance of a false promotion in the whole campaign.
        rounds: Rounds of the campaign, at most.
        promotions: Rounds in a row just before this one that promoted.
    """
    # A round that promoted rightly has wasted nothing, so its share goes to the next. Until the
    # first false promotion every share is spent by at most one round that had nothing to show, so
    # their sum, and the chance of a false promotion in the campaign, is at most alpha. Holm's
    # step-down would need all p-values at once.
    if rounds < 1 or promotions < 0:
        raise ValueError(f"{rounds} rounds, {promotions} promotions")
    return alpha * (1 + promotions) / rounds


@functools.lru_cache(maxsize=4096)
def minimal_detectable_gain(
    num_pairs: int, discordance: float, alpha: float, power: float = 0.8
) -> float | None:
    """Return the smallest true gain in accuracy that the exact one-sided McNemar gate shows.

    None if these pairs could not show even a gain of 1: they are too few for this alpha. Exact, by
    no normal approximation: the power is summed over the number of discordant pairs,
    Binomial(num_pairs, discordance).

    Args:
        num_pairs: Prompts.
        discordance: Share of the pairs on which the two models differ, or the gain if that is
            larger.
        alpha: Highest p-value that proves a gain.
        power: Chance with which the gain is shown, at least.
    """
    if not 0.0 <= discordance <= 1.0:
        raise ValueError(f"discordance {discordance}")
    critical = _critical_wins(num_pairs, alpha)
    if _power(num_pairs, discordance, 1.0, critical) < power:
        return None
    # The power grows with the gain, so halving finds it; 0.001 points are close enough.
    low = 0.0
    high = 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        if _power(num_pairs, discordance, middle, critical) >= power:
            high = middle
        else:
            low = middle
    return high


def _check_counts(wins: int, losses: int) -> None:
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins, {losses} losses")


def _tail_count(total: int, min_wins: int) -> int:
    """Return the number of the 2^total outcomes that have at least `min_wins` wins."""
    term = math.comb(total, min_wins) if min_wins <= total else 0
    count = term
    for wins in range(min_wins, total):
        term = term * (total - wins) // (wins + 1)
        count += term
    return count


def _binomial(trials: int, successes: int, share: float) -> float:
    """Return the chance of so many successes."""
    # Where one outcome is certain, the logarithm below does not exist.
    if share in (0.0, 1.0):
        return float(successes == round(share * trials))
    # By logarithms: of thousands of trials the factors themselves overflow.
    failures = trials - successes
    log_ways = (
        math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(failures + 1)
    )
    log_successes = successes * math.log(share)
    log_failures = failures * math.log1p(-share)
    return math.exp(log_ways + log_successes + log_failures)


def _critical_wins(num_pairs: int, alpha: float) -> list[int]:
    """Return for m = 0…num_pairs discordant pairs the fewest wins whose one-sided p is <= alpha.

    m + 1 where even m wins are not enough.
    """
    # With one more pair the tail at the same count grows by half of P(count - 1), so each m follows
    # from the last.
    critical = [1]
    tail = 0.0
    for pairs in range(num_pairs):
        min_wins = critical[-1]
        tail += 0.5 * _binomial(pairs, min_wins - 1, 0.5)
        if tail > alpha:
            tail -= _binomial(pairs + 1, min_wins, 0.5)
            min_wins += 1
        critical.append(min_wins)
    return critical


def _power(
    num_pairs: int, discordance: float, gain: float, critical: list[int]
) -> float:
    """Return the chance that the gate promotes a candidate that is better by `gain`."""
    differing = max(discordance, gain)
    if differing == 0.0:
        return 0.0
    # Chance that the candidate wins a pair on which the two differ.
    win = (1.0 + gain / differing) / 2
    # Numbers of discordant pairs beyond eight standard deviations add next to nothing.
    expected = num_pairs * differing
    spread = 8.0 * math.sqrt(expected * (1 - differing)) + 8.0
    first = max(0, math.floor(expected - spread))
    last = min(num_pairs, math.ceil(expected + spread))
    # Chance of enough wins among so many discordant pairs; each follows from the last.
    tail = sum(
        _binomial(first, wins, win) for wins in range(critical[first], first + 1)
    )
    total = 0.0
    for pairs in range(first, last + 1):
        total += _binomial(num_pairs, pairs, differing) * tail
        if pairs < last:
            min_wins = critical[pairs]
            tail += win * _binomial(pairs, min_wins - 1, win)
            if critical[pairs + 1] > min_wins:
                tail -= _binomial(pairs + 1, min_wins, win)
    return min(1.0, total)


def jensen_shannon(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return the Jensen–Shannon distance of two weightings: 0 (equal) to 1 (nothing in common).

    It is the square root of the divergence in bits (Endres and Schindelin 2003).

    Args:
        first: Value → weight or count. The sum is above 0.
        second: The same.
    """
    first_total = sum(first.values())
    second_total = sum(second.values())
    divergence = 0.0
    # Sorted: the order of adding changes the last digits, and the order of a set of strings differs
    # from process to process.
    for value in sorted({*first, *second}):
        first_share = first.get(value, 0.0) / first_total
        second_share = second.get(value, 0.0) / second_total
        middle = (first_share + second_share) / 2
        shares = [share for share in (first_share, second_share) if share > 0]
        divergence += sum(share / 2 * math.log2(share / middle) for share in shares)
    # Rounding may carry it just outside of [0, 1].
    return math.sqrt(min(1.0, max(0.0, divergence)))
