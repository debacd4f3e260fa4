"""Simulated rounds of the gate by macro-F1, of models that are no better:
`python -m tests.benchmarks.gate_macro_f1`.

Equal models answer alike or each for itself. Others are equal in macro-F1 alone: the candidate gains
on common classes what it loses on rare ones, which few prompts show. Class counts are skewed, from 5
prompts of the rarest class on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from components.macro_f1 import LEAST_PER_CLASS, drawn_gains
from components.statistics import binomial_upper
from tests.benchmarks.figures import record
from tests.benchmarks.gate_rounds import Floats

ROUNDS = 5000
NUM_DRAWS = 600
LEVELS = (0.05, 0.0125)
"""The level of a campaign of one round, and of a round of four."""
NUM_PROMPTS = (80, 400)
SKEWED = ((2, 0.1), (3, 0.3), (6, 0.5), (10, 0.7))
"""(classes, prompts of a class over those of the next more common one)."""


def main() -> None:
    """Simulate every setting and record the worst."""
    dice = np.random.default_rng(0)
    shares: dict[str, tuple[float, ...]] = {}
    for name, joint, num_prompts in settings():
        counts = promotions(dice, joint, num_prompts)
        if counts is None:
            continue
        shares[name] = counts
        print(f"{name}: {', '.join(f'{share:.4f}' for share in counts)}", flush=True)
    for place, level in enumerate(LEVELS):
        worst = max(shares, key=lambda name: shares[name][place])
        upper = binomial_upper(round(shares[worst][place] * ROUNDS), ROUNDS)
        record(
            f"gate.macro_f1_false_promotion_at_{level:g}",
            upper,
            "share",
            f"≤ {level:g}",
            "python -m tests.benchmarks.gate_macro_f1",
            0,
            f"exact 95 % upper bound of the share of rounds that promote; the worst of {len(shares)} "
            f"settings: {worst}, {shares[worst][place]:.4f}",
        )


def settings() -> Iterator[tuple[str, Floats, int]]:
    """Yield (name, chance of each (right, champion's, candidate's) class, prompts)."""
    for num_classes, skew in SKEWED:
        sizes = np.power(skew, np.arange(num_classes, dtype=np.float64))
        prior: Floats = np.asarray(sizes / sizes.sum(), dtype=np.float64)
        for num_prompts in NUM_PROMPTS:
            front = f"{num_prompts} prompts, {num_classes} classes"
            for right in (0.6, 0.9):
                alike = _confusion(np.full(num_classes, right))
                for agree in (0.0, 0.9):
                    name = (
                        f"{front}, equal models, right {right:.0%}, alike {agree:.0%}"
                    )
                    yield name, _joint(prior, alike, alike, agree), num_prompts
            for num_rare in sorted({1, num_classes - 1}):
                for gain in (0.02, 0.1):
                    name = f"{front}, {num_rare} rare lose what the others gain, {gain:g} each"
                    joint = _exchanged(prior, num_rare, gain)
                    if joint is not None:
                        yield name, joint, num_prompts


def promotions(
    dice: np.random.Generator, joint: Floats, num_prompts: int
) -> tuple[float, ...] | None:
    """Return the share of rounds that promote at each level; None if a class is mostly too rare."""
    cells = np.argwhere(joint > 0)
    chances = joint[joint > 0]
    num_classes = len(joint)
    promoted = np.zeros(len(LEVELS), dtype=int)
    num_rounds = 0
    for _ in range(2 * ROUNDS):
        counts = dice.multinomial(num_prompts, chances / chances.sum())
        if np.bincount(cells[:, 0], counts, num_classes).min() < LEAST_PER_CLASS:
            continue
        num_rounds += 1
        drawn = np.zeros_like(joint)
        drawn[tuple(cells.T)] = counts
        p_value = p_value_of(drawn)
        promoted += [p_value <= level for level in LEVELS]
        if num_rounds == ROUNDS:
            return tuple((promoted / ROUNDS).tolist())
    return None


def p_value_of(drawn: Floats) -> float:
    """The p-value of the gate's test, from fewer draws; 1 where there is no gain to prove.

    Args:
        drawn: Prompts by (right, champion's, candidate's) class.
    """
    if _gain(drawn) <= 0:
        return 1.0
    counts = Counter[tuple[str, str, str]]()
    for right, old, new in np.argwhere(drawn > 0).tolist():
        counts[(str(right), str(old), str(new))] = int(drawn[right, old, new])
    gains = np.concatenate(list(drawn_gains(counts, NUM_DRAWS)))
    return float((1 + (gains <= 1e-12).sum()) / (1 + NUM_DRAWS))


def _confusion(right: Floats) -> Floats:
    """Chance of each choice (columns) by right class (rows): errors are spread evenly."""
    num_classes = len(right)
    matrix = np.repeat((1 - right)[:, None] / (num_classes - 1), num_classes, axis=1)
    np.fill_diagonal(matrix, right)
    return matrix


def _joint(prior: Floats, old: Floats, new: Floats, agree: float) -> Floats:
    """Chance of each (right, old, new): a share of what both may choose is chosen by both."""
    both = agree * np.minimum(old, new)
    old_alone, new_alone = old - both, new - both
    rest = np.maximum(old_alone.sum(axis=1), 1e-12)
    joint = old_alone[:, :, None] * new_alone[:, None, :] / rest[:, None, None]
    joint[:, range(len(prior)), range(len(prior))] += both
    return np.asarray(prior[:, None, None] * joint, dtype=np.float64)


def _exchanged(prior: Floats, num_rare: int, gain: float) -> Floats | None:
    """Models of equal macro-F1: one gains on common classes and loses on rare ones.

    None if no loss on the rare ones would make them equal.
    """
    old = np.full(len(prior), 0.7)
    old[-num_rare:] = 1.0

    def joint(loss: float) -> Floats:
        new = old + gain
        new[-num_rare:] = 1.0 - loss
        return _joint(prior, _confusion(old), _confusion(new), 1.0)

    low, high = 0.0, 1.0
    if _gain(joint(high)) > 0:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _gain(joint(middle)) > 0 else (low, middle)
    return joint(high)


def _gain(joint: Floats) -> float:
    values = []
    for chosen in (joint.sum(axis=2), joint.sum(axis=1)):
        sizes = chosen.sum(axis=1) + chosen.sum(axis=0)
        values.append(float((2 * np.diag(chosen) / sizes).mean()))
    return values[1] - values[0]


if __name__ == "__main__":
    main()
