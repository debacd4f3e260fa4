"""Mistakes that show without a model: found by `run` before a task, and before a run is named.

A first task takes seconds to start, and the failed run would stay in the store.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from components.cli.checker_code import bundle_of
from components.cli.needed_variables import require
from components.contracts.recipe import DataSource, Recipe
from components.contracts.recipe.depth import depth_refusal
from components.contracts.rows import Dropped
from components.contracts.verifier_names import own_name
from components.errors import UserError
from components.modeling.weight_files import weight_files
from components.prepare.checker_trial import NUM_TRIALS, try_checker
from components.prepare.examples import Example
from components.prepare.readers import read_source
from components.runtime.ledger import RELEASE_SCHEME
from components.sandbox.code_bundles import register
from components.storage.sources import local_folder, local_path, split_source
from components.verifiers import require_gym

DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names of the number of decoder layers in config.json; which one depends on the architecture."""
LOCAL = ("file", "package")
"""Schemes of what is on this machine; only the spelling of other URIs is checked."""


def check_recipe(
    recipe: Recipe, recipe_path: Path, environment: Mapping[str, str]
) -> None:
    """Look at all that a recipe names on this machine.

    Args:
        recipe: As it was read.
        recipe_path: Its file, beside which code of the user's is looked for.
        environment: Home folder, and addresses and keys of other services.

    Raises:
        UserError: A path or URI is wrong, a variable that the recipe needs is not set, a file holds
            no usable row, a folder holds no model, or a function of the user's cannot be imported
            or raises on the first rows.
    """
    given = (name for name, value in environment.items() if value)
    require(recipe, given, "set it to {meaning}, or leave the section out")
    _check_model(recipe.model.source, environment)
    _check_depth(recipe, environment)
    if recipe.generate.teacher is not None:
        _check_model(recipe.generate.teacher.source, environment)
    if recipe.select.reward is not None:
        _check_folder("select.reward.source", recipe.select.reward.source, environment)
    if recipe.evaluate.harness is not None:
        _check_folder(
            "evaluate.harness.folder", recipe.evaluate.harness.folder, environment
        )
    with tempfile.TemporaryDirectory(prefix="ratchet-check-") as folder:
        code = ""
        if recipe.data.own_code:
            bundle = Path(folder) / "bundle.zip"
            bundle.write_bytes(bundle_of(recipe, recipe_path))
            code = hashlib.sha256(bundle.read_bytes()).hexdigest()
            register(code, bundle)
        _check_tasks(recipe)
        for source in recipe.data.sources:
            _check_source(source, code, environment)


def _check_tasks(recipe: Recipe) -> None:
    if any(task.task.startswith("reasoning_gym/") for task in recipe.data.tasks):
        require_gym()


def _check_source(
    source: DataSource, code: str, environment: Mapping[str, str]
) -> None:
    scheme, _ = split_source(source.uri, environment)
    if scheme not in LOCAL:
        return
    path = local_path(source.uri, environment, Path(), or_folder=True)
    # One row is enough to see that the file can be read; a file without any is read to its end.
    examples = list(islice(_examples(path, source, code), NUM_TRIALS))
    if own_name(source.verifier) is not None:
        try_checker(source, iter([("auto", example) for example in examples]))


def _examples(path: Path, source: DataSource, code: str) -> Iterator[Example]:
    for item in read_source(path, source):
        if isinstance(item, Dropped):
            continue
        yield replace(item, check=item.check.model_copy(update={"code": code}))


def _check_model(source: str, environment: Mapping[str, str]) -> None:
    # A release is looked up in the store, by `prepare`.
    if source == "scratch" or source.startswith(RELEASE_SCHEME):
        return
    scheme, _ = split_source(source, environment)
    if scheme not in LOCAL:
        return
    if source.endswith(".gguf"):
        local_path(source, environment, Path())
        return
    folder = local_folder(source, environment, Path())
    _check_config(folder, source)
    weight_files(folder, source)


def _check_config(folder: Path, source: str) -> None:
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {source}: config.json is missing or not JSON ({error}); name the folder of a "
            "model"
        ) from None
    if isinstance(document, dict) and "auto_map" in document:
        raise UserError(
            f"model {source}: config.json asks for remote code (auto_map); use a model of stock "
            "classes"
        )


def _check_depth(recipe: Recipe, environment: Mapping[str, str]) -> None:
    """Raise UserError if a model of this machine cannot have the layers that the recipe asks for."""
    source = recipe.model.source
    if (
        recipe.train.layers is None
        or source == "scratch"
        or source.startswith(RELEASE_SCHEME)
    ):
        return
    if source.endswith(".gguf") or split_source(source, environment)[0] not in LOCAL:
        return
    config = local_folder(source, environment, Path()) / "config.json"
    document = json.loads(config.read_text(encoding="utf-8"))
    depths = (
        [document.get(key) for key in DEPTH_KEYS] if isinstance(document, dict) else []
    )
    # Of any other form, `prepare` finds out.
    depth = next((depth for depth in depths if isinstance(depth, int)), None)
    refusal = depth_refusal(recipe.train.layers, depth) if depth is not None else ""
    if refusal:
        raise UserError(refusal)


def _check_folder(key: str, uri: str, environment: Mapping[str, str]) -> None:
    try:
        if split_source(uri, environment)[0] in LOCAL:
            local_folder(uri, environment, Path())
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
