"""Prompts and texts that a round is measured on: generate and select keep them out of training."""

from __future__ import annotations

from components.contracts.artifacts import DEV_PROMPTS, split_file
from components.contracts.rows import Prompt, TrainingRow, prompt_id, read_rows
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch

QUESTIONS = ("vault", "test", "validation", "audit", DEV_PROMPTS)
"""Splits of prompts."""
TEXTS = ("retention", "dev")
"""Splits of rows: losses on them decide as well."""


def evaluation_items(context: Context, prepared: Receipt) -> list[tuple[Prompt, str]]:
    """Return (prompt, reference answer) of every item of the evaluation splits there are."""
    items = [
        (prompt, _reference(prompt))
        for split in _present(prepared, QUESTIONS)
        for prompt in read_rows(fetch(context, prepared, split_file(split)), Prompt)
    ]
    for split in _present(prepared, TEXTS):
        for row in read_rows(fetch(context, prepared, split_file(split)), TrainingRow):
            # Raw text has no prompt, but must not be learned by heart either.
            text = row.prompt or row.completion
            prompt = Prompt(id=prompt_id(text), text=text, verifier="exact")
            items.append((prompt, row.completion))
    return items


def validation_prompts(context: Context, prepared: Receipt) -> list[Prompt]:
    """Return the prompts of the validation split; empty if the data has no such split."""
    return [
        prompt
        for split in _present(prepared, ("validation",))
        for prompt in read_rows(fetch(context, prepared, split_file(split)), Prompt)
    ]


def audit_ids(context: Context, prepared: Receipt) -> frozenset[str]:
    """Return the ids of the audit split's prompts; empty if the data has no audit split."""
    return frozenset(
        prompt.id
        for split in _present(prepared, ("audit",))
        for prompt in read_rows(fetch(context, prepared, split_file(split)), Prompt)
    )


def _present(prepared: Receipt, splits: tuple[str, ...]) -> list[str]:
    return [split for split in splits if split_file(split) in prepared.objects]


def _reference(prompt: Prompt) -> str:
    reference = prompt.reference
    # Puzzles of reasoning-gym bring an entry of its data set, with the answer inside.
    entry = reference.get("entry")
    holder = entry if isinstance(entry, dict) else reference
    return str(holder.get("answer") or "")
