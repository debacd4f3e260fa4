"""The `compile` verb: a recipe and a profile become the package that a cluster runs, checked by
`lint` before it is written."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.cli.builder import Builder
from components.cli.package.lint import Package, findings
from components.cli.package.profiles import Profile, check_fit
from components.contracts.recipe import Recipe
from components.errors import UserError

Format = Literal["kfp", "kubernetes"]

# KFP's header repeats the recipe in the order of a protobuf map, which is another one in every
# process; the same default stands sorted in the body.
_RECIPE_COMMENT = re.compile(r"^(#    recipe: dict) \[Default: .*\]$", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """What a compilation made."""

    package: Package
    version: str
    """Digest of the package: the same source, recipe and profile are the same version."""
    unpinned: tuple[str, ...]
    """Images that are named by a tag, which may become another image."""


def compile_recipe(build: Builder, recipe: Recipe, rounds: int, profile: Profile) -> Compiled:
    """The package of what `build` makes of a recipe for a profile. Raises UserError if they do not fit or the package
    breaks a rule."""
    check_fit(recipe, profile)
    with tempfile.TemporaryDirectory(prefix="ratchet-compile-") as folder:
        file = Path(folder) / "pipeline.yaml"
        _compile(build, recipe, rounds, profile, file, "kfp", "", "")
        package = Package(file.read_text(encoding="utf-8"))
    broken = findings(package)
    if broken:
        raise UserError(
            f"the compiled pipeline would not run as it should: {'; '.join(broken[:5])}"
        )
    return Compiled(package, package.digest[:12], unpinned_images(package))


def unpinned_images(package: Package) -> tuple[str, ...]:
    """Images that a package names by a tag: what a node finds there may change."""
    images = {
        str(one["container"]["image"]) for one in package.executors.values() if "container" in one
    }
    return tuple(sorted(image for image in images if "@sha256:" not in image))


def write_package(
    build: Builder,
    recipe: Recipe,
    rounds: int,
    profile: Profile,
    output: Path,
    form: Format,
    namespace: str = "",
) -> Compiled:
    """Compile into a file: for KFP's API and UI (`kfp`), or as the objects Pipeline and
    PipelineVersion for a repository that a cluster follows (`kubernetes`). The version's name has
    its digest, for versions never change."""
    made = compile_recipe(build, recipe, rounds, profile)
    output.parent.mkdir(parents=True, exist_ok=True)
    if form == "kfp":
        output.write_text(made.package.text, encoding="utf-8")
    else:
        _compile(
            build,
            recipe,
            rounds,
            profile,
            output,
            form,
            f"{made.package.name}-{made.version}",
            namespace,
        )
    return made


def _compile(
    build: Builder,
    recipe: Recipe,
    rounds: int,
    profile: Profile,
    output: Path,
    form: Format,
    version: str,
    namespace: str,
) -> None:
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    options = KubernetesManifestOptions(
        pipeline_version_name=version, namespace=namespace or None, include_pipeline_manifest=True
    )
    compiler.Compiler().compile(
        build(recipe, rounds, profile),
        str(output),
        kubernetes_manifest_format=form == "kubernetes",
        kubernetes_manifest_options=options if form == "kubernetes" else None,
    )
    text = output.read_text(encoding="utf-8")
    output.write_text(_RECIPE_COMMENT.sub(r"\1", text), encoding="utf-8")
