"""Exact small-sample statistics of the gate and the report. Pure functions in plain Python: they start at once.

Exact tests are used where tables of normal approximations usually are: evaluation sets are small, and the
discordant pairs that decide a promotion are smaller still.
"""

from __future__ import annotations

import functools
import math

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""


def mcnemar_one_sided(wins: int, losses: int) -> float:
    """Exact p-value that the candidate is better: P(X >= wins) with X ~ Binomial(wins + losses, 1/2).

    `wins`: pairs only the candidate got right; `losses`: pairs only the champion got right. Pairs that agree carry
    no information. 1.0 when nothing differs. Source: McNemar (1947), in its exact conditional form.
    """
    _check_counts(wins, losses)
    total = wins + losses
    # Sum the shorter tail in exact integers: no rounding, and n in the thousands costs milliseconds.
    if 2 * wins > total:
        return _tail_count(total, wins) / (1 << total)
    return ((1 << total) - _tail_count(total, losses + 1)) / (1 << total)


def mcnemar_two_sided(wins: int, losses: int) -> float:
    """Exact p-value that candidate and champion differ at all: twice the smaller tail, at most 1."""
    return min(1.0, 2.0 * min(mcnemar_one_sided(wins, losses), mcnemar_one_sided(losses, wins)))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion; (0, 1) without trials. Source: Wilson (1927)."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, Z_95 * Z_95
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z_95 / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    # At the ends the bound is 0 or 1 exactly; rounding must not leave it a hair inside or outside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k) (2107.03374)."""
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} from {num_correct} right of {num_samples} samples")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def alpha_per_round(alpha: float, rounds: int) -> float:
    """What one round may spend of the campaign's false promotions: alpha / rounds (Bonferroni).

    Holm's step-down would spend less strictly, but it needs all p-values at once; a gate decides each round before
    the next is known, so the union bound is what holds.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds")
    return alpha / rounds


@functools.lru_cache(maxsize=4096)
def minimal_detectable_gain(num_pairs: int, discordance: float, alpha: float, power: float = 0.8) -> float | None:
    """Smallest true gain in accuracy that the exact one-sided McNemar gate shows with the given power.

    `discordance` is the share of pairs on which the two models differ; a gain larger than it raises it with itself.
    None if these pairs could not show even a gain of 1 (too few of them for this alpha). Exact (no normal
    approximation): the power is summed over the number of discordant pairs, Binomial(num_pairs, discordance).
    """
    if not 0.0 <= discordance <= 1.0:
        raise ValueError(f"discordance {discordance}")
    critical = _critical_wins(num_pairs, alpha)
    if _power(num_pairs, discordance, 1.0, critical) < power:
        return None
    low, high = 0.0, 1.0
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


def _tail_count(total: int, least: int) -> int:
    """How many of the 2^total outcomes have at least `least` wins."""
    term = math.comb(total, least) if least <= total else 0
    count = term
    for wins in range(least, total):
        term = term * (total - wins) // (wins + 1)
        count += term
    return count


def _binomial(trials: int, successes: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(successes == round(share * trials))
    log_ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return math.exp(log_ways + successes * math.log(share) + (trials - successes) * math.log1p(-share))


def _critical_wins(num_pairs: int, alpha: float) -> list[int]:
    """For m = 0…num_pairs discordant pairs, the fewest wins whose one-sided p is <= alpha (m + 1: none is enough).

    With one more pair the tail at the same count grows by half of P(count - 1), so each m follows from the last.
    """
    critical, tail = [1], 0.0
    for pairs in range(num_pairs):
        least = critical[-1]
        tail += 0.5 * _binomial(pairs, least - 1, 0.5)
        if tail > alpha:
            tail -= _binomial(pairs + 1, least, 0.5)
            least += 1
        critical.append(least)
    return critical


def _power(num_pairs: int, discordance: float, gain: float, critical: list[int]) -> float:
    """Chance that the gate promotes a candidate that is better by `gain`."""
    differing = max(discordance, gain)
    if differing == 0.0:
        return 0.0
    win = (1.0 + gain / differing) / 2
    spread = 8.0 * math.sqrt(num_pairs * differing * (1 - differing)) + 8.0
    first = max(0, math.floor(num_pairs * differing - spread))
    last = min(num_pairs, math.ceil(num_pairs * differing + spread))
    tail = sum(_binomial(first, wins, win) for wins in range(critical[first], first + 1))
    total = 0.0
    for pairs in range(first, last + 1):
        total += _binomial(num_pairs, pairs, differing) * tail
        if pairs < last:
            least = critical[pairs]
            tail += win * _binomial(pairs, least - 1, win)
            if critical[pairs + 1] > least:
                tail -= _binomial(pairs + 1, least, win)
    return min(1.0, total)
