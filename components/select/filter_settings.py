"""What filters decide by: the recipe's section, and what the step has read or can ask for on their
behalf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts.recipe import Hints, SelectSection
from components.contracts.rows import Prompt
from components.select.scored_samples import Block, ScoredSample

Scorer = Callable[[Block], list[float | None]]
"""Scores of a block, in order; None: the scorer gave none (`unscored`)."""


@dataclass(frozen=True)
class Rules:
    """What filters decide by."""

    section: SelectSection
    folder: Path
    """An empty folder for what does not fit into memory."""
    seed: int = 0
    evaluation: Sequence[tuple[Prompt, str]] = ()
    """Prompts of all evaluation splits with their reference answer: none of them may be trained on.
    """
    validation: Sequence[Prompt] = ()
    """Prompts of the validation split, which prompts of the pool are likened to."""
    labelled_keys: frozenset[int] = frozenset()
    """`row_key` of the rows that people wrote: a sample that repeats one adds nothing."""
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    """`judge`, `reward`, `champion`, `base` (perplexities), `influence`: those the recipe asks for.
    """
    audit: Sequence[ScoredSample] = ()
    """Samples of prompts whose answer is known and that are never trained on."""
    hints: Hints | None = None
    """What the model was told with a hint; None: nothing."""

    @property
    def evaluation_ids(self) -> frozenset[str]:
        """Ids of the evaluation prompts."""
        return frozenset(prompt.id for prompt, _ in self.evaluation)
