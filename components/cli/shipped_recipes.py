"""The recipes that come with Ratchet, which work from any folder."""

from __future__ import annotations

from pathlib import Path

from components.cli.messages import print_note
from components.cli.source_tree import RECIPES_FOLDER, SOURCE_TREE
from components.errors import UserError


def find_recipe(path: Path) -> Path:
    """Return the path of a recipe: the user's own, or else the one of this name that is shipped.

    `recipes/NAME.yaml` is looked for in the working folder first. A note says which one is taken.

    Raises:
        UserError: There is none, but one of this name is shipped, which was perhaps meant.
    """
    is_in_recipes = path.parts[:1] == (RECIPES_FOLDER.name,)
    if path.exists():
        return path
    if not is_in_recipes:
        _name_shipped(path)
        return path
    shipped = SOURCE_TREE / path
    # A name such as recipes/../pipeline.py leads out of the folder.
    if shipped.resolve().parent != RECIPES_FOLDER or not shipped.is_file():
        return path
    print_note(
        f"there is no {path} here; using the one that comes with Ratchet: {shipped}"
    )
    return shipped


def _name_shipped(path: Path) -> None:
    # With or without its ending; in a folder of one's own it was meant as one's own.
    if path.parent != Path() or path.suffix not in ("", ".yaml"):
        return
    shipped = RECIPES_FOLDER / f"{path.stem}.yaml"
    if path.stem and shipped.is_file():
        name = f"{RECIPES_FOLDER.name}/{shipped.name}"
        raise UserError(f"recipe {path}: no such file; did you mean {name}?")
