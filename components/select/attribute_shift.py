"""Distance between the accepted samples and the labelled rows, attribute by attribute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

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
MAX_FACTOR = 4.0
"""A balanced weight is at most this many times the row's own, and at least one part in as many."""

ValueWeights = Mapping[str, float]
"""Value → sum of the weights of its rows."""
AttributeWeights = Mapping[str, ValueWeights]
"""Attribute → the same of its values."""


def answer_of(row: TrainingRow) -> str:
    """Return the answer of a row as an attribute: its text, or LONG if it names no class."""
    answer = normalised_text(row.completion)
    return answer if len(answer) <= MAX_CLASS_CHARACTERS else LONG


def attributes(rows: Iterable[TrainingRow]) -> AttributeWeights:
    """Return attribute → value → sum of the weights of its rows.

    The attributes are length (number of bits of the length in characters), answer (the text itself
    if it is as short as a class name, else LONG) and slice (tags `task` and `length`).
    """
    weights: dict[str, dict[str, float]] = {
        name: defaultdict(float) for name in ATTRIBUTES
    }
    for row in rows:
        # Lengths by powers of two: single lengths would be too rare to be compared.
        length = str(len(row.completion).bit_length())
        task = row.tags.get("task", "")
        tagged_length = row.tags.get("length", "")
        weights["length"][length] += row.weight
        weights["answer"][answer_of(row)] += row.weight
        weights["slice"][f"{task} {tagged_length}"] += row.weight
        # Free-form answers may all differ: rare ones are forgotten, so that memory stays bounded.
        if len(weights["answer"]) > 100 * MAX_CLASSES:
            frequent = _most_frequent(weights["answer"], 10 * MAX_CLASSES)
            weights["answer"] = defaultdict(float, frequent)
    return weights


def distances(
    accepted: AttributeWeights, labelled: AttributeWeights
) -> dict[str, float]:
    """Return attribute → Jensen–Shannon distance of accepted and labelled rows.

    0 means alike, 1 nothing in common. Empty if either side has no rows.

    Args:
        accepted: `attributes` of the accepted samples.
        labelled: `attributes` of the labelled rows.
    """
    if not any(labelled.values()) or not any(accepted.values()):
        return {}
    # One set of classes for both sides: with sets of their own, equal rows would seem to differ.
    answers = dict(accepted["answer"])
    for answer, weight in labelled["answer"].items():
        answers[answer] = answers.get(answer, 0.0) + weight
    classes = {LONG, *_most_frequent(answers, MAX_CLASSES)}
    by_attribute = {}
    for name in ATTRIBUTES:
        accepted_weights = accepted[name]
        labelled_weights = labelled[name]
        if name == "answer":
            accepted_weights = _folded(accepted_weights, classes)
            labelled_weights = _folded(labelled_weights, classes)
        by_attribute[name] = jensen_shannon(accepted_weights, labelled_weights)
    return by_attribute


class Balanced(Iterable[TrainingRow]):
    """Generated rows with weights by which their answers have the shares of labelled answers.

    A weight changes at most by MAX_FACTOR, so that a single row of a rare answer is not drawn all
    the time. Filters prefer the answers that a model is sure of, and a model that learns from them
    is surer of these.
    """

    def __init__(self, rows: Iterable[TrainingRow], labelled: AttributeWeights) -> None:
        """`rows` are iterated over once now, and once at every iteration."""
        self._rows = rows
        wanted = _shares(labelled["answer"])
        present = _shares(attributes(rows)["answer"])
        self._factors = {
            answer: min(
                MAX_FACTOR, max(1 / MAX_FACTOR, wanted.get(answer, 0.0) / share)
            )
            for answer, share in present.items()
        }

    def __iter__(self) -> Iterator[TrainingRow]:
        """Yield the rows with their new weights."""
        for row in self._rows:
            # A rare free-form answer was forgotten.
            factor = self._factors.get(answer_of(row), 1.0)
            yield row.model_copy(update={"weight": row.weight * factor})


def _shares(weights: ValueWeights) -> dict[str, float]:
    total = sum(weights.values())
    return {value: weight / total for value, weight in weights.items() if weight}


def _most_frequent(weights: ValueWeights, number: int) -> dict[str, float]:
    # Counter.most_common orders ties by insertion, which depends on the order of the rows.
    ranked = sorted(weights, key=lambda value: (-weights[value], value))
    return {value: weights[value] for value in ranked[:number]}


def _folded(weights: ValueWeights, classes: set[str]) -> dict[str, float]:
    """Return the weights with all values outside `classes` together as OTHER."""
    folded: dict[str, float] = defaultdict(float)
    for value, weight in weights.items():
        name = value if value in classes else OTHER
        folded[name] += weight
    return folded
