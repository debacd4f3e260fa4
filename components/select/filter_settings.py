"""Settings and inputs of the filters: the recipe's section, and what the step has read for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts.recipe import Hints, SelectSection
from components.contracts.rows import MAX_CLASSES, Prompt, TrainingRow
from components.select.scored_samples import Block, NoScore, ScoredSample
from components.verifiers import ONE_BY_ONE, Room

Scorer = Callable[[Block], Sequence[float | NoScore | None]]
"""Returns the scores of a block, in order; NoScore or None where there is none (`unscored`)."""


@dataclass(frozen=True)
class Classes:
    """Classes that labelled rows of text and label name."""

    names: frozenset[str] = frozenset()
    """Empty where the labelled rows are no classification, or name too many classes."""
    are_all: bool = False
    """Every labelled row is of text and label, so every prompt asks for a class."""

    @classmethod
    def of(cls, rows: Iterable[TrainingRow]) -> Classes:
        """Return the classes of labelled rows."""
        names: set[str] = set()
        are_all = True
        for row in rows:
            if row.label:
                names.add(row.label)
            else:
                are_all = False
            if len(names) > MAX_CLASSES:
                return cls()
        return cls(frozenset(names), are_all)


@dataclass(frozen=True)
class FilterSettings:
    """Everything that filters may read beside the samples."""

    section: SelectSection
    folder: Path
    """An empty folder for data that does not fit into memory."""
    seed: int = 0
    evaluation: Sequence[tuple[Prompt, str]] = ()
    """(prompt, reference answer) of all evaluation splits: none of them may be trained on."""
    validation: Sequence[Prompt] = ()
    """Prompts of the validation split. Votes are counted on prompts of the same kind alone."""
    labelled_keys: frozenset[int] = frozenset()
    """`row_key` of the labelled rows: a sample that repeats one adds nothing."""
    classes: Classes = Classes()
    """Classes that answers must be one of."""
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    """Those that the recipe asks for, of `judge`, `reward`, `influence`, `difficulty` and the perplexities
    `champion`, `base` and `ratio`."""
    audit: Sequence[ScoredSample] = ()
    """Samples of prompts whose answer is known and that are never trained on."""
    people: Mapping[str, bool] | None = None
    """Answer id → whether a person calls it right; None if the recipe asks no people."""
    room: Room = ONE_BY_ONE
    """For checks of answers that are done side by side."""
    hints: Hints | None = None
    """Settings of the hints that some samples were drawn with; None without hints."""

    @property
    def evaluation_ids(self) -> frozenset[str]:
        """Ids of the evaluation prompts."""
        return frozenset(prompt.id for prompt, _ in self.evaluation)
