"""Recipes as people write them: YAML, overrides, errors that name the key and the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from components.canonical import JsonObject
from components.contracts.recipe import Recipe, Section
from components.contracts.strict_yaml import load_yaml
from components.errors import UserError, one_line

RENAMED_KEYS = {
    "data.human": "data.sources",
    "data.fractions.heldout": "data.fractions.dev",
    "data.tasks.heldout": "data.tasks.dev",
    "select.diversity": "select.keep",
    "select.human_share": "select.labelled_share",
    "select.influence.validation_rows": "select.influence.dev_rows",
}
"""Key of an older version → key of this one; without the numbers of list items."""
RENAMED_VALUES = {("data.sources.split", "heldout"): "dev"}
"""(key, value of an older version) → value of this one."""

IN_WORDS = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text; put it in quotes where YAML takes it for something else",
    "model_type": "expected a section, keys with their values",
    "model_attributes_type": "expected a section, keys with their values",
    "dict_type": "expected keys with their values",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "too_short": "expected more entries",
}
"""Type of a problem that pydantic finds → words without those of Python."""
COMPILED = "# PIPELINE DEFINITION"
"""First line of what `compile` writes."""
NAME_PATTERN_IN_WORDS = (
    "lower-case letters, digits and hyphens, 63 at most, no hyphen first"
)
MOST_SHOWN_CHARACTERS = 80
TYPO_FROM = 0.85
"""Similarity from which on a key is taken for another one with a typo."""
SIMILAR_FROM = 0.6
"""Similarity below which a guess would only mislead."""

Location = tuple[int | str, ...]
"""Keys and list indices that lead to a value."""


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a YAML recipe and apply `section.key=value` overrides.

    Raises UserError with the file and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(COMPILED):
            raise UserError(
                f"recipe {path}: this is a compiled pipeline, which `submit` and Kubeflow take; name "
                "the recipe it was made of"
            )
        document = load_yaml(text)
    except FileNotFoundError:
        raise UserError(f"recipe {path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"recipe {path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"recipe {path}: cannot be read ({error.strerror or error})"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: not YAML ({one_line(error, None)})") from None
    if not isinstance(document, dict):
        raise UserError(
            f"recipe {path}: expected a mapping of sections at the top level"
        )
    for override in overrides:
        _apply(document, override)
    return parse_recipe(document, str(path))


def parse_recipe(document: JsonObject, origin: str = "recipe") -> Recipe:
    """Validate a recipe given as a mapping; `origin` begins each message.

    Raises UserError naming the key and, for a typo, the nearest key.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        problems = _one_for_each_key(error.errors())
        messages = [f"{origin}: {_message(problem)}" for problem in problems]
        raise UserError("; ".join(messages)) from None


def set_key(document: JsonObject, key: str, value: object) -> None:
    """Set `section.key` (list items by number, `data.sources.0.limit`) of an unchecked recipe.

    Raises UserError if there is no such section.
    """
    *parents, leaf = key.split(".")
    # A document that nobody checked yet: any of these may be a list, a mapping or neither.
    target: Any = document
    try:
        for name in parents:
            if isinstance(target, list):
                target = target[int(name)]
                continue
            # A section that is null is left out, as one that is not written.
            if target.get(name) is None:
                target[name] = {}
            target = target[name]
        if isinstance(target, list):
            target[int(leaf)] = value
        else:
            target[leaf] = value
    except (AttributeError, TypeError, ValueError, IndexError):
        raise UserError(
            f"recipe key {key}: no such section; write section.key (list items by number)"
        ) from None


def _apply(document: JsonObject, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"--set {override}: write section.key=value")
    # The value is YAML, as in the file: 4 is a number, [1, 8] a list, null nothing.
    try:
        set_key(document, key, load_yaml(text))
    except yaml.YAMLError as error:
        reason = one_line(getattr(error, "problem", None) or error)
        raise UserError(f"--set {override}: the value is not YAML ({reason})") from None


def _one_for_each_key(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the problems by the keys of a recipe, those of one key as one.

    Where several kinds of values may stand, pydantic has a problem for each kind, and the kind in
    its location. Of a list with a wrong entry it may say in addition that it is too short.
    """
    by_location: dict[Location, ErrorDetails] = {}
    for problem in problems:
        location = _written_keys(problem["loc"])
        earlier = by_location.get(location)
        reason = _reason(problem)
        if earlier is None:
            by_location[location] = problem | {"loc": location, "msg": reason}
        else:
            either = f"{earlier['msg']}, or: {reason}"
            by_location[location] = earlier | {"type": "union", "msg": either}
    return [
        problem
        for location, problem in by_location.items()
        if problem["type"] != "too_short"
        or not any(other[:-1] == location for other in by_location)
    ]


def _written_keys(location: Location) -> Location:
    """Return the keys and numbers of a location that stand in the recipe."""
    section: type[Section] | None = Recipe
    has_keys = True
    written: list[int | str] = []
    for part in location:
        if isinstance(part, int) or has_keys:
            written.append(part)
        fields = {} if section is None else section.model_fields
        for name, field in fields.items():
            if part == (field.alias or name):
                section = _section_of(field.annotation)
                # Keys of a mapping are the user's own.
                has_keys = section is not None or "dict[" in str(field.annotation)
    return tuple(written)


def _reason(problem: ErrorDetails) -> str:
    """Return what is wrong with a value."""
    if problem["type"] == "string_pattern_mismatch" and problem["loc"][-1] == "name":
        return f"a name has {NAME_PATTERN_IN_WORDS}"
    return IN_WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")


def _message(problem: ErrorDetails) -> str:
    """Return the words for one problem that pydantic found."""
    location = problem["loc"]
    path = ".".join(str(part) for part in location)
    key = ".".join(part for part in location if isinstance(part, str))
    if key in RENAMED_KEYS:
        section, _, _ = path.rpartition(".")
        _, _, name = RENAMED_KEYS[key].rpartition(".")
        return f"{path} is called {section}.{name} now"
    if key == "notify.url_env" and problem["type"] != "missing":
        # The value may be the webhook's URL, which is a secret.
        return f"{path}: give the name of the environment variable that holds the URL, never the URL"
    match problem["type"]:
        case "literal_error" if (key, str(problem["input"])) in RENAMED_VALUES:
            # As text, because a list in the place of a word has no hash.
            old_value = str(problem["input"])
            return f"{path}: {old_value} is called {RENAMED_VALUES[key, old_value]} now"
        case "extra_forbidden":
            return f"unknown key {path!r}{_suggestion(location)}"
        case "missing":
            return f"{path} is missing"
        case "finite_number":
            return (
                f"{path}: {problem['input']} is no number that a recipe can hold; to switch a limit "
                "off, give a large number such as 1e9"
            )
    reason = problem["msg"]
    value = repr(problem["input"])
    # A whole section, cut somewhere, would hide the words before it.
    if isinstance(problem["input"], dict) and len(value) > MOST_SHOWN_CHARACTERS:
        return f"{path or 'recipe'}: {reason}"
    return f"{path or 'recipe'}: {reason} (got {value:.{MOST_SHOWN_CHARACTERS}})"


def _suggestion(location: Location) -> str:
    """Return what an unknown key was to be, in words.

    First a key beside it with a typo, then a key of this name in another section, then a key that
    resembles it. If there is none of these, all keys of the section.
    """
    *parents, name = location
    unknown = str(name)
    beside = _keys_of(parents)
    if typos := difflib.get_close_matches(unknown, beside, n=1, cutoff=TYPO_FROM):
        return f": did you mean {typos[0]!r}?"
    if elsewhere := _paths_of(unknown, parents):
        return f": did you mean {' or '.join(elsewhere)}?"
    if similar := difflib.get_close_matches(unknown, beside, n=1, cutoff=SIMILAR_FROM):
        return f": did you mean {similar[0]!r}?"
    return f"; there are: {', '.join(beside)}" if beside else ""


def _paths_of(name: str, section: Sequence[int | str]) -> list[str]:
    """Return the dotted keys of a name, those below the section alone if there are any."""
    paths = [path for path in _all_keys(Recipe) if path.rpartition(".")[2] == name]
    above = "".join(f"{part}." for part in section)
    below = [path for path in paths if section and path.startswith(above)]
    return (below or paths)[:3]


def _all_keys(model: type[Section], path: str = "") -> Iterator[str]:
    """Yield the dotted keys of all sections; an item of a list is written as number 0."""
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        yield key
        section = _section_of(field.annotation)
        if section is not None:
            is_list = "tuple[" in str(field.annotation)
            yield from _all_keys(section, f"{key}.0." if is_list else f"{key}.")


def _keys_of(location: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at a location; none for a mapping without fixed keys."""
    model: type[Section] = Recipe
    for name in location:
        if isinstance(name, int):
            continue
        section = _section_of(model.model_fields[name].annotation)
        if section is None:
            return []
        model = section
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: object) -> type[Section] | None:
    """Return the section that a field holds, be it optional or many of them; None for a value."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None
