"""The `compile` verb: a recipe and a profile become the package that a cluster runs.

The package is checked by `lint` before it is written.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.cli.builder import Builder
from components.cli.package.lint import findings
from components.cli.package.package_file import Package
from components.cli.package.profiles import Profile, check_fit
from components.contracts.recipe import Recipe
from components.errors import UserError
from components.storage.folder import write_file

Format = Literal["kfp", "kubernetes"]

# KFP's header repeats the recipe in the order of a protobuf map, which differs from process to
# process; with it, the same recipe had another digest, and so another version, each time. The same
# default stands sorted in the body.
_RECIPE_COMMENT = re.compile(r"^(#    recipe: dict) \[Default: .*\]$", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """A checked package and its version."""

    package: Package
    version: str
    """Digest of the package: the same source, recipe and profile are the same version."""
    unpinned: tuple[str, ...]
    """Images that are named by a tag, which may become another image."""


@dataclass(frozen=True)
class _KubernetesObjects:
    """Names in the metadata of the objects Pipeline and PipelineVersion."""

    version: str
    namespace: str


def compile_recipe(
    build: Builder, recipe: Recipe, rounds: int, profile: Profile
) -> Compiled:
    """Return the checked package of a recipe for a profile.

    Args:
        build: Makes the pipeline.
        recipe: The default of the pipeline's parameter `recipe`.
        rounds: Improvement rounds that are unrolled.
        profile: Images, resources and nodes of the steps.

    Raises:
        UserError: Recipe and profile do not fit, or the package breaks a rule of `lint`.
    """
    check_fit(recipe, profile)
    with tempfile.TemporaryDirectory(prefix="ratchet-compile-") as folder:
        file = Path(folder) / "pipeline.yaml"
        _compile(build, recipe, rounds, profile, file)
        package = Package(file.read_text(encoding="utf-8"))
    faults = findings(package)
    if faults:
        raise UserError(
            f"the compiled pipeline would not run as it should: {'; '.join(faults[:5])}"
        )
    return Compiled(package, package.digest[:12], unpinned_images(package))


def unpinned_images(package: Package) -> tuple[str, ...]:
    """Return the images that a package names by a tag: another image may be found there later."""
    images = {str(container["image"]) for _, container in package.containers()}
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
    """Compile into a file, and return the package.

    Args:
        build: Makes the pipeline.
        recipe: The default of the pipeline's parameter `recipe`.
        rounds: Improvement rounds that are unrolled.
        profile: Images, resources and nodes of the steps.
        output: The file; its folder is made.
        form: `kfp` for KFP's API and UI, `kubernetes` for the objects Pipeline and PipelineVersion
            in a repository that a cluster follows.
        namespace: Of these objects; empty: none is named.

    Raises:
        UserError: Recipe and profile do not fit, or the package breaks a rule of `lint`.
    """
    compiled = compile_recipe(build, recipe, rounds, profile)
    write_file(output, compiled.package.text.encode())
    if form == "kubernetes":
        # KFP makes these objects from the pipeline alone, not from a compiled package.
        # A PipelineVersion cannot be changed once it is there, so its name has the digest.
        version_name = f"{compiled.package.name}-{compiled.version}"
        objects = _KubernetesObjects(version_name, namespace)
        _compile(build, recipe, rounds, profile, output, objects)
    return compiled


def _compile(
    build: Builder,
    recipe: Recipe,
    rounds: int,
    profile: Profile,
    output: Path,
    objects: _KubernetesObjects | None = None,
) -> None:
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    options = None
    if objects is not None:
        options = KubernetesManifestOptions(
            pipeline_version_name=objects.version,
            namespace=objects.namespace or None,
            include_pipeline_manifest=True,
        )
    compiler.Compiler().compile(
        build(recipe, rounds, profile),
        str(output),
        kubernetes_manifest_format=objects is not None,
        kubernetes_manifest_options=options,
    )
    text = output.read_text(encoding="utf-8")
    output.write_text(_RECIPE_COMMENT.sub(r"\1", text), encoding="utf-8")
