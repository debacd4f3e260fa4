"""The text that the tokenizer of a model from scratch has to write."""

from __future__ import annotations

from collections import Counter

from components.contracts.recipe import ModelSection, Scratch
from components.errors import UserError
from components.prepare.splits import Splits

MAX_NAMED = 8


def scratch_model(section: ModelSection, splits: Splits) -> ModelSection:
    """Return the section `model` with the tokenizer that its `null` stands for.

    Raises:
        UserError: The rows have characters that the tokenizer does not know. They would all be one
            token, <unk>, of which the model could learn nothing.
    """
    scratch = section.scratch
    if section.source != "scratch" or scratch.tokenizer not in (None, "character"):
        return section
    counts = _characters(splits)
    unknown = Counter(
        {c: count for c, count in counts.items() if c not in scratch.alphabet}
    )
    if not unknown:
        return section
    # Whoever gives an alphabet means it.
    if scratch.tokenizer is None and scratch.alphabet == Scratch().alphabet:
        by_bytes = scratch.model_copy(update={"tokenizer": "byte"})
        return section.model_copy(update={"scratch": by_bytes})
    share = unknown.total() / counts.total()
    named = " ".join(repr(character) for character, _ in unknown.most_common(MAX_NAMED))
    raise UserError(
        f"model.scratch.alphabet: {share:.1%} of the characters of the data are not in it "
        f"({len(unknown)}: {named}); set model.scratch.tokenizer: byte, which writes every text, or "
        "bpe or word"
    )


def training_texts(splits: Splits) -> list[str]:
    """Return what a tokenizer is trained on: rows and prompts that nothing is measured on."""
    texts = [
        text for row in splits.train for text in (row.prompt, row.completion) if text
    ]
    return [*texts, *(prompt.text for prompt in splits.unlabelled)]


def _characters(splits: Splits) -> Counter[str]:
    counts = Counter[str]()
    for row in (*splits.train, *splits.dev, *splits.retention):
        counts.update(row.prompt)
        counts.update(row.completion)
    measured = (*splits.validation, *splits.test, *splits.vault, *splits.audit)
    for prompt in (*splits.unlabelled, *measured):
        counts.update(prompt.text)
    return counts
