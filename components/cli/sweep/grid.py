"""The combinations of a sweep: keys with their values, and a recipe for each combination."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import JsonValue

from components.contracts.recipe import Recipe
from components.contracts.recipe_file import load_recipe
from components.contracts.strict_yaml import load_yaml
from components.errors import UserError, one_line

MAX_COMBINATIONS = 100
"""More are a mistyped list, or months of work."""
RELEASE_KEY = "publish.release"
TRIAL = f"{RELEASE_KEY}=false"
"""Every campaign of a sweep is a trial: a few comparisons without a release would wear out the
prompts that releases are decided on."""


@dataclass(frozen=True)
class Axis:
    """A key of the recipe with the values that it takes."""

    key: str
    values: tuple[JsonValue, ...]


@dataclass(frozen=True)
class Combination:
    """One setting of each key, and the recipe with it."""

    settings: dict[str, JsonValue]
    """Key → value."""
    recipe: Recipe

    @property
    def text(self) -> str:
        """The settings as a person would write them."""
        return " ".join(
            f"{key}={value_text(value)}" for key, value in self.settings.items()
        )


def value_text(value: JsonValue) -> str:
    """Return a value as it would be written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def axes_of(options: Sequence[str]) -> list[Axis]:
    """Return the axes that `--over KEY=VALUE,VALUE` name.

    Values are YAML, as those of `--set`: a list as a value is written in brackets.

    Raises:
        UserError: An option has another form, or names a key that another one names.
    """
    axes: list[Axis] = []
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"--over {option}: write section.key=value,value")
        if key == RELEASE_KEY:
            raise UserError(
                f"--over {option}: a sweep releases nothing, whatever {key} says"
            )
        if key in {axis.key for axis in axes}:
            raise UserError(
                f"--over {option}: {key} is named twice; give all its values at once"
            )
        try:
            values = load_yaml(f"[{text}]")
        except yaml.YAMLError as error:
            reason = one_line(getattr(error, "problem", None) or error)
            raise UserError(
                f"--over {option}: the values are not YAML ({reason})"
            ) from None
        # `1],[2` closes the list that it stands in.
        if not isinstance(values, list) or not values:
            raise UserError(f"--over {option}: write section.key=value,value")
        axes.append(Axis(key, tuple(values)))
    return axes


def combinations_of(
    path: Path, overrides: Sequence[str], axes: Sequence[Axis]
) -> list[Combination]:
    """Return the combinations, the values of the last key changing first.

    Args:
        path: The recipe.
        overrides: Those of `--set`, which every combination has.
        axes: The keys and their values.

    Raises:
        UserError: There are too many, two are the same, or the recipe does not allow one.
    """
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_COMBINATIONS:
        raise UserError(
            f"sweep: {count} combinations, and {MAX_COMBINATIONS} are the most; give fewer values"
        )
    combinations: list[Combination] = []
    by_run_id: dict[str, Combination] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        settings = dict(zip((axis.key for axis in axes), values, strict=True))
        own_overrides = [
            f"{key}={_as_yaml(key, value)}" for key, value in settings.items()
        ]
        recipe = load_recipe(path, (*overrides, *own_overrides, TRIAL))
        combination = Combination(settings, recipe)
        same = by_run_id.get(recipe.run_id)
        if same is not None:
            raise UserError(
                f"sweep: {combination.text} is the same recipe as {same.text}"
            )
        by_run_id[recipe.run_id] = combination
        combinations.append(combination)
    return combinations


def _as_yaml(key: str, value: object) -> str:
    """Return a value as one line of YAML."""
    try:
        return json.dumps(value)
    except TypeError:
        # YAML knows dates and sets, which no key of a recipe takes.
        raise UserError(
            f"--over {key}: {value} is no value of a recipe; put text in quotes"
        ) from None
