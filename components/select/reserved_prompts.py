"""What a round is measured on, as far as select must know it: to keep it out of training, and to
audit the filters."""

from __future__ import annotations

from components.contracts.artifacts import split_file
from components.contracts.rows import Prompt, TrainingRow, prompt_id, read_rows
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch

QUESTIONS = ("vault", "test", "validation", "audit")
TEXTS = ("retention", "dev")


def evaluation_items(context: Context, prepared: Receipt) -> list[tuple[Prompt, str]]:
    """The prompts of every evaluation split there is, with their reference answer as text."""
    items = [
        (prompt, _reference(prompt))
        for split in _present(prepared, QUESTIONS)
        for prompt in read_rows(fetch(context, prepared, split_file(split)), Prompt)
    ]
    for split in _present(prepared, TEXTS):
        for row in read_rows(fetch(context, prepared, split_file(split)), TrainingRow):
            text = (
                row.prompt or row.completion
            )  # raw text asks nothing; it must not be learned by heart either
            items.append((Prompt(id=prompt_id(text), text=text, verifier="exact"), row.completion))
    return items


def validation_prompts(context: Context, prepared: Receipt) -> list[Prompt]:
    """The prompts of the validation split; none if the data has no such split."""
    return [
        prompt
        for split in _present(prepared, ("validation",))
        for prompt in read_rows(fetch(context, prepared, split_file(split)), Prompt)
    ]


def audit_ids(context: Context, prepared: Receipt) -> frozenset[str]:
    """Ids of the prompts that the filters are audited on; none if the data has no audit split."""
    return frozenset(
        prompt.id
        for split in _present(prepared, ("audit",))
        for prompt in read_rows(fetch(context, prepared, split_file(split)), Prompt)
    )


def _present(prepared: Receipt, splits: tuple[str, ...]) -> list[str]:
    return [split for split in splits if split_file(split) in prepared.objects]


def _reference(prompt: Prompt) -> str:
    entry = prompt.reference.get("entry")
    answer = entry.get("answer") if isinstance(entry, dict) else prompt.reference.get("answer")
    return str(answer or "")
