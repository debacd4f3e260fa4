"""The recipes that come with Ratchet, which work from any folder."""

from __future__ import annotations

from pathlib import Path

from components.cli.messages import print_note
from components.cli.source_tree import RECIPES_FOLDER, SOURCE_TREE


def find_recipe(path: Path) -> Path:
    """Return the path of a recipe: the user's own, or else the one of this name that is shipped.

    `recipes/NAME.yaml` is looked for in the working folder first. A note says which one is taken.
    """
    is_in_recipes = path.parts[:1] == (RECIPES_FOLDER.name,)
    if path.exists() or not is_in_recipes:
        return path
    shipped = SOURCE_TREE / path
    # A name such as recipes/../pipeline.py leads out of the folder.
    if shipped.resolve().parent != RECIPES_FOLDER or not shipped.is_file():
        return path
    print_note(f"there is no {path} here; using the one that comes with Ratchet: {shipped}")
    return shipped
