"""Verifier `exact`: the answer is the reference, but for white space and Unicode forms."""

from __future__ import annotations

from components.canonical import normalised_text
from components.contracts.rows import Prompt
from components.verifiers.references import reference_text


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the text is the reference."""
    # Without a reference an empty answer would be right.
    if not prompt.reference:
        return False
    return answer_key(text) == answer_key(reference_text(prompt))


def answer_key(text: str) -> str:
    """Return the whole text in its normalised form."""
    return normalised_text(text)
