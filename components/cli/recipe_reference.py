"""docs/keys.md: every key of a recipe with its values, its default and its meaning.

`python -m components.cli.recipe_reference` writes it, from the fields of the recipe and their
docstrings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from components.canonical import JsonObject
from components.contracts.recipe import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "keys.md"

_HEAD = """\
# Keys of a recipe

<!-- Made from the recipe's docstrings by `make golden`; change those. -->

A recipe is one YAML file. An unknown key is an error that names the nearest one. `key[]` is a key of every entry of a
list; **required** is what has no default. `python pipeline.py schema` prints the same as a JSON schema, for editors
that complete and check as you type. [recipes.md](recipes.md) says which keys belong together.
"""


def page() -> str:
    """Return the text of docs/keys.md."""
    schema = Recipe.model_json_schema()
    sections = list(_sections(schema["$defs"], "", schema))
    return "\n".join([_HEAD, *sections])


def _sections(definitions: JsonObject, path: str, section: JsonObject) -> Iterator[str]:
    """Yield a table of a section's own keys, then the sections below it."""
    rows = []
    below: list[tuple[str, JsonObject]] = []
    required = section.get("required", [])
    for name, field in section["properties"].items():
        key = f"{path}.{name}" if path else name
        inner, suffix = _inner_section(definitions, field)
        if inner is not None:
            below.append((key + suffix, inner))
        default = "**required**" if name in required else _default(field, inner)
        meaning = field.get("description") or (inner or {}).get("description", "")
        values = _values(field, definitions)
        rows.append(f"| `{name}` | {values} | {default} | {_cell(meaning)} |")
    title = f"## {path or 'The whole recipe'}"
    yield f"{title}\n\n{_cell(section.get('description', ''))}\n"
    yield (
        "| key | values | default | meaning |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
    for key, inner in below:
        yield from _sections(definitions, key, inner)


def _inner_section(
    definitions: JsonObject, field: JsonObject
) -> tuple[JsonObject | None, str]:
    """Return (the section that a field holds, `[]` for a list of them), or None without one."""
    for choice in (field, *field.get("anyOf", ())):
        suffix = ""
        if choice.get("type") == "array":
            choice, suffix = choice.get("items", {}), "[]"
        if "$ref" in choice:
            definition = definitions[choice["$ref"].rpartition("/")[2]]
            if "properties" in definition:
                return definition, suffix
    return None, ""


def _default(field: JsonObject, inner: JsonObject | None) -> str:
    default = field.get("default")
    if inner is not None and isinstance(default, dict):
        return "see below"
    return (
        "–" if default in (None, "") else f"`{json.dumps(default, ensure_ascii=False)}`"
    )


def _values(field: JsonObject, definitions: JsonObject) -> str:
    """Return which values a key may have, in a few words."""
    if "anyOf" in field:
        choices = [_values(choice, definitions) for choice in field["anyOf"]]
        return " or ".join(dict.fromkeys(choices))
    if "$ref" in field:
        definition = definitions[field["$ref"].rpartition("/")[2]]
        return (
            "a section"
            if "properties" in definition
            else _values(definition, definitions)
        )
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = str(field.get("type", "any"))
    if kind == "array":
        items = field.get("items", {})
        return f"list of {_values(items, definitions)}" if items else "list"
    words = {
        "integer": "whole number",
        "object": "mapping",
        "null": "null",
        "boolean": "true, false",
    }
    return f"{words.get(kind, kind)}{_bounds(field)}"


def _bounds(field: JsonObject) -> str:
    bounds = []
    for name, sign in (
        ("exclusiveMinimum", ">"),
        ("minimum", "≥"),
        ("exclusiveMaximum", "<"),
        ("maximum", "≤"),
    ):
        if name in field:
            bounds.append(f"{sign} {field[name]:,}")
    return f" {', '.join(bounds)}" if bounds else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
