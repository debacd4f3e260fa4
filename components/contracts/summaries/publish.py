"""Summary of a published model."""

from __future__ import annotations

from typing import ClassVar

from components.contracts.summaries.summary import Part, Share, Summary


class VaultRefusal(Part):
    """The vault was not opened."""

    refused: str
    """Reason, in a sentence."""


class PublishSummary(Summary):
    """The model that was published, and how good it is."""

    written_by: ClassVar[tuple[str, ...]] = ("publish",)
    name: str
    version: str
    prefix: str
    """Folder of the model in the store, with a slash at its end."""
    dtype: str
    """Type of the published weights."""
    champion: str
    """Ref of its train receipt."""
    champion_round: int
    target_met: bool
    """The campaign ended because the goal was reached."""
    validation_accuracy: float
    # Reported, and never decided by: it was measured on prompts that chose nothing.
    test_accuracy: float
    # A score on a set that chose the model overstates (2610.09239); this one chose nothing.
    vault: Share | VaultRefusal | None
    """Greedy accuracy on the vault; None if the data has none."""
