"""Imports that a program will make, made before it may open no file."""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys

# Loaded by functions of the standard library at their first call.
_LAZY = (
    *(
        "_strptime",
        "bisect",
        "encodings.ascii",
        "encodings.idna",
        "encodings.utf_16",
        "heapq",
    ),
    *("encodings.latin_1", "difflib", "pprint", "traceback"),
)
# They open a browser or a window, or run the tests of Python.
_NOT_LOADED = {
    "antigravity",
    "this",
    "idlelib",
    "tkinter",
    "turtle",
    "turtledemo",
    "test",
}


def load_imports(code: str) -> None:
    """Import those modules of the standard library that a program names. None of it is run."""
    names = list(_LAZY)
    # A program that cannot be read fails when it is run.
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        names += _named_in(ast.parse(code))
    for name in names:
        first = name.partition(".")[0]
        if first in sys.stdlib_module_names and first not in _NOT_LOADED:
            # A name in a module is no module, and some modules are for other systems.
            with contextlib.suppress(ImportError, OSError):
                importlib.import_module(name)


def _named_in(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Name):
            # Tests use modules that they take for imported.
            names.append(node.id)
    return names
