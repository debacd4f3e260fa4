"""Distance between the accepted samples and the labelled rows, attribute by attribute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from components.canonical import normalised_text
from components.contracts.rows import TrainingRow
from components.statistics import jensen_shannon

MAX_CLASSES = 50
"""The most frequent answers are classes of their own; all others are one class."""
MAX_CLASS_CHARACTERS = 32
"""Longer answers are texts and no names of classes."""
LONG = "a longer text"
OTHER = "another answer"
ATTRIBUTES = ("length", "answer", "slice")


AttributeCounts = dict[str, Counter[str]]
"""Attribute → value → number of rows."""


def attributes(rows: Iterable[TrainingRow]) -> AttributeCounts:
    """Return attribute → value → number of rows.

    The attributes are length (number of bits of the length in characters), answer (the text itself
    if it is as short as a class name, else LONG) and slice (tags `task` and `length`).
    """
    counts = {name: Counter[str]() for name in ATTRIBUTES}
    for row in rows:
        # Lengths by powers of two: single lengths would be too rare to be compared.
        length = str(len(row.completion).bit_length())
        answer = normalised_text(row.completion)
        if len(answer) > MAX_CLASS_CHARACTERS:
            answer = LONG
        task = row.tags.get("task", "")
        tagged_length = row.tags.get("length", "")
        counts["length"][length] += 1
        counts["answer"][answer] += 1
        counts["slice"][f"{task} {tagged_length}"] += 1
        # Free-form answers may all differ: rare ones are forgotten, so that memory stays bounded.
        if len(counts["answer"]) > 100 * MAX_CLASSES:
            counts["answer"] = _most_frequent(counts["answer"], 10 * MAX_CLASSES)
    return counts


def distances(accepted: AttributeCounts, labelled: AttributeCounts) -> dict[str, float]:
    """Return attribute → Jensen–Shannon distance of accepted and labelled rows.

    0 means alike, 1 nothing in common. Empty if either side has no rows.

    Args:
        accepted: `attributes` of the accepted samples.
        labelled: `attributes` of the labelled rows.
    """
    if not any(labelled.values()) or not any(accepted.values()):
        return {}
    # One set of classes for both sides: with sets of their own, equal rows would seem to differ.
    answers = accepted["answer"] + labelled["answer"]
    classes = {LONG, *_most_frequent(answers, MAX_CLASSES)}
    by_attribute = {}
    for name in ATTRIBUTES:
        accepted_counts = accepted[name]
        labelled_counts = labelled[name]
        if name == "answer":
            accepted_counts = _folded(accepted_counts, classes)
            labelled_counts = _folded(labelled_counts, classes)
        by_attribute[name] = jensen_shannon(accepted_counts, labelled_counts)
    return by_attribute


def _most_frequent(counts: Counter[str], number: int) -> Counter[str]:
    # Counter.most_common orders ties by insertion, which depends on the order of the rows.
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    return Counter({value: counts[value] for value in ranked[:number]})


def _folded(counts: Counter[str], classes: set[str]) -> Counter[str]:
    """Return the counts with all values outside `classes` counted as OTHER."""
    folded = Counter[str]()
    for value, count in counts.items():
        name = value if value in classes else OTHER
        folded[name] += count
    return folded
