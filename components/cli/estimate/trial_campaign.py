"""The campaign that is tried out, and its rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from components.cli.estimate.calibration import Trial
from components.contracts.artifacts import split_file
from components.contracts.rows import Prompt, TrainingRow, read_rows
from components.contracts.state import base_plan
from components.runtime.campaign import Campaign, checkpoint_in, load_campaign
from components.runtime.context import Context, make_context
from components.runtime.receipts import Receipt, fetch, fetch_folder
from components.verifiers import reference_answer

MAX_ROWS = 2000
"""Rows that a trial trains on at most: enough to have all lengths, few enough to be encoded in a
second."""

Item = TypeVar("Item")


def context_of(trial: Trial) -> Context:
    """Return the surroundings of a process of the trial."""
    return make_context(trial.store, os.environ)


def campaign_in_rounds(
    trial: Trial, start: str, max_new_tokens: int | None
) -> Campaign:
    """Return the campaign as it would be after round 0, with the base in the champion's place.

    Args:
        trial: The trial.
        start: URI of its start receipt.
        max_new_tokens: Longest answer; None: as the recipe says.
    """
    campaign = load_campaign(context_of(trial), start)
    recipe = campaign.recipe
    ladder = recipe.data.ladder
    level = ladder.climb[0] if ladder is not None else 0
    plan = base_plan(recipe).model_copy(update={"level": level})
    state_changes = {"round": 0, "champion": campaign.prepared.ref, "plan": plan}
    if max_new_tokens is not None:
        section = recipe.generate.model_copy(update={"max_new_tokens": max_new_tokens})
        recipe = recipe.model_copy(update={"generate": section})
    state = campaign.state.model_copy(update=state_changes)
    return campaign.model_copy(update={"state": state, "recipe": recipe})


@contextmanager
def fetched_checkpoint(context: Context, model: Receipt) -> Iterator[Path]:
    """Yield a folder with a receipt's model, which is deleted afterwards."""
    folder = fetch_folder(context, model, checkpoint_in(model, 0))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def known_answer(prompt: Prompt) -> str | None:
    """Return the right answer to a prompt as it would be taught; None if the data has none."""
    answer = prompt.reference.get("answer")
    if isinstance(answer, str):
        return answer
    if prompt.verifier.startswith("task/"):
        # The answers of built-in tasks follow from their prompts.
        return reference_answer(prompt)
    return None


def labelled_rows(context: Context, campaign: Campaign) -> Iterator[TrainingRow]:
    """Yield the rows of the train split."""
    return rows_in(fetch(context, campaign.prepared, split_file("train")))


def rows_in(path: Path) -> Iterator[TrainingRow]:
    """Yield the rows of a file, which may be empty: a split without rows is."""
    if path.stat().st_size:
        yield from read_rows(path, TrainingRow)


def rows_file(trial: Trial, shard: int) -> Path:
    """Return the file of the rows that a shard's samples would become."""
    return trial.folder / f"rows-{shard:03d}.jsonl"


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly spread over all of them and in their order."""
    if count >= len(items):
        return list(items)
    return [items[position * len(items) // count] for position in range(count)]
