"""The base of every summary, and of the parts that summaries are made of."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A nested part of a summary: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Summary(Part):
    """The numbers of one receipt that other steps and people read."""

    # No times and no hosts: the same work must give the same receipt, byte for byte.

    written_by: ClassVar[tuple[str, ...]]
    """Steps whose receipts have a summary of this kind."""


class Share(Part):
    """A share of right answers with its 95 % interval (Wilson)."""

    n: int
    """Answers."""
    accuracy: float
    """Share of right ones, 0 to 1."""
    # Wilson, because the usual interval has no width where all answers are right, or none.
    low: float
    high: float
