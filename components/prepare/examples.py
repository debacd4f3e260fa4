"""The form in which readers and tasks hand over a question, its answer and its verifier."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from components.contracts.rows import (
    Check,
    Conversation,
    Prompt,
    TrainingRow,
    prompt_id,
)


@dataclass(frozen=True)
class Block:
    """Place of a block of raw text in its source."""

    beginning: str
    """The front of the text, which a model continues."""
    stretch: str
    """Name of the stretch of neighbouring blocks."""
    goes_on: bool
    """False for the last block of a document."""


@dataclass(frozen=True)
class Example:
    """One row of a source or one puzzle, before it is assigned to a split."""

    prompt: str
    """Empty for raw text."""
    completion: str | None
    """None: a question without an answer."""
    conversation: Conversation | None = field(default=None, kw_only=True)
    """All turns, the answer last if there is one, where they are more than a question and an
    answer."""
    verifier: str
    reference: dict[str, Any]
    check: Check = field(default=Check(), kw_only=True)
    """Settings of the verifier."""
    is_asked: bool = field(default=True, kw_only=True)
    """False for a dev row that is no dev prompt: a ladder has other prompts of its own."""
    is_paragraph: bool = field(default=False, kw_only=True)
    """A paragraph of a plain text file, which goes on with the next one."""
    block: Block | None = field(default=None, kw_only=True)
    """Place of a block of raw text; None for a question, or a whole document."""
    tags: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    # By its prompt and not by row: two answers to one question must not come into two splits.
    @property
    def identity(self) -> str:
        """Id that splits are disjoint by: the prompt's; of raw text, the text's."""
        return prompt_id(self.prompt or self.completion or "")

    @property
    def _turns_before_answer(self) -> Conversation | None:
        if self.conversation is None or self.completion is None:
            return self.conversation
        return self.conversation.before_answer

    @property
    def stated_answer(self) -> str:
        """The right answer in words; empty if there is none."""
        if self.completion is not None:
            return self.completion
        return str(self.reference.get("answer") or "")

    def as_question(self) -> Prompt:
        """Return what is asked, or the text of a row that asks nothing, without a verifier."""
        text = self.prompt or self.completion or ""
        return Prompt(id=self.identity, text=text, verifier="exact")

    def as_prompt(self) -> Prompt:
        """Return the question with what its verifier needs, out of the model's sight.

        Of a block of raw text it is the beginning.
        """
        if self.block is not None:
            text = self.completion or ""
            return Prompt(
                id=self.identity,
                text=self.block.beginning,
                verifier=self.verifier,
                reference={"answer": text.removeprefix(self.block.beginning)},
                tags=self.tags,
                is_text=True,
                goes_on=self.block.goes_on,
                stretch=self.block.stretch,
            )
        return Prompt(
            id=self.identity,
            text=self.prompt,
            conversation=self._turns_before_answer,
            verifier=self.verifier,
            check=self.check,
            reference=self.reference,
            tags=self.tags,
        )

    def as_training_row(self) -> TrainingRow:
        """Return the question with its right answer, as a labelled row."""
        if self.completion is None:
            raise ValueError(f"example {self.identity} has no completion")
        # One question may be taught with several answers, so its id alone names no row.
        answer_digest = hashlib.sha256(self.completion.encode()).hexdigest()[:8]
        return TrainingRow(
            id=f"{self.identity}-{answer_digest}",
            prompt=self.prompt,
            completion=self.completion,
            conversation=self.conversation,
            source="labelled",
            round=0,
            tags=self.tags,
            provenance=self.provenance,
            is_text=self.block is not None,
            goes_on=self.block is not None and self.block.goes_on,
        )
