"""The pipeline's builder; `pipeline.py` tells the command line its module, and nothing here does."""

from __future__ import annotations

import importlib
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


def builder_in(module: str) -> Builder:
    """Return the builder of a module, which is imported once it is called.

    Most verbs build no pipeline, and importing kfp takes a second.
    """

    def build(
        recipe: Recipe, rounds: int = 4, profile: Profile | None = None
    ) -> base_component.BaseComponent:
        builder: Builder = importlib.import_module(module).build
        return builder(recipe, rounds, profile)

    return build


def builder_of(command: typer.Context) -> Builder:
    """Return the builder that `main` was given."""
    builder: Builder = command.obj
    return builder


def program_of(command: typer.Context) -> str:
    """Return the name of the program as the user typed it: `ratchet` or `python pipeline.py`."""
    return command.find_root().info_name or ""
