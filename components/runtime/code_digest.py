"""The part of a step key that says which code made a result."""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# prepare commits four kinds of receipts, decide two.
MODULES = {
    "start": "prepare/step.py",
    "mix": "prepare/step.py",
    "teacher": "prepare/teacher.py",
    "champion": "decide/first_champion.py",
}
"""Step of a receipt → module of its code, where it is not the `step.py` of that name's folder."""
_PACKAGE = "components"
_MODULE_NAME = re.compile(rf"{_PACKAGE}(\.\w+)+")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def code_digest(step: str) -> str:
    """Return a digest of the code that a step can execute (16 hexadecimal digits).

    It covers the step's module and every module of ours that it imports, at the top or within a
    function, directly or not, and modules that it starts as processes, by their name in a string.
    Comments, docstrings and line breaks do not count.
    """
    # So that whoever edits a comment does not make days of training new work.
    module = MODULES.get(step, f"{step}/step.py")
    digest = hashlib.sha256()
    # With the paths: two modules with their contents exchanged are another program.
    for path in sorted(_reached_from(ROOT / module)):
        name = path.relative_to(ROOT).as_posix()
        digest.update(name.encode() + b"\0" + _source(path).digest)
    return digest.hexdigest()[:16]


def source_digest(path: Path) -> str:
    """Return a digest of what a Python file does (16 hexadecimal digits); imports are not followed."""
    return _digest_without_docstrings(ast.parse(path.read_bytes())).hex()[:16]


def _reached_from(module: Path) -> set[Path]:
    reached: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(_source(path).loaded)
    return reached


class _Source(NamedTuple):
    digest: bytes
    """SHA-256 over the statements of the file."""
    loaded: frozenset[Path]
    """Files of ours that it imports, or starts as processes."""


@functools.cache
def _source(path: Path) -> _Source:
    tree = ast.parse(path.read_bytes())
    loaded: set[Path] = set()
    for name in _loaded_names(tree):
        loaded.update(_files_of(name))
    return _Source(_digest_without_docstrings(tree), frozenset(loaded))


def _digest_without_docstrings(tree: ast.Module) -> bytes:
    words: list[str] = []
    _add_words(tree, words)
    return hashlib.sha256("".join(f"{word}\0" for word in words).encode()).digest()


def _add_words(value: object, words: list[str]) -> None:
    """Add a syntax tree, in words that are the same for every Python that we support."""
    # ast.dump is not: newer Pythons add fields, which are empty for code that older ones parse.
    # A list that grows, because nested generators took four times as long.
    if isinstance(value, ast.AST):
        words.append(type(value).__name__)
        for name in value._fields:
            field = getattr(value, name, None)
            if name == "body" and isinstance(value, _DOCUMENTED):
                field = _without_texts(value.body)
            if field is not None and field != []:
                words.append(name)
                _add_words(field, words)
        words.append(")")
    elif isinstance(value, list):
        for item in value:
            _add_words(item, words)
        words.append("]")
    else:
        words.append(repr(value))


def _loaded_names(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of modules of ours, and of things in them, that a source names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # The name may be a module of the package, or something in the module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _MODULE_NAME.fullmatch(str(node.value)):
            yield str(node.value)


@functools.cache
def _files_of(name: str) -> tuple[Path, ...]:
    """Return the file of a module and those of the packages around it; none if it is not ours."""
    package, _, _ = name.rpartition(".")
    if name.partition(".")[0] != _PACKAGE or not package:
        # Other packages are pinned by the lock files of the images.
        return ()
    path = ROOT.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py", path / "__main__.py")
    return *_files_of(package), *(file for file in candidates if file.is_file())


def _without_texts(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return a body without strings that stand alone: docstrings, those of attributes included."""
    return [statement for statement in body if not _is_text(statement)]


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
