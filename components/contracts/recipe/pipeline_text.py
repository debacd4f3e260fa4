"""A recipe as a parameter of the pipeline: nothing in it is a placeholder, and nothing is null.

Kubeflow Pipelines and Argo replace `{{…}}` in the values of parameters, also where a person wrote it
as text (kubeflow/pipelines#13959), and a parameter of Kubeflow Pipelines holds no null.
"""

from __future__ import annotations

import re

from pydantic import JsonValue

from components.canonical import JsonObject
from components.contracts.recipe.recipe import Recipe

# An invisible character between two braces. Text that has some there gets one more, so that the way
# back is unique.
_JOINER = "\u2060"
_BRACES = re.compile(rf"\{{({_JOINER}*)(?=\{{)")
_PARTED_BRACES = re.compile(rf"\{{{_JOINER}({_JOINER}*)(?=\{{)")
_NULL = f"{{{_JOINER}null}}"


def pipeline_document(recipe: Recipe) -> JsonObject:
    """Return a recipe as the pipeline's parameter `recipe` has it."""
    document = recipe.model_dump(mode="json", exclude_none=True)
    return {name: _protected(value) for name, value in document.items()}


def recipe_document(parameter: JsonObject) -> JsonObject:
    """Return the recipe in the pipeline's parameter; one that a person typed is left as it is."""
    return {name: _restored(value) for name, value in parameter.items()}


def _protected(value: JsonValue) -> JsonValue:
    match value:
        case None:
            return _NULL
        case str():
            return _BRACES.sub(rf"{{\1{_JOINER}", value)
        case list():
            return [_protected(item) for item in value]
        case dict():
            return {
                str(_protected(name)): _protected(item) for name, item in value.items()
            }
    return value


def _restored(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return None if value == _NULL else _PARTED_BRACES.sub(r"{\1", value)
        case list():
            return [_restored(item) for item in value]
        case dict():
            return {
                str(_restored(name)): _restored(item) for name, item in value.items()
            }
    return value
