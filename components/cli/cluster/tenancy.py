"""One user or many: in which namespace an installation of Kubeflow Pipelines runs its pods."""

from __future__ import annotations

import re

from components.cli.json_documents import Json
from components.errors import UserError

PIPELINES_NAMESPACE = "kubeflow"
"""Where Kubeflow Pipelines is installed; one for a single user runs all pods there."""
OLDEST_PIPELINES = (2, 17)
"""Before it, pods of runs are refused under Pod Security restricted, and `dsl.OneOf` fails."""

UPGRADE = "upgrade it: before 2.17 pods are refused under Pod Security restricted"


def check_tenancy(health: Json, namespace: str) -> None:
    """Refuse a namespace that the server would ignore, and a missing one that it needs.

    Args:
        health: What the server says of itself (`Pipelines.health`).
        namespace: Namespace that the user named; empty: none.

    Raises:
        UserError: It would not be used as it was meant.
    """
    if "multi_user" not in health:
        return  # A proxy that answers for the server, or an older one.
    if health["multi_user"] and not namespace:
        raise UserError(
            "this Kubeflow Pipelines has many users, each with a namespace; say which by "
            "--namespace NAME (in Kubeflow: your profile's)"
        )
    if namespace and not health["multi_user"]:
        # The server drops the namespace without a word. The pods then start in its own, where our
        # account is not, and the run ends as `root-driver: failed`.
        raise UserError(
            f"this Kubeflow Pipelines has one user: it would ignore --namespace {namespace} and "
            "run the pods in its own namespace (most often kubeflow); apply "
            "manifests/overlays/single-user, and leave --namespace out"
        )


def check_version(health: Json) -> None:
    """Raise UserError if this version of Kubeflow Pipelines cannot run the pipeline."""
    problem = version_problem(health)
    if problem:
        raise UserError(f"{problem}; {UPGRADE}")


def version_of(health: Json) -> str:
    """Return the release of the API server, empty if it is not said."""
    # The UI's server puts its own description around that of the API server.
    return str(health.get("tag_name") or health.get("apiServerTagName") or "")


def version_problem(health: Json) -> str:
    """Return why this version of Kubeflow Pipelines cannot run the pipeline; empty if it can."""
    tag_name = version_of(health)
    match = re.match(r"v?(\d+)\.(\d+)", tag_name)
    if match is None or (int(match[1]), int(match[2])) >= OLDEST_PIPELINES:
        # A build without a tag says `unknown`.
        return ""
    oldest = ".".join(map(str, OLDEST_PIPELINES))
    return f"Kubeflow Pipelines {tag_name} is older than {oldest}"
