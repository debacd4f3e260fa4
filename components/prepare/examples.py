"""The form in which readers and tasks hand over a question, its answer and its verifier."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from components.contracts.rows import Check, Conversation, Prompt, TrainingRow, prompt_id


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
        """Return the question with what its verifier needs, out of the model's sight."""
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
        )
