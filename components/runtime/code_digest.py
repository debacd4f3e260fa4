"""The part of a step key that says which code made a result."""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"start": "prepare", "mix": "prepare"}
"""Step of a receipt → folder of its code, where they have different names."""
_PACKAGE = "components"
_MODULE_NAME = re.compile(rf"{_PACKAGE}(\.\w+)+")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def code_digest(step: str) -> str:
    """Return a digest of the code that a step can execute (16 hexadecimal digits).

    It covers the step's module and every module of ours that it imports, at the top or within a
    function, directly or not, and modules that it starts as processes, by their name in a string.
    Comments, docstrings and line breaks do not count: whoever edits one does not make days of
    training new work.
    """
    folder = FOLDERS.get(step, step)
    state = hashlib.sha256()
    for path in sorted(_reached_from(ROOT / folder / "step.py")):
        state.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + _source(path)[0])
    return state.hexdigest()[:16]


def _reached_from(module: Path) -> set[Path]:
    reached: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(_source(path)[1])
    return reached


@functools.cache
def _source(path: Path) -> tuple[bytes, frozenset[Path]]:
    """Return a digest of what a file does, and the files of ours that it loads."""
    tree = ast.parse(path.read_bytes())
    loaded = frozenset(file for name in _loaded_names(tree) for file in _files_of(name))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            _remove_docstrings(node)
    state = hashlib.sha256()
    for word in _words(tree):
        state.update(word.encode() + b"\0")
    return state.digest(), loaded


def _words(value: object) -> Iterator[str]:
    """Yield a syntax tree in words that are the same for every Python that we support.

    `ast.dump` is not: newer Pythons add fields, which are empty for code that older ones parse.
    """
    if isinstance(value, ast.AST):
        yield type(value).__name__
        for name, field in ast.iter_fields(value):
            if field is not None and field != []:
                yield name
                yield from _words(field)
        yield ")"
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
        yield "]"
    else:
        yield repr(value)


def _loaded_names(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of modules of ours, and of things in them, that a source names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _MODULE_NAME.fullmatch(str(node.value)):
            yield str(node.value)


def _files_of(name: str) -> Iterator[Path]:
    """Yield the file of a module and those of the packages around it; none if it is not ours."""
    first, *parts = name.split(".")
    if first != _PACKAGE:
        return
    for length in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:length])
        candidates = (path.with_suffix(".py"), path / "__init__.py", path / "__main__.py")
        yield from (file for file in candidates if file.is_file())


def _remove_docstrings(node: ast.AST) -> None:
    """Remove the strings that stand alone in a body: docstrings, those of attributes included."""
    body: list[ast.stmt] = getattr(node, "body", [])
    body[:] = [statement for statement in body if not _is_text(statement)]


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
