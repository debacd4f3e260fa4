"""Logs of a run's pods, for whoever may see the run: no rights in the cluster are needed.

Kubeflow Pipelines has two servers that read them. Its API reads the pod, or the log that Argo
archived. That of one user looks for pods in no namespace, and of a run of some size, whose nodes
Argo keeps compressed, it does not find the archived log either (2.17). The server of its UI reads
both by their names; it answers at the address that is given if that is the UI's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from components.cli.cluster.kfp_api import Pipelines
from components.cli.json_documents import Json, nested

GIVE_UP_SECONDS = 60.0
"""So long a server may be away: the run has ended, and nobody waits half an hour for a log."""


def ways_to_log(
    pipelines: Pipelines, run_id: str, workflow: Json, pod: Json
) -> list[Callable[[], str]]:
    """Return the calls that may give the log of a pod, in the order in which to try them.

    Each raises UserError where it finds no log, Unreachable for a server that is away, and Gone
    without such a run.

    Args:
        pipelines: The API server.
        run_id: The run's id in Kubeflow.
        workflow: Its Workflow.
        pod: The pod's node there.
    """
    names = _log_names(workflow, pod)
    day = str(nested(workflow, "metadata").get("creationTimestamp") or "")[:10]
    return [
        *(partial(pipelines.node_log, run_id, name) for name in names),
        partial(pipelines.log_from_ui, names[0], day),
    ]


def _log_names(workflow: Json, pod: Json) -> list[str]:
    """Return the names that the log of a pod may have for the API: the pod's, and the node's.

    The API reads the pod of the name; the archive of older servers knows the node's id alone.
    """
    # As RetrievePodName of Kubeflow Pipelines 2.17 (backend/src/common/util/workflow.go) has it.
    node_id = str(pod.get("id") or "")
    metadata = nested(workflow, "metadata")
    annotations = nested(metadata, "annotations")
    if annotations.get("workflows.argoproj.io/pod-name-format") == "v1":
        return [node_id]
    prefix = str(metadata.get("name") or "")
    if ".inline" not in str(pod.get("name") or ""):
        prefix = f"{prefix}-{pod.get('templateName')}"
    return [f"{prefix}-{node_id.rpartition('-')[2]}", node_id]
