"""The code of `select.verifier_function`: part of the step's key, so that an edit is new work."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from components.runtime.code_digest import source_digest

_INSTALLED = {"site-packages", "dist-packages"}


def function_digest(name: str) -> str:
    """Return a digest of the code of a function with a dotted name; empty if it has no source.

    It covers the function's module and what that imports of the user's: modules of the same package,
    and those beside it, unless it is installed among others. A module that is not there has none:
    the filter says so when it is made.
    """
    module, _, _ = name.rpartition(".")
    origins = _origins(module)
    if not origins:
        return ""
    digest = hashlib.sha256()
    for module_name, path in sorted(origins.items()):
        digest.update(f"{module_name} {source_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


def _origins(module: str) -> dict[str, Path]:
    """Return name → file of a module and of all of the user's modules that it reaches."""
    first = _spec(module)
    if first is None:
        return {}
    package, _, _ = module.partition(".")
    root = Path(str(first.origin)).resolve().parents[module.count(".") + _is_package(first)]
    origins: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = None if name in origins else _spec(name)
        if spec is None:
            continue
        path = Path(str(spec.origin)).resolve()
        # What is installed beside it has a version of its own, and may be all of PyTorch.
        is_own = name.partition(".")[0] == package or root.name not in _INSTALLED
        if is_own and path.is_relative_to(root):
            origins[name] = path
            waiting.extend(_imports(path, name if _is_package(spec) else name.rpartition(".")[0]))
    return origins


def _imports(path: Path, package: str) -> Iterator[str]:
    """Yield the full names of what a file imports, modules or things in them.

    Args:
        path: The file.
        package: Package that its relative imports begin from; empty without one.
    """
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]) if base else ".".join(above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _spec(module: str) -> ModuleSpec | None:
    """Return the spec of a module with Python source; None if there is no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    has_source = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return spec if has_source else None


def _is_package(spec: ModuleSpec) -> bool:
    return spec.submodule_search_locations is not None
