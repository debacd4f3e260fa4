"""Environment variables that a recipe needs where its steps run: addresses and keys of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from components.contracts.recipe import Recipe
from components.contracts.recipe.announce import Platform
from components.errors import UserError


@dataclass(frozen=True)
class Need:
    """A variable, and the key of the recipe because of which steps read it."""

    variable: str
    key: str
    meaning: str
    is_required: bool = True
    """False: the service may do without it."""


_PLATFORM_NEEDS: dict[Platform, tuple[Need, ...]] = {
    "model-registry": (
        Need(
            "MODEL_REGISTRY_URL",
            "announce.to: model-registry",
            "the registry's address",
        ),
        Need(
            "MODEL_REGISTRY_TOKEN",
            "announce.to: model-registry",
            "the registry's token",
            False,
        ),
    ),
    "mlflow": (
        Need("MLFLOW_TRACKING_URI", "announce.to: mlflow", "the server's address"),
        Need(
            "MLFLOW_TRACKING_TOKEN", "announce.to: mlflow", "the server's token", False
        ),
        Need(
            "MLFLOW_TRACKING_USERNAME",
            "announce.to: mlflow",
            "a user of the server",
            False,
        ),
        Need(
            "MLFLOW_TRACKING_PASSWORD",
            "announce.to: mlflow",
            "that user's password",
            False,
        ),
        Need(
            "MLFLOW_EXPERIMENT_NAME",
            "announce.to: mlflow",
            "the experiment of runs",
            False,
        ),
    ),
}


def needs_of(recipe: Recipe) -> tuple[Need, ...]:
    """Return the variables that a recipe's steps read."""
    return tuple(_needs_of(recipe))


def require(recipe: Recipe, variables: Iterable[str], cure: str) -> None:
    """Raise UserError if a variable that a recipe cannot do without is not given.

    Args:
        recipe: The recipe.
        variables: Variables that steps will have.
        cure: What helps; `{variable}` and `{meaning}` are filled in.
    """
    names = set(variables)
    for need in needs_of(recipe):
        if need.is_required and need.variable not in names:
            advice = cure.format(variable=need.variable, meaning=need.meaning)
            raise UserError(f"{need.key} needs the variable {need.variable}; {advice}")


def _needs_of(recipe: Recipe) -> Iterator[Need]:
    if recipe.notify is not None:
        yield Need(recipe.notify.url_env, "notify.url_env", "the webhook's URL")
    for platform in recipe.announce.to if recipe.announce is not None else ():
        yield from _PLATFORM_NEEDS[platform]
    if recipe.generate.engine == "openai":
        # A server of one's own takes any key, and the client refuses none.
        yield Need("OPENAI_API_KEY", "generate.engine: openai", "the endpoint's key")
        yield Need(
            "OPENAI_BASE_URL", "generate.engine: openai", "the endpoint's URL", False
        )
    if recipe.select.judge is not None:
        yield Need(
            "RATCHET_JUDGE_URL", "select.judge", "the judge's URL, https://host/v1"
        )
        yield Need("RATCHET_JUDGE_KEY", "select.judge", "the judge's key", False)
