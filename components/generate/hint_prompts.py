"""Prompts that are tried again with their answer as a hint (STaR, 2203.14465)."""

from __future__ import annotations

import re

from components.contracts import artifacts
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


def hard_prompts(
    context: Context, campaign: Campaign, selection: Receipt | None
) -> list[Prompt]:
    """Return the prompts to try with a hint: the first `prompts_per_round` of the pool.

    Prompts that the campaign's data no longer holds are skipped, as after a resume with other data.

    Args:
        context: Store of the selection and of the data.
        campaign: Recipe and data of the campaign.
        selection: Holds the pool; None if there is none.
    """
    hints = campaign.recipe.generate.hints
    if (
        hints is None
        or selection is None
        or artifacts.TOO_HARD not in selection.objects
    ):
        return []
    pool = fetch(context, selection, artifacts.TOO_HARD)
    waiting = [row.prompt_id for row in read_rows(pool, HardPrompt)]
    waiting_ids = set(waiting)
    unlabelled = fetch(context, campaign.prepared, artifacts.split_file("unlabelled"))
    prompts_by_id: dict[str, Prompt] = {}
    for prompt in read_rows(unlabelled, Prompt):
        # Other data may hold the same prompt without an answer: there is nothing to hint at.
        if prompt.id in waiting_ids and reference_answer(prompt):
            prompts_by_id[prompt.id] = prompt
    hard = [
        prompts_by_id[identity] for identity in waiting if identity in prompts_by_id
    ]
    return hard[: hints.prompts_per_round]


def hinted(prompt: Prompt, template: str) -> Prompt:
    """Return the prompt with the hint in its last user turn.

    The id stays: an answer to the hinted prompt is an answer to the prompt.

    Args:
        prompt: The prompt without a hint.
        template: Text with `{prompt}` and `{answer}`.
    """
    if prompt.conversation is None:
        text = _with_hint(prompt, prompt.text, template)
        return prompt.model_copy(update={"text": text})
    turns = list(prompt.conversation.messages)
    user_turns = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    # Results of tool calls may come after the last user turn.
    last = user_turns[-1]
    question = str(turns[last]["content"])
    turns[last] = {**turns[last], "content": _with_hint(prompt, question, template)}
    conversation = prompt.conversation.model_copy(update={"messages": tuple(turns)})
    text = conversation.as_text()
    return prompt.model_copy(update={"text": text, "conversation": conversation})


def _with_hint(prompt: Prompt, text: str, template: str) -> str:
    """Return the template with its placeholders filled in.

    Args:
        prompt: Holds the reference answer.
        text: Words of the user, for `{prompt}`.
        template: Text with `{prompt}` and `{answer}`.
    """
    values = {"prompt": text, "answer": reference_answer(prompt)}
    # One substitution for both: a placeholder inside a prompt or an answer is text.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
