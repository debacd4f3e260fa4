"""Check of what Kubeflow Pipelines tries again after a step's pod died.

The supervisor in a step's container tries again what happens inside it. A pod that is lost as a
whole (evicted, out of memory where the kernel kills the whole container) is a matter of Argo, whose
stock policy, OnError, tries again deleted pods alone.
"""

from __future__ import annotations

import json
import shlex

import yaml

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.findings import Finding, unread
from components.cli.json_documents import Json, nested

CONFIG_MAP = "workflow-controller-configmap"
_TRIED_AGAIN = {
    "Always": "every pod that failed or was deleted",
    "OnFailure": "pods that failed, evicted ones too, but not deleted ones",
    "OnError": "deleted pods alone: one that is evicted or killed from outside ends the run",
    "OnTransientError": "pods whose error Argo takes for passing",
}


def retry_check(api: ApiServer, namespace: str) -> Finding:
    """Return what the workflow controller tries again, with the patch that makes it all.

    Args:
        api: The API server.
        namespace: Namespace of Kubeflow Pipelines.
    """
    check = "retries of lost pods"
    status, document = api.ask(
        f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}"
    )
    if status != 200:
        return unread(check, CONFIG_MAP, namespace, status)
    defaults = _workflow_defaults(document)
    strategy = nested(defaults, "spec", "templateDefaults", "retryStrategy")
    # Argo's own default, where neither the template nor the controller names a policy.
    policy = str(strategy.get("retryPolicy") or "OnFailure")
    observation = f"{policy}: {_TRIED_AGAIN.get(policy, 'unknown to us')}"
    if policy == "Always":
        return Finding(check, "ok", observation)
    return Finding(
        check,
        "ok",
        observation,
        "`submit --wait` begins such a run again; or have Argo try every failed pod again (those "
        f"with wrong input too): {_patch(namespace, defaults)}",
    )


def _workflow_defaults(config_map: Json) -> Json:
    """Return the defaults of all workflows; empty where there are none that can be read."""
    try:
        defaults = yaml.safe_load(
            nested(config_map, "data").get("workflowDefaults") or "{}"
        )
    except yaml.YAMLError:
        return {}
    return defaults if isinstance(defaults, dict) else {}


def _patch(namespace: str, defaults: Json) -> str:
    """Return the command that sets the policy and keeps all other defaults."""
    spec = nested(defaults, "spec")
    template = nested(spec, "templateDefaults")
    strategy = nested(template, "retryStrategy") or {"limit": "2"}
    changed_template = {
        **template,
        "retryStrategy": {**strategy, "retryPolicy": "Always"},
    }
    changed = {**defaults, "spec": {**spec, "templateDefaults": changed_template}}
    # YAML knows dates, JSON does not.
    workflow_defaults = json.dumps(changed, default=str)
    patch = json.dumps({"data": {"workflowDefaults": workflow_defaults}})
    return f"kubectl -n {namespace} patch configmap {CONFIG_MAP} --type merge -p {shlex.quote(patch)}"
