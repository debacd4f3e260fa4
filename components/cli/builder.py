"""The pipeline's builder, which `pipeline.py` hands to the command line; nothing imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import typer

from components.cli.package.profiles import Profile
from components.contracts.recipe import Recipe

if TYPE_CHECKING:
    from kfp.dsl import base_component


class Builder(Protocol):
    """A function that makes the pipeline of a recipe."""

    def __call__(
        self, recipe: Recipe, rounds: int = 4, profile: Profile | None = None
    ) -> base_component.BaseComponent:
        """Return the pipeline with `rounds` improvement rounds, placed as the profile says."""
        ...


def builder_of(command: typer.Context) -> Builder:
    """Return the builder that `main` was given."""
    builder: Builder = command.obj
    return builder


def program_of(command: typer.Context) -> str:
    """Return the name of the program as the user typed it: `ratchet` or `python pipeline.py`."""
    return command.find_root().info_name or ""
