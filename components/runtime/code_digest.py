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
# prepare commits three kinds of receipts, decide two.
MODULES = {
    "start": "prepare/step.py",
    "mix": "prepare/step.py",
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
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            _remove_docstrings(node)
    digest = hashlib.sha256()
    for word in _words(tree):
        digest.update(word.encode() + b"\0")
    return digest.digest()


def _words(value: object) -> Iterator[str]:
    """Yield a syntax tree in words that are the same for every Python that we support."""
    # ast.dump is not: newer Pythons add fields, which are empty for code that older ones parse.
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
            # The name may be a module of the package, or something in the module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _MODULE_NAME.fullmatch(str(node.value)):
            yield str(node.value)


def _files_of(name: str) -> Iterator[Path]:
    """Yield the file of a module and those of the packages around it; none if it is not ours."""
    first, *parts = name.split(".")
    if first != _PACKAGE:
        # Other packages are pinned by the lock files of the images.
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
