"""Prompts of a round: a window of the unlabelled pool, and the audit split."""

from __future__ import annotations

from components.canonical import derived_seed
from components.contracts.artifacts import split_file
from components.contracts.rows import (
    Prompt,
    TrainingRow,
    front_of,
    prompt_id,
    read_rows,
)
from components.errors import UserError
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch


def round_prompts(context: Context, campaign: Campaign) -> list[Prompt]:
    """Return the next window of what the recipe samples from, then the audit split.

    Prompts that the model writes itself are none of them. On a ladder only prompts of the plan's
    length are taken. The audit split is what `select` measures its filters on.

    Raises:
        UserError: The pool has no prompts.
    """
    level = campaign.state.plan.level
    source = campaign.recipe.generate.source
    match source:
        case "nothing":
            return _nothing(campaign)
        case "text":
            pool = _beginnings(context, campaign)
        case "prompts":
            pool = _prompts_of_level(context, campaign, "unlabelled")
        case "model":
            # The step asks for them first.
            return _prompts_of_level(context, campaign, "audit")
    audit = _prompts_of_level(context, campaign, "audit")
    if not pool and source == "text":
        raise UserError(
            "generate.from is text, and no raw text is taught: give rows without a prompt"
        )
    if not pool:
        raise UserError(
            f"round {campaign.next_round}: no unlabelled prompts (level {level}); "
            "give data with prompts to answer"
        )
    # The pool comes task by task; a fixed shuffle lets every window hold all of them.
    pool.sort(key=lambda prompt: derived_seed(campaign.recipe.seed, "pool", prompt.id))
    # Rounds walk through the pool and begin again at its end: the first rounds see prompts that no
    # earlier round has seen.
    count = min(campaign.recipe.generate.prompts_per_round, len(pool))
    begin = (campaign.next_round - 1) * count % len(pool)
    return (pool + pool)[begin : begin + count] + audit


def _nothing(campaign: Campaign) -> list[Prompt]:
    """Return prompts that hold nothing, each with an id, and so a seed, of its own."""
    number = campaign.next_round
    return [
        Prompt(
            id=prompt_id(f"nothing {number} {index}"),
            text="",
            verifier="exact",
            is_text=True,
        )
        for index in range(campaign.recipe.generate.prompts_per_round)
    ]


def _beginnings(context: Context, campaign: Campaign) -> list[Prompt]:
    """Return the beginnings of the raw text of the train split, each once."""
    size = campaign.recipe.data.text.beginning
    beginnings = {}
    for row in read_rows(
        fetch(context, campaign.prepared, split_file("train")), TrainingRow
    ):
        # A text that is as short leaves nothing to write.
        if not row.prompt and len(row.completion) > size:
            text = front_of(row.completion, size)
            identity = prompt_id(row.completion)
            beginnings[identity] = Prompt(
                id=identity, text=text, verifier="exact", is_text=True
            )
    return list(beginnings.values())


def _prompts_of_level(context: Context, campaign: Campaign, split: str) -> list[Prompt]:
    """Return the prompts of a split at the plan's level; empty if the data has no such split."""
    name = split_file(split)
    if name not in campaign.prepared.objects:
        return []
    # Prompts without a length are of every level.
    level = str(campaign.state.plan.level)
    rows = read_rows(fetch(context, campaign.prepared, name), Prompt)
    return [prompt for prompt in rows if prompt.tags.get("length", level) == level]
