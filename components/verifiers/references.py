"""The reference answer of a prompt as text."""

from __future__ import annotations

from components.contracts.rows import Prompt


def reference_text(prompt: Prompt) -> str:
    """Return the reference answer, empty if there is none."""
    return str(prompt.reference.get("answer", ""))
