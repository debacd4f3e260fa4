"""The package of a run: compiled from a recipe, whose inputs are then in the store, or a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from components.cli.builder import Builder
from components.cli.checker_code import send_checker_code
from components.cli.cluster.inputs import is_local, named_inputs
from components.cli.cluster.uploads import send_local_inputs
from components.cli.messages import print_note
from components.cli.options import ClusterOptions
from components.cli.package.compile import compile_recipe, unpinned_images
from components.cli.package.lint import findings
from components.cli.package.package_file import Package, read_package
from components.cli.package.profiles import check_fit, load_profile
from components.cli.package.workflow_size import MAX_NODES_TO_RETRY, workflow_size
from components.cli.shipped_recipes import find_recipe
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import load_recipe
from components.errors import UserError


def load_package(
    build: Builder, options: ClusterOptions, check: Callable[[], object] | None
) -> tuple[Package, str]:
    """Return the package of a recipe, or the one that the file is; and the name of its runs.

    What a recipe names on this machine is in the store then.

    Args:
        build: Makes the pipeline.
        options: Name the recipe, its profile and the store.
        check: Called before anything is sent; raises if no run could begin. None: nothing is sent.
    """
    path = find_recipe(options.recipe)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    # Both are YAML; only a compiled pipeline has this key.
    if "pipelineInfo:" not in text:
        profile = load_profile(options.profile)
        overrides = tuple(options.override or ())
        recipe = load_recipe(path, overrides)
        if check is not None:
            # The compilation says it too, but large inputs are sent for hours before it.
            check_fit(recipe, profile)
            recipe = with_inputs_sent(recipe, path, overrides, options.store, check)
        compiled = compile_recipe(build, recipe, options.rounds, profile)
        return compiled.package, recipe.run_id
    if options.override:
        raise UserError(
            f"{path} is compiled: --set is for recipes; use --param, or submit the recipe"
        )
    # The package may be of another version of Ratchet, or edited by hand.
    package = read_package(path)
    faults = findings(package)
    if faults:
        raise UserError(f"{path} would not run as it should: {'; '.join(faults[:5])}")
    return package, package.name


def with_inputs_sent(
    recipe: Recipe,
    path: Path,
    overrides: tuple[str, ...],
    store: str,
    check: Callable[[], object],
) -> Recipe:
    """Return the recipe as pods can read it: what this machine alone has is then in the store.

    Args:
        recipe: The recipe.
        path: Its file.
        overrides: Changes of it, as of `--set`.
        store: URI of the store; empty: nothing is sent.
        check: Called before anything is sent; raises if no run could begin.
    """
    document = recipe.model_dump(mode="json")
    if recipe.data.own_code or any(is_local(uri) for _, uri in named_inputs(document)):
        check()
    changes = send_local_inputs(document, store, os.environ, print_note)
    if changes:
        recipe = load_recipe(path, (*overrides, *changes))
    return send_checker_code(recipe, path, store, os.environ)


def warnings(package: Package) -> Iterator[str]:
    """Yield a line about each thing that a person should know before a package runs."""
    images = unpinned_images(package)
    if images:
        yield f"images without a digest, for trials only: {', '.join(images)}"
    nodes = workflow_size(package).nodes
    if nodes > MAX_NODES_TO_RETRY:
        yield (
            f"a Workflow of {nodes} nodes: after {MAX_NODES_TO_RETRY} of them Kubeflow's own Retry "
            "cannot write it; submit --again goes on instead"
        )
