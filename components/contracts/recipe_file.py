"""Recipes as people write them: YAML, overrides, and errors that name the key and the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from components.contracts.recipe import Recipe, Section
from components.errors import UserError

RENAMED_KEYS = {
    "data.human": "data.sources",
    "data.fractions.heldout": "data.fractions.dev",
    "data.tasks.heldout": "data.tasks.dev",
    "select.human_share": "select.labelled_share",
    "select.influence.validation_rows": "select.influence.dev_rows",
}
"""Key of an older version → what it is called now; without the numbers of list items."""
RENAMED_VALUES = {("data.sources.split", "heldout"): "dev"}
"""(key, value of an older version) → what the value is called now."""


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a YAML recipe and apply `section.key=value` overrides. Raises UserError with the file
    and the key."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"recipe {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(document, dict):
        raise UserError(f"recipe {path}: expected a mapping of sections at the top level")
    for override in overrides:
        _apply(document, override)
    return parse_recipe(document, str(path))


def parse_recipe(document: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Validate a recipe given as a mapping. Raises UserError naming the key and, for a typo, the
    nearest key."""
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise UserError("; ".join(f"{origin}: {text}" for text in _explain(error))) from None


def set_key(document: dict[str, Any], path: str, value: Any) -> None:
    """Set `section.key` (list items by number, `data.sources.0.limit`) of an unchecked recipe.
    Raises UserError."""
    target: Any = document
    *parents, leaf = path.split(".")
    try:
        for name in parents:
            target = target[int(name)] if isinstance(target, list) else target.setdefault(name, {})
        if isinstance(target, list):
            target[int(leaf)] = value
        else:
            target[leaf] = value
    except (AttributeError, TypeError, ValueError, IndexError):
        raise UserError(
            f"recipe key {path}: no such section; write section.key (list items by number)"
        ) from None


def _apply(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write section.key=value")
    try:
        set_key(document, path, yaml.safe_load(text))
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML") from None


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        where = ".".join(str(piece) for piece in item["loc"])
        key = ".".join(piece for piece in item["loc"] if isinstance(piece, str))
        if key in RENAMED_KEYS:
            section, _, _ = where.rpartition(".")
            _, _, name = RENAMED_KEYS[key].rpartition(".")
            yield f"{where} is called {section}.{name} now"
        elif item["type"] == "literal_error" and (key, item["input"]) in RENAMED_VALUES:
            yield f"{where}: {item['input']} is called {RENAMED_VALUES[key, item['input']]} now"
        elif item["type"] == "extra_forbidden":
            known = _fields_at(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.0)
            yield f"unknown key {where!r}" + (f": did you mean {near[0]!r}?" if near else "")
        elif item["type"] == "missing":
            yield f"{where} is missing"
        else:
            yield f"{where or 'recipe'}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r:.80})"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for name in location:
        if isinstance(name, int):
            continue
        annotation = model.model_fields[name].annotation
        sections = [kind for kind in (annotation, *get_args(annotation)) if _is_section(kind)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
