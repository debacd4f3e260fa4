"""Prompts that are tried again with their answer as a hint (STaR, 2203.14465)."""

from __future__ import annotations

import re

from components.contracts.rows import HardPrompt, Prompt, read_rows
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt
from components.verifiers import reference_answer

_PLACEHOLDER = re.compile(r"\{(prompt|answer)\}")


def last_selection(context: Context, campaign: Campaign) -> Receipt | None:
    """Return the newest selection; None without hints, or if there was no selection yet.

    Its `too_hard.jsonl` is the pool of too-hard prompts as it stands: every selection writes all of
    it.
    """
    if campaign.recipe.generate.hints is None or not campaign.state.selections:
        return None
    return read_receipt(context, campaign.state.selections[-1])


def hard_prompts(context: Context, campaign: Campaign, selection: Receipt | None) -> list[Prompt]:
    """Return the prompts to try with a hint: the first `prompts_per_round` of the pool.

    Prompts that the campaign's data no longer holds are skipped, as after a resume with other data.

    Args:
        context: Store of the selection and of the data.
        campaign: Recipe and data of the campaign.
        selection: Holds the pool; None if there is none.
    """
    hints = campaign.recipe.generate.hints
    if hints is None or selection is None or "too_hard.jsonl" not in selection.objects:
        return []
    waiting = [
        row.prompt_id for row in read_rows(fetch(context, selection, "too_hard.jsonl"), HardPrompt)
    ]
    unlabelled = fetch(context, campaign.prepared, "splits/unlabelled.jsonl")
    waiting_ids = set(waiting)
    known = {
        prompt.id: prompt
        for prompt in read_rows(unlabelled, Prompt)
        if prompt.id in waiting_ids and reference_answer(prompt)
    }
    return [known[identity] for identity in waiting if identity in known][: hints.prompts_per_round]


def hinted(prompt: Prompt, template: str) -> Prompt:
    """Return the prompt with the text of the template, its placeholders filled in.

    The id stays: an answer to the hinted prompt is an answer to the prompt.

    Args:
        prompt: The prompt without a hint.
        template: Text with `{prompt}` and `{answer}`.
    """
    values = {"prompt": prompt.text, "answer": reference_answer(prompt)}
    # One substitution for both: a placeholder inside a prompt or an answer is text.
    text = _PLACEHOLDER.sub(lambda match: values[match[1]], template)
    return prompt.model_copy(update={"text": text})
