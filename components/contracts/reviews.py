"""Answers that people mark as right or wrong: what they are shown, and what they said."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReviewRow(_Frozen):
    """One answer, as it is given to a person and comes back. A verdict needs `id` and `right`."""

    id: str
    """`answer_id` of the prompt and the answer."""
    right: bool | None = None
    """What the person says; None: nothing yet."""
    prompt: str = ""
    answer: str = ""
    reference: str = ""
    """Right answer of the data, empty if there is none."""
    automatic: bool | None = None
    """What the recipe's verifier or the vote says of it."""
    samples: int = 1
    """Samples of the round that gave this answer."""


class ReviewBatch(_Frozen):
    """A file of verdicts that was imported. Batches of a round are numbered, and never rewritten."""

    schema_version: int = 1
    run_id: str
    round: int
    number: int
    """From 1."""
    sha256: str
    """Digest of the object with the verdicts, as JSON Lines."""
    verdicts: int
    by: str
    """Who imported it."""


def answer_id(prompt_id: str, text: str) -> str:
    """Return the name of an answer: the same for samples of a prompt that say the same."""
    # By its text: a sample that was drawn anew is another answer, and has no verdict yet.
    return hashlib.sha256(f"{prompt_id}\0{text}".encode()).hexdigest()[:16]
