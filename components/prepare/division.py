"""Division into splits: of a labelled file by a hash of each prompt, of puzzles by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from components.canonical import derived_seed
from components.contracts.recipe import Fractions
from components.contracts.rows import Split
from components.prepare.examples import Example

_MEASURED: tuple[Split, ...] = ("dev", "validation", "test")
"""Splits that rows are taken for first. A change of the other shares moves no row of them."""
_TAUGHT: tuple[Split, ...] = ("unlabelled", "train")


def divide(
    examples: Sequence[Example],
    fractions: Fractions,
    seed: int,
    present: frozenset[Split],
) -> list[Split]:
    """Return the split of each example.

    A split that the fractions ask for gets at least one prompt if there are enough of them.

    Args:
        examples: Rows of `split: auto` sources.
        fractions: Shares of the splits.
        seed: Another seed divides otherwise.
        present: Splits that other sources or tasks give rows for.
    """
    shares = _shares(fractions, "unlabelled" in present)
    positions = {example.identity: _position(seed, example) for example in examples}
    asked = {example.identity for example in examples if example.prompt}
    splits = {
        identity: _split_at(position, shares, is_asked=identity in asked)
        for identity, position in positions.items()
    }
    for name in ("validation", "test", "unlabelled", "train", "dev"):
        if shares[name] and name not in present and name not in splits.values():
            _fill(name, splits, positions, asked)
    return [splits[example.identity] for example in examples]


def handed_out(
    examples: Sequence[Example], counts: Mapping[Split, int]
) -> Iterator[tuple[Split, Example]]:
    """Yield distinct examples with their splits, as many as the counts say.

    With fewer examples than wanted, every split gets its share of what there is.
    """
    total = sum(counts.values())
    begin = 0
    num_wanted = 0
    for split, count in counts.items():
        num_wanted += count
        end = num_wanted * len(examples) // max(1, total)
        for example in examples[begin:end]:
            yield split, example
        begin = end


def _shares(fractions: Fractions, has_unlabelled: bool) -> dict[Split, float]:
    unlabelled = fractions.unlabelled
    train = fractions.train
    if unlabelled is None:
        unlabelled = 0.0 if has_unlabelled else train / 2
        train -= unlabelled
    return {
        "dev": fractions.dev,
        "validation": fractions.validation,
        "test": fractions.test,
        "unlabelled": unlabelled,
        "train": train,
    }


def _position(seed: int, example: Example) -> float:
    # derived_seed has 63 bits, so this is uniform in [0, 1). A hash and no counter: a row added to
    # a file moves no other row to another split.
    return derived_seed("split", seed, example.identity) / 2**63


def _split_at(position: float, shares: dict[Split, float], *, is_asked: bool) -> Split:
    if not is_asked:
        # Raw text asks nothing that could be measured or answered.
        return "dev" if position < shares["dev"] else "train"
    end = 0.0
    for name in (*_MEASURED, "unlabelled"):
        end += shares[name]
        if position < end:
            return name
    return "train"


def _fill(
    name: Split, splits: dict[str, Split], positions: dict[str, float], asked: set[str]
) -> None:
    """Give an empty split one prompt of the largest split."""
    # Chance leaves a tenth of a dozen prompts empty every third time.
    members: dict[Split, list[str]] = {split: [] for split in (*_TAUGHT, *_MEASURED)}
    for identity in asked:
        members[splits[identity]].append(identity)
    largest = max(members, key=lambda split: len(members[split]))
    if len(members[largest]) > 1:
        splits[min(members[largest], key=lambda identity: positions[identity])] = name
