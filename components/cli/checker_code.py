"""The code of a recipe's own verifiers: found beside the recipe, bundled, and sent to the store.

A bundle is a zip file of sources, addressed by its digest. Containers and clusters need no image of
the user's own: `prepare` takes the bundle from the store, and every later step from its receipt.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from components.contracts.recipe import Recipe
from components.contracts.verifier_names import OwnName, own_name
from components.errors import UserError
from components.sandbox.code_bundles import MAX_BYTES
from components.storage import keys
from components.storage.store import open_store

_LEFT_OUT = {"__pycache__", ".git", ".venv", ".mypy_cache", ".pytest_cache"}
MAX_NAME = 255
"""Characters of a file's name that is looked for among a checker's texts."""
# The same sources are the same bytes: no time, and no compression, which libraries do differently.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

Files = dict[str, Path]
"""Path in the bundle, which is the import path → file."""


def send_checker_code(
    recipe: Recipe, recipe_path: Path, store: str, environment: Mapping[str, str]
) -> Recipe:
    """Return the recipe with the digest of its own verifiers' code, which is then in the store.

    A recipe without such verifiers is returned as it is.

    Args:
        recipe: As it was read.
        recipe_path: Its file; verifiers are looked for beside it, then in the working folder, then
            among what is installed.
        store: URI of the store.
        environment: Credentials of the store.

    Raises:
        UserError: A file, module or function is not there, or the store cannot be written to.
        Transient: The store does not answer.
    """
    if not recipe.data.own_code:
        return recipe
    if not store:
        raise UserError(
            f"verifier {recipe.data.own_code[0]} is code of yours, which goes to the store: "
            "pass --store"
        )
    bundle = bundle_of(recipe, recipe_path)
    digest = hashlib.sha256(bundle).hexdigest()
    open_store(store, environment).put_bytes(keys.object_key(digest), bundle)
    data = recipe.data.model_copy(update={"checker_code": digest})
    return recipe.model_copy(update={"data": data})


def bundle_of(recipe: Recipe, recipe_path: Path) -> bytes:
    """Return the zip file with the code of all own verifiers of a recipe.

    Raises:
        UserError: A file, module or function is not there, or the code is too large.
    """
    folder = recipe_path.resolve().parent
    files: Files = {}
    for verifier in recipe.data.own_code:
        name = own_name(verifier)
        assert name is not None, verifier
        for path_in_bundle, file in _files_of(name, folder).items():
            if files.setdefault(path_in_bundle, file) != file:
                raise UserError(
                    f"verifier {verifier}: {file} and {files[path_in_bundle]} have the same import "
                    f"path {path_in_bundle}; give one of them another name"
                )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for path_in_bundle, file in sorted(files.items()):
            bundle.writestr(
                zipfile.ZipInfo(path_in_bundle, _ZIP_TIME), file.read_bytes()
            )
    if buffer.tell() > MAX_BYTES:
        names = ", ".join(recipe.data.own_code)
        raise UserError(
            f"verifiers {names}: their code has {buffer.tell():,} bytes, at most {MAX_BYTES:,}; "
            "put it into a package of its own, without data"
        )
    return buffer.getvalue()


def _files_of(name: OwnName, folder: Path) -> Files:
    """Return the files of one verifier: its module or package, and what these import beside it."""
    first = name.module.partition(".")[0]
    # `test` is a package of Python's too, which nothing imports.
    if first in sys.stdlib_module_names - {"test"} or first == "components":
        raise UserError(
            f"verifier {name}: {first} is the name of a module that is there already; give the file "
            f"another, such as my_{first}.py"
        )
    roots = [folder, Path.cwd(), *map(Path, sys.path)]
    if name.file:
        file = folder / name.file
        if not file.is_file():
            raise UserError(f"verifier {name}: there is no file {file}")
        roots = [file.parent]
    file = _module_file(name, roots)
    _check_function(name, file)
    files = _top_level(first, roots)
    waiting = list(files.values())
    while waiting:
        for imported in _imported_names(waiting.pop(), name):
            # Only what lies beside it: packages that are installed are those of the images.
            if imported in sys.stdlib_module_names or imported == "components":
                continue
            beside = _top_level(imported, roots[:1])
            waiting += [file for path, file in beside.items() if path not in files]
            files.update(beside)
    for source in list(files.values()):
        files.update(_named_files(source, roots[0], name))
    return files


def _named_files(source: Path, root: Path, name: OwnName) -> Files:
    """Return the files below the checker's folder whose names stand in a source of it."""
    if source.suffix != ".py" or not source.is_relative_to(root):
        return {}
    files: Files = {}
    for node in ast.walk(_parsed(source, name)):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        # Most texts are no names; an absolute one, or `..`, leads out of the folder.
        path = Path(node.value)
        if (
            len(node.value) > MAX_NAME
            or path.is_absolute()
            or not path.suffix
            or ".." in path.parts
        ):
            continue
        if "\0" not in node.value and (root / path).is_file():
            files[path.as_posix()] = root / path
    return files


def _module_file(name: OwnName, roots: list[Path]) -> Path:
    relative = Path(*name.module.split("."))
    for root in roots:
        for candidate in (
            root / relative.with_suffix(".py"),
            root / relative / "__init__.py",
        ):
            if candidate.is_file():
                return candidate
    raise UserError(
        f"verifier {name}: there is no module {name.module!r} beside the recipe, in the working "
        "folder or among what is installed"
    )


def _top_level(module: str, roots: list[Path]) -> Files:
    """Return the files of a top-level module or package, none if no root has it."""
    for root in roots:
        spec = importlib.machinery.PathFinder.find_spec(module, [str(root)])
        if spec is None:
            continue
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        if not folders and spec.origin is not None:
            return (
                {f"{module}.py": Path(spec.origin)}
                if spec.origin.endswith(".py")
                else {}
            )
        return {
            file.relative_to(folder.parent).as_posix(): file
            for folder in folders
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not _LEFT_OUT & set(file.relative_to(folder).parts)
        }
    return {}


def _check_function(name: OwnName, file: Path) -> None:
    """Raise UserError if a module has no such function, as far as its source shows."""
    tree = _parsed(file, name)
    if any(node.name == "*" for node in ast.walk(tree) if isinstance(node, ast.alias)):
        return
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    if name.function not in defined:
        raise UserError(f"verifier {name}: {file} has no function {name.function!r}")
    for node in tree.body:
        methods = node.body if isinstance(node, ast.ClassDef) else []
        if getattr(node, "name", "") != name.function:
            continue
        for function in (node, *methods):
            if isinstance(function, ast.AsyncFunctionDef):
                raise UserError(
                    f"verifier {name}: {file}, line {function.lineno}: {function.name} is async, and "
                    "nothing awaits it: make it a plain function (def)"
                )


def _imported_names(file: Path, name: OwnName) -> Iterator[str]:
    """Yield the top-level names that a source imports."""
    if file.suffix != ".py":
        return
    for node in ast.walk(_parsed(file, name)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _parsed(file: Path, name: OwnName) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0)
        raise UserError(f"verifier {name}: {file}, line {line}: {error}") from None
    except OSError as error:
        raise UserError(
            f"verifier {name}: {file} cannot be read ({error.strerror})"
        ) from None
