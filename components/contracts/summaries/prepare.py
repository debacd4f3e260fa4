"""Summaries of prepare's receipts: data and base model, and the start of a campaign."""

from __future__ import annotations

from typing import ClassVar

from components.contracts.summaries.summary import Part, Summary


class PrepareSummary(Summary):
    """Facts about the base model and the splits."""

    written_by: ClassVar[tuple[str, ...]] = ("prepare",)
    counts: dict[str, int]
    """Split → rows."""
    rejected: dict[str, int]
    """Reason → rows that no split holds."""
    parameters: int
    """Parameters of the base model."""
    base_digest: str
    """SHA-256 over the weights of the base model."""
    # Training keeps fp32 weights; a model is published in the type that it came in.
    dtype: str
    """Type of the weights of the base model as it came, in which a model is published."""
    # Learned positions end; rotary ones, or none at all, do not.
    positions: int | None
    """Positions that the base model has; None where any length will do."""
    base_release: str = ""
    """Ref of the publish receipt whose model is the base; empty if it is no release."""


class TeacherSummary(Summary):
    """The model that answers instead of the champion."""

    written_by: ClassVar[tuple[str, ...]] = ("teacher",)
    source: str
    """`generate.teacher.source` of the recipe; of a release with its number."""
    parameters: int
    digest: str
    """SHA-256 over its weights."""
    positions: int | None
    """Positions that it has; None where any length will do."""


class StartTeacher(Part):
    """The teacher of a run."""

    receipt: str
    """Ref of the teacher receipt, whose `model/` it is."""
    source: str
    parameters: int


class StartSummary(PrepareSummary):
    """The same, and the beginning of this run."""

    written_by: ClassVar[tuple[str, ...]] = ("start",)
    smallest_gain: float | None = None
    """Smallest gain that the validation prompts can prove in one round, as a share of them; None if
    the run goes on from an earlier one."""
    supervised: bool
    """False if there is no round 0: the recipe has no supervised stage, or the run goes on from a
    later state."""
    base: str
    """Ref of the prepare receipt, whose `model/` is the base model."""
    first_mix: str
    """Ref of the mix that the first training learns from."""
    teacher: StartTeacher | None = None
    """None: the champion answers, or a model behind an endpoint."""
