"""The recipe's section `announce`: platforms that are told of each release."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from components.contracts.recipe.section import Section

Platform = Literal["model-registry", "mlflow"]
"""model-registry: Kubeflow Model Registry; mlflow: the model registry of MLflow."""


def _without_repetition(platforms: tuple[Platform, ...]) -> tuple[Platform, ...]:
    return tuple(dict.fromkeys(platforms))


class AnnounceSection(Section):
    """Platforms that get each release, after its line of the ledger. One that fails is named in the
    log, and undoes no release; the next run, or `ratchet announce NAME`, enters what is missing."""

    to: Annotated[
        tuple[Platform, ...], Field(min_length=1), AfterValidator(_without_repetition)
    ]
    """`model-registry`: Kubeflow's, at MODEL_REGISTRY_URL, gets a registered model, a version and
    its artifact, with scores, base, license and run. `mlflow`: the server of MLFLOW_TRACKING_URI gets
    a run with the scores of each round, a model version and the alias `champion`, which follows
    the ledger."""
