"""What the Markdown pages name exists: links, paths, make targets, verbs with their options, modules,
keys of the recipe."""

from __future__ import annotations

import ast
import functools
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main
from pydantic import BaseModel

from components.cli.main import app
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import RENAMED_KEYS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/recipes/*.md",
        "components/*/README.md",
        "manifests/*.md",
        ".github/*.md",
    )
    for path in ROOT.glob(pattern)
)
FOLDERS = (
    ".ci",
    ".github",
    "components",
    "docker",
    "docs",
    "manifests",
    "package",
    "recipes",
    "tests",
)
MADE_LATER = ("docker/wheels/",)
SAID_BY_KUBERNETES = {
    "ErrImagePull",
    "ImagePullBackOff",
    "OOMKilled",
    "Pending",
    "violates PodSecurity",
}
PLACEHOLDERS = re.compile(r"[<>…{}]|\bNAME\b|\bname\b")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def prose_of(page: Path) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def spans_of(page: Path) -> list[str]:
    """All that stands in backticks, on one line each."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose_of(page))]


def commands_of(page: Path) -> Iterator[str]:
    """Lines of a shell: spans, and lines of blocks without a language."""
    yield from spans_of(page)
    for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("", "sh", "bash"):
            for line in text.splitlines():
                command, _, _ = line.partition(" #")
                yield from (part.strip() for part in re.split(r"\||&&", command))


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


@every_page
def test_every_path_exists(page: Path) -> None:
    for span in spans_of(page):
        for word in span.split():
            path = word.rstrip(",.:;")
            is_ours = path.partition("/")[0] in FOLDERS and "/" in path
            if not is_ours or PLACEHOLDERS.search(path) or path.startswith(MADE_LATER):
                continue
            if page.name == "extending.md" and f"\n`{path}`:\n" in page.read_text(
                encoding="utf-8"
            ):
                continue  # a file that the reader makes
            name = path.rstrip("/")
            assert list(ROOT.glob(name)) or list(page.parent.glob(name)), path


@every_page
def test_every_make_target_is_one(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for command in commands_of(page):
        if match := re.match(r"make ((?:[\w./=-]+\s?)+)", command):
            words = match[1].split()
            assert {word for word in words if "=" not in word} <= targets, command


# It takes a fortieth of a second, and each page asks.
@functools.cache
def commands_by_verb() -> dict[str, Any]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return dict(group.commands)


@every_page
def test_every_verb_and_its_options_are_those_of_the_command_line(page: Path) -> None:
    verbs = commands_by_verb()
    for command in commands_of(page):
        match = re.match(r"(?:(?:\S+/)?python pipeline\.py|ratchet) (\S+)(.*)", command)
        verb, rest = (
            (match[1], match[2]) if match else (command.partition(" ")[0], command)
        )
        if match and not re.match(r"VERB|--|[^\w]", verb):
            assert verb in verbs, command
        if verb in verbs:
            known = {"--help"}
            for parameter in verbs[verb].params:
                known.update(parameter.opts)
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest)) <= known, command


@every_page
def test_every_module_exists(page: Path) -> None:
    for command in commands_of(page):
        for name in re.findall(
            r"python -m ((?:components|tests)[.\w]*\w)(?![.<])", command
        ):
            path = ROOT.joinpath(*name.split("."))
            assert (
                path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            ), command


@every_page
def test_every_key_of_a_recipe_is_one(page: Path) -> None:
    figures = (ROOT / "tests" / "benchmarks" / "figures.json").read_text(
        encoding="utf-8"
    )
    names_of_figures = set(json.loads(figures))
    for span in spans_of(page):
        section, _, rest = span.partition(".")
        if section not in Recipe.model_fields or not re.fullmatch(r"[\w.\[\]]+", rest):
            continue
        if page.name == "CHANGELOG.md" and span in RENAMED_KEYS:
            continue
        if span in names_of_figures or re.search(r"\.(py|jsonl?|md)$", span):
            continue
        assert is_key(Recipe, span.replace("[]", "").split(".")), span


def is_key(model: object, names: list[str]) -> bool:
    """Whether a recipe can hold this key."""
    if not names:
        return True
    for kind in models_in(model):
        # As a recipe writes it: `from` is a word of Python's, so its field has another name there.
        fields = {
            field.alias or name: field for name, field in kind.model_fields.items()
        }
        field = fields.get(names[0])
        if field is not None and is_key(field.annotation, names[1:]):
            return True
    return False


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models that a field may hold."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def test_the_page_of_the_command_line_lists_every_verb() -> None:
    verbs = commands_by_verb()
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    _, _, after = page.partition("| verb | what it does |\n")
    table, _, _ = after.partition("\n\n")
    listed = re.findall(r"^\| `([a-z-]+)", table, re.MULTILINE)
    visible = {name for name, command in verbs.items() if not command.hidden}
    assert set(listed) == visible


def test_the_symptoms_of_the_pages_are_in_messages_of_ours() -> None:
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    tables = text.split("| symptom | cause and cure |\n")[1:]
    assert len(tables) == 2
    symptoms = [
        row.split("|")[1]
        for table in tables
        for row in table.split("\n\n")[0].split("\n")
    ]
    quoted = [span for symptom in symptoms for span in _SPAN.findall(symptom)]
    assert len(quoted) > 10
    said = "\n".join(texts_of_code())
    for quotation in quoted:
        if (
            quotation in SAID_BY_KUBERNETES
            or quotation.split()[0] in commands_by_verb()
        ):
            continue
        # An ellipsis or a capital letter stands for what differs from time to time.
        for part in re.split(r"…|\b[A-Z]\b", quotation):
            assert part.strip(" ?") in said, quotation


def texts_of_code() -> Iterator[str]:
    """Yield all strings of the product's code; of an f-string the parts that do not change."""
    for folder in ("components", "docker"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_manifests_and_workflows_name_verbs_that_exist() -> None:
    verbs = commands_by_verb()
    named = set()
    for folder in ("manifests", ".github", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in ("", ".md", ".sh", ".yaml", ".yml"):
                text = path.read_text(encoding="utf-8")
                named |= set(re.findall(r"(?:pipeline\.py|`ratchet) ([a-z]+)", text))
    assert named
    assert named <= set(verbs)
