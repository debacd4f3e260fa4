"""Summary of a publication: a released model, or the reason why none was released."""

from __future__ import annotations

from typing import ClassVar, Literal

from components.contracts.recipe import Metric
from components.contracts.summaries.evaluate import Estimate
from components.contracts.summaries.summary import Part, Summary

Split = Literal["vault", "test"]
"""Prompts that decide about a release: the vault, or test where the data has none."""
Verdict = Literal["better", "non-inferior", "not proved"]
RivalKind = Literal["base", "release", "anchor"]
"""base: the model that the campaign began from; release: the one in force; anchor: the newest
release before it that was proved better than its predecessor."""


class Rival(Part):
    """A model that the champion is compared with, on the same prompts by the same engine."""

    kind: RivalKind
    name: str
    """Name for people, such as `release 3`."""
    scores: Estimate
    """Its own value of the measure."""
    verdict: Verdict
    """Result for the champion."""
    wins: int
    """Prompts that the champion alone does better."""
    losses: int
    """Prompts that the rival alone does better."""
    gain: float
    """Mean score of the champion minus the rival's."""
    p_value: float
    """One-sided probability of such a gain if both were equal."""
    level: float
    """Highest p-value that proves a gain."""
    why: str
    """One sentence with the numbers."""


class PublishSummary(Summary):
    """The champion, what it was compared with, and whether it was released."""

    written_by: ClassVar[tuple[str, ...]] = ("publish",)
    name: str
    version: str
    """Empty if nothing was released."""
    prefix: str
    """Folder of the model in the store, with a slash at its end; empty if nothing was released."""
    released: bool
    """The name stands for this model once the ledger has its line."""
    needs_approval: bool = False
    """It is released, but not before a person has approved it (`publish.approval: required`)."""
    why: str
    """Reason for or against the release, in a sentence."""
    dtype: str
    """Type of the weights as they are released, or would be."""
    champion: str
    """Ref of the receipt that holds it: of train, or of prepare for the base."""
    champion_round: int | None
    """Round that trained it; None for the base."""
    target_met: bool
    """The campaign ended because the goal was reached."""
    metric: Metric
    """Measure of the campaign, and of all scores here."""
    validation_score: float
    # Reported, and never decided by: it was measured on prompts that chose nothing.
    test_score: float
    split: Split
    """Prompts that decided."""
    # A score on a set that chose the model overstates (2610.09239); this one chose nothing.
    scores: Estimate | None
    """Value of the champion on them, with the files of a release; None if they were not
    opened."""
    rivals: tuple[Rival, ...] = ()
    """Models that it was compared with."""
    new_prompts_due: bool = False
    """These prompts have one opening left, or none: they need to be replaced by new ones."""
