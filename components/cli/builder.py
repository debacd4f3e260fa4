"""The pipeline's builder, which `pipeline.py` hands to the command line: nothing here imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import typer

from components.cli.package.profiles import Profile
from components.contracts.recipe import Recipe

if TYPE_CHECKING:
    from kfp.dsl import base_component


class Builder(Protocol):
    """What makes the pipeline of a recipe."""

    def __call__(
        self, recipe: Recipe, rounds: int = 4, profile: Profile | None = None
    ) -> base_component.BaseComponent:
        """The pipeline with `rounds` improvement rounds, placed on nodes as the profile says."""
        ...


def builder_of(command: typer.Context) -> Builder:
    """The builder that `main` was given."""
    builder: Builder = command.obj
    return builder
