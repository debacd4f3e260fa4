"""The questions that every model of a campaign is measured on: prompts, human texts, classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.contracts.artifacts import DEV_PROMPTS, split_file
from components.contracts.rows import (
    MAX_CLASSES,
    Prompt,
    TrainingRow,
    label_of,
    read_rows,
)
from components.evaluate.scores import ANSWER_SPLITS, AnswerSplit
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch

TextSplit = Literal["retention", "dev"]
# Rows held back for retention come first: dev rows also decide when a training stops.
TEXT_SPLITS: tuple[TextSplit, ...] = ("retention", "dev")
SPLITS_READ = (DEV_PROMPTS, *ANSWER_SPLITS, *TEXT_SPLITS, "train")
"""Splits that a measurement depends on; `train` for the names of the classes."""


@dataclass(frozen=True)
class Questions:
    """Everything that a model is measured on, the same for every model of a campaign."""

    prompts: list[Prompt]
    """Prompts of the dev, the validation and the test split."""
    splits: list[AnswerSplit]
    """Split of each prompt."""
    texts: list[TrainingRow]
    """Human texts for perplexity."""
    text_split: TextSplit
    """Split of the texts."""
    labels: list[str]
    """Classes to choose from; empty without text-and-label rows."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Measurement that cannot be made → reason."""
    labelled: list[str] = field(default_factory=list)
    """Answers that labelled rows teach, as many as the recipe compares for diversity."""

    @property
    def sampled_prompts(self) -> list[Prompt]:
        """Prompts of the validation split, which several samples are drawn for."""
        # A fall of pass@k blocks a candidate, and what decides is no test any more.
        pairs = zip(self.prompts, self.splits, strict=True)
        return [
            prompt
            for prompt, split in pairs
            if split == "validation" and not prompt.is_text
        ]


def read_questions(context: Context, campaign: Campaign) -> Questions:
    """Return the questions of a campaign, read from its splits."""
    prompts: list[Prompt] = []
    splits: list[AnswerSplit] = []
    for split in ANSWER_SPLITS:
        name = split_file(DEV_PROMPTS if split == "dev" else split)
        # Older campaigns have no dev prompts.
        if split == "dev" and name not in campaign.prepared.objects:
            continue
        path = fetch(context, campaign.prepared, name)
        split_prompts = list(read_rows(path, Prompt))
        prompts += split_prompts
        splits += [split] * len(split_prompts)
    texts, text_split = _texts(context, campaign)
    labels, skipped = _labels(context, campaign, prompts)
    labelled = _labelled(context, campaign)
    return Questions(prompts, splits, texts, text_split, labels, skipped, labelled)


def _labelled(context: Context, campaign: Campaign) -> list[str]:
    path = fetch(context, campaign.prepared, split_file("train"))
    # A document has no prompt, and is no answer; a block of raw text is continued like it is.
    answers = (
        row.completion
        for row in read_rows(path, TrainingRow)
        if row.prompt or row.is_text
    )
    return list(itertools.islice(answers, campaign.recipe.evaluate.diversity_rows))


def _texts(context: Context, campaign: Campaign) -> tuple[list[TrainingRow], TextSplit]:
    """Return (human texts for perplexity, their split): the first split that has any."""
    limit = campaign.recipe.evaluate.max_perplexity_rows
    for split in TEXT_SPLITS:
        path = fetch(context, campaign.prepared, split_file(split))
        rows = list(read_rows(path, TrainingRow))
        if rows:
            return rows[:limit], split
    return [], "dev"


def _labels(
    context: Context, campaign: Campaign, prompts: Sequence[Prompt]
) -> tuple[list[str], dict[str, str]]:
    """Return (all classes of the data in alphabetical order, reason to skip classification).

    There are none unless the prompts come from text-and-label rows.
    """
    prompt_labels = {label_of(prompt) for prompt in prompts} - {""}
    if not prompt_labels:
        return [], {}
    # A rare class may have no validation or test row, and can still be chosen wrongly.
    path = fetch(context, campaign.prepared, split_file("train"))
    labels_found = set(prompt_labels)
    for row in read_rows(path, TrainingRow):
        if row.label:
            labels_found.add(row.label)
    labels = sorted(labels_found)
    if len(labels) > MAX_CLASSES:
        return [], {"classification": f"{len(labels)} labels, at most {MAX_CLASSES}"}
    if len(labels) < 2:
        return [], {"classification": f"one label alone ({labels[0]})"}
    return labels, {}
