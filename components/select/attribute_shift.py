"""How far the accepted samples have moved away from what people wrote, attribute by attribute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from components.canonical import normalised_text
from components.contracts.rows import TrainingRow
from components.statistics import jensen_shannon

MAX_CLASSES = 50
"""The most frequent answers are classes of their own; all others are one."""
MAX_CLASS_CHARACTERS = 32
LONG = "a longer text"
OTHER = "another answer"
ATTRIBUTES = ("length", "answer", "slice")


def attributes(rows: Iterable[TrainingRow]) -> dict[str, Counter[str]]:
    """Attribute → value → rows: length (its power of two, in characters), answer (if it is short: a
    class), slice."""
    counts = {name: Counter[str]() for name in ATTRIBUTES}
    for row in rows:
        answer = normalised_text(row.completion)
        counts["length"][str(len(row.completion).bit_length())] += 1
        counts["answer"][answer if len(answer) <= MAX_CLASS_CHARACTERS else LONG] += 1
        counts["slice"][f"{row.tags.get('task', '')} {row.tags.get('length', '')}"] += 1
        if len(counts["answer"]) > 100 * MAX_CLASSES:
            counts["answer"] = _frequent(counts["answer"], 10 * MAX_CLASSES)
    return counts


def distances(
    accepted: dict[str, Counter[str]], labelled: dict[str, Counter[str]]
) -> dict[str, float]:
    """Attribute → Jensen–Shannon distance of accepted and labelled rows: 0, alike, to 1, nothing in
    common. Empty if there are no rows to compare with."""
    if not any(labelled.values()) or not any(accepted.values()):
        return {}
    shared = {LONG, *_frequent(accepted["answer"] + labelled["answer"], MAX_CLASSES)}
    found = {}
    for name in ATTRIBUTES:
        pair = [accepted[name], labelled[name]]
        if name == "answer":
            pair = [_folded(counts, shared) for counts in pair]
        found[name] = jensen_shannon(*pair)
    return found


def _frequent(counts: Counter[str], number: int) -> Counter[str]:
    return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]))


def _folded(counts: Counter[str], classes: set[str]) -> Counter[str]:
    folded = Counter[str]()
    for value, count in counts.items():
        folded[value if value in classes else OTHER] += count
    return folded
