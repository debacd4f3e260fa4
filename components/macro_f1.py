"""Macro-F1 of chosen classes, and a test that one model's is higher than another's.

Macro-F1 is the mean over the classes of 2·hits / (right ones + chosen ones), so a prompt of a rare
class weighs as much as many of a common one, and a few prompts decide. It is no mean over prompts:
what a test may assume of those does not hold. Exchanging the models' answers prompt by prompt is
exact only where both models are alike, and a candidate that gains on common classes what it loses on
rare ones is promoted several times as often as the level allows; a bootstrap never sees losses that
no prompt happened to show, and is wrong by more.

This test is Gaffke's (`bounded_mean`), class by class: it draws weights of the prompts, as in the
Bayesian bootstrap (Rubin 1981), and adds to each class one prompt more that the champion got right
and the candidate did not. Its level is no theorem. `tests/benchmarks/gate_macro_f1.py` simulates it:
equal models, and models that are equal on average and differ class by class, with classes of 5
prompts and more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from components.bounded_mean import MeanTest
from components.statistics import BOOTSTRAPS, row_chunks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEAST_PER_CLASS = 5
"""Validation prompts of each class, at least: the level was simulated from there on."""
Choice = tuple[str, str]
"""(right class, chosen class) of a prompt."""


def macro_f1(choices: Sequence[Choice]) -> float:
    """Return the mean of F1 over the classes that occur among the right or the chosen ones."""
    f1 = _f1_by_class(choices)
    return math.fsum(value for value, _ in f1.values()) / len(f1)


def influences(choices: Sequence[Choice]) -> list[float]:
    """Return what each prompt changes in macro-F1, to first order; they sum to 0.

    Their variance gives the interval (delta method: Takahashi et al. 2022, "Confidence interval for
    micro-averaged F1 and macro-averaged F1 scores").
    """
    f1 = _f1_by_class(choices)
    total = len(choices)
    changes = []
    for right, chosen in choices:
        change = 0.0
        for name in (right, chosen):
            value, size = f1[name]
            # d(2·hits / size): each mention of a class adds 1 to its size, a hit adds 2 to both.
            change += (float(right == chosen) - value) / size
        changes.append(change * total / len(f1))
    return changes


def macro_f1_test(
    pairs: Sequence[tuple[str, str, str]],
    level: float,
    margin: float = 0.0,
    power: float = 0.8,
) -> MeanTest:
    """Test whether the candidate's macro-F1 is above the champion's minus a margin. Deterministic.

    Args:
        pairs: (right class, the champion's choice, the candidate's choice) of each prompt.
        level: Highest p-value that will be taken for a proof; 0 for none.
        margin: Loss of macro-F1 that is allowed.
        power: Chance with which the detectable gain is shown.
    """
    import numpy as np

    old = macro_f1([(right, champion) for right, champion, _ in pairs])
    new = macro_f1([(right, candidate) for right, _, candidate in pairs])
    if margin == 0.0 and all(champion == candidate for _, champion, candidate in pairs):
        return MeanTest(1.0, None)
    num_draws = max(BOOTSTRAPS, math.ceil(20 / level)) if level > 0 else BOOTSTRAPS
    gains = np.concatenate(list(drawn_gains(Counter(pairs), num_draws)))
    num_refuted = int((gains <= -margin + 1e-12).sum())
    p_value = (1 + num_refuted) / (1 + num_draws)
    if level <= 0:
        return MeanTest(p_value, None)
    differences = [
        after - before
        for before, after in zip(
            influences([(right, champion) for right, champion, _ in pairs]),
            influences([(right, candidate) for right, _, candidate in pairs]),
            strict=True,
        )
    ]
    standard_error = math.sqrt(math.fsum(value * value for value in differences)) / len(
        pairs
    )
    needed = float(np.quantile(new - old - gains, 1 - level, method="higher"))
    detectable = needed + NormalDist().inv_cdf(power) * standard_error
    return MeanTest(p_value, detectable if detectable <= 1.0 else None)


def _f1_by_class(choices: Sequence[Choice]) -> dict[str, tuple[float, int]]:
    """Return class → (F1, right ones + chosen ones)."""
    right = Counter(name for name, _ in choices)
    chosen = Counter(name for _, name in choices)
    hits = Counter(name for name, choice in choices if name == choice)
    sizes = {name: right[name] + chosen[name] for name in sorted({*right, *chosen})}
    return {name: (2 * hits[name] / size, size) for name, size in sizes.items()}


def drawn_gains(
    counts: Counter[tuple[str, str, str]], num_draws: int
) -> Iterator[Floats]:
    """Yield the gain in macro-F1 for drawn weights of the prompts and of one worst prompt a class.

    Args:
        counts: (right class, the champion's, the candidate's choice) → prompts.
        num_draws: Draws in all.
    """
    import numpy as np

    names = sorted({name for pair in counts for name in pair})
    numbers = {name: number for number, name in enumerate(names)}
    counted = sorted(counts.items())
    right, champion, candidate = (
        np.asarray([numbers[pair[place]] for pair, _ in counted]) for place in range(3)
    )
    sizes = np.asarray([count for _, count in counted], dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(0))
    for size in row_chunks(num_draws, len(counted) + len(names)):
        # The weights of equal prompts have a gamma distribution together.
        weights = generator.standard_gamma(sizes, (size, len(sizes)))
        worst = generator.standard_exponential((size, len(names)))
        of_right = _sums(weights, right, len(names)) + worst
        # Of the worst prompts the champion chooses the right class, the candidate the next one.
        old = _f1(weights, right, champion, of_right, worst, worst)
        new = _f1(weights, right, candidate, of_right, np.roll(worst, 1, axis=1), 0.0)
        yield (new - old).mean(axis=1)


def _f1(
    weights: Floats,
    right: npt.NDArray[np.intp],
    chosen: npt.NDArray[np.intp],
    of_right: Floats,
    more_chosen: Floats,
    more_hits: Floats | float,
) -> Floats:
    """Return F1 of each draw and class."""
    num_classes = of_right.shape[1]
    of_chosen = _sums(weights, chosen, num_classes) + more_chosen
    is_hit = right == chosen
    hits = _sums(weights[:, is_hit], right[is_hit], num_classes) + more_hits
    f1: Floats = 2 * hits / (of_right + of_chosen)
    return f1


def _sums(weights: Floats, classes: npt.NDArray[np.intp], num_classes: int) -> Floats:
    """Return the sum of each draw's weights by class."""
    import numpy as np

    membership = np.zeros((len(classes), num_classes))
    membership[np.arange(len(classes)), classes] = 1.0
    sums: Floats = weights @ membership
    return sums
