"""A campaign to be carried out on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from components.cli.local.docker_runner import Containers
from components.contracts.recipe import Recipe


@dataclass(frozen=True)
class LocalCampaign:
    """The options of the `run` verb."""

    recipe: Recipe
    store: str
    """URI of the store."""
    rounds: int
    """Improvement rounds that are unrolled."""
    resume_from: str
    """URI of a state to go on from; empty: begin with the base model."""
    containers: Containers | None
    """Each task runs in a container; None: as a process of this Python."""
