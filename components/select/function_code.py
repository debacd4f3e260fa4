"""The code of `select.verifier_function`: part of the step's key, so that an edit is new work."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from components.runtime.code_digest import source_digest

_INSTALLED = {"site-packages", "dist-packages"}


def function_digest(name: str) -> str:
    """Return a digest of the code of a function with a dotted name; empty if it has no source.

    It covers the function's module and what that imports of the user's: modules of the same package,
    and those beside it, unless it is installed among others. A module that is not there has none:
    the filter says so when it is made. Nothing is imported.
    """
    module, _, _ = name.rpartition(".")
    files = _reached_from(module)
    if not files:
        return ""
    digest = hashlib.sha256()
    for inside, path in sorted(files.items()):
        digest.update(f"{inside} {_digest_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def _reached_from(module: str) -> dict[str, Path]:
    """Return path within its root → file, of a module and of all of the user's that it reaches."""
    package, _, _ = module.partition(".")
    roots = _roots_of(package)
    # What is installed beside it has a version of its own, and may be all of PyTorch.
    is_installed = any(_is_installation(root) for root in roots)
    reached: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if is_installed and name.partition(".")[0] != package:
            continue
        for root in roots:
            for path in _files_of(name, root):
                inside = path.relative_to(root)
                if inside.as_posix() not in reached:
                    reached[inside.as_posix()] = path
                    waiting.extend(_imports(path, ".".join(inside.parent.parts)))
    return reached


def _roots_of(package: str) -> list[Path]:
    """Return the folders that hold a top-level module or package; several for a namespace."""
    try:
        # For a name without a dot this imports nothing.
        spec = importlib.util.find_spec(package)
    except ValueError:
        # A module that was made by hand, such as `__main__`, has no spec.
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(folder).parent for folder in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.has_location and spec.origin else []


def _is_installation(root: Path) -> bool:
    return root.name in _INSTALLED or root == Path(sysconfig.get_path("stdlib"))


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """Yield the files of a module and of the packages around it, which run before it."""
    parts = name.split(".")
    if not all(parts):
        # A relative import that leads out of every package: importing it says so.
        return
    path = root
    for part in parts:
        path = path / part
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                yield candidate


def _digest_of(path: Path) -> str:
    try:
        return source_digest(path)
    except (SyntaxError, ValueError):
        # The import says so, with the line.
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _imports(path: Path, package: str) -> Iterator[str]:
    """Yield the full names of what a file imports, modules or things in them.

    Args:
        path: The file.
        package: Package that its relative imports begin from; empty without one.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]) if base else ".".join(above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
