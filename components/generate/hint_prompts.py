"""Which prompts are tried again with their answer as a hint, and what the model sees then (STaR,
2203.14465)."""

from __future__ import annotations

import re

from components.contracts import artifacts
from components.contracts.rows import HardPrompt, Prompt, read_rows
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt
from components.verifiers import reference_answer

_PLACE = re.compile(r"\{(prompt|answer)\}")


def last_selection(context: Context, campaign: Campaign) -> Receipt | None:
    """The selection that holds the pool of too-hard prompts as it stands; None without hints or
    before there is one.

    Every selection carries the pool on (`too_hard.jsonl`): adds what it found too hard, leaves out
    what was answered.
    """
    if campaign.recipe.generate.hints is None or not campaign.state.selections:
        return None
    return read_receipt(context, campaign.state.selections[-1])


def hard_prompts(context: Context, campaign: Campaign, selection: Receipt | None) -> list[Prompt]:
    """The prompts to try with a hint: the first ones of the pool that this campaign's data still
    holds."""
    hints = campaign.recipe.generate.hints
    if hints is None or selection is None or artifacts.TOO_HARD not in selection.objects:
        return []
    waiting = [
        row.prompt_id
        for row in read_rows(fetch(context, selection, artifacts.TOO_HARD), HardPrompt)
    ]
    wanted = set(waiting)
    known = {
        prompt.id: prompt
        for prompt in read_rows(
            fetch(context, campaign.prepared, artifacts.split_file("unlabelled")), Prompt
        )
        if prompt.id in wanted and reference_answer(prompt)
    }
    return [known[identity] for identity in waiting if identity in known][: hints.prompts_per_round]


def hinted(prompt: Prompt, template: str) -> Prompt:
    """The prompt as the model sees it, under its own id: an answer to it is an answer to the
    prompt."""
    if prompt.conversation is None:
        return prompt.model_copy(update={"text": _with_hint(prompt, prompt.text, template)})
    turns = list(prompt.conversation.messages)
    last = max(place for place, turn in enumerate(turns) if turn["role"] == "user")
    content = _with_hint(prompt, str(turns[last]["content"]), template)
    turns[last] = {**turns[last], "content": content}
    conversation = prompt.conversation.model_copy(update={"messages": tuple(turns)})
    return prompt.model_copy(update={"text": conversation.as_text(), "conversation": conversation})


def _with_hint(prompt: Prompt, text: str, template: str) -> str:
    """What the user says, with the hint."""
    values = {"prompt": text, "answer": reference_answer(prompt)}
    # In one go: a placeholder inside a prompt or an answer is text.
    return _PLACE.sub(lambda found: values[found[1]], template)
