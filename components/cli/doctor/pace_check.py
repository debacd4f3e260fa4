"""Check of how soon Kubeflow Pipelines goes on to the next pod of a run.

Argo's controller looks at a Workflow again after a fixed pause, which each pod that follows another
one waits for: the larger part of what a round costs beside the work of its steps.
"""

from __future__ import annotations

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.findings import Finding, unread
from components.cli.json_documents import Json, nested

DEPLOYMENT = "workflow-controller"
VARIABLE = "DEFAULT_REQUEUE_TIME"
"""Argo's name for the pause (docs/environment-variables.md of argo-workflows 4.0)."""
ARGOS_DEFAULT, SHORT = "10s", "2s"


def pace_check(api: ApiServer, namespace: str) -> Finding:
    """Return the pause between two looks at a run, with the command that shortens it.

    Args:
        api: The API server.
        namespace: Namespace of Kubeflow Pipelines.
    """
    check = "pause between pods"
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{DEPLOYMENT}"
    status, document = api.ask(path)
    if status != 200:
        return unread(check, DEPLOYMENT, namespace, status)
    pause = _pause(document)
    observation = f"Argo looks at a run again after {pause or ARGOS_DEFAULT}"
    if pause is not None:
        return Finding(check, "ok", observation)
    return Finding(
        check,
        "ok",
        f"{observation}, its default",
        "a round has 12 pods one after the other, and each waits for that; on a cluster of few "
        f"runs shorten it: kubectl -n {namespace} set env deployment/{DEPLOYMENT} {VARIABLE}={SHORT}",
    )


def _pause(deployment: Json) -> str | None:
    """Return what the controller is told, None where it is told nothing."""
    pod = nested(deployment, "spec", "template", "spec")
    for container in pod.get("containers") or []:
        for variable in container.get("env") or []:
            if variable.get("name") == VARIABLE:
                return str(variable.get("value") or "what its ConfigMap says")
    return None
