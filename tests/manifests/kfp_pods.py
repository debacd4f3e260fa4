"""The pods that Kubeflow Pipelines 2.17 makes of a compiled pipeline, as far as Pod Security looks
at them.

Its compiler gives every step pod one seccomp profile, a launcher that meets *restricted*, and a
main container without capabilities or escalation; runAsNonRoot of the main container it leaves to
the pipeline (kfp-kubernetes' `set_security_context`). Argo adds `init` and `wait`, which KFP's
controller configuration makes restricted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

Json = dict[str, Any]
SECCOMP = {"seccompProfile": {"type": "RuntimeDefault"}}
CONFINED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    **SECCOMP,
}
SYSTEM = {**CONFINED, "runAsNonRoot": True}
VOLUMES = {
    "emptyDirMounts": "emptyDir",
    "genericEphemeralVolume": "ephemeral",
    "enabledSharedMemory": "emptyDir",
    "secretAsVolume": "secret",
    "configMapAsVolume": "configMap",
    "pvcMount": "persistentVolumeClaim",
}
"""What a step's Kubernetes settings mount, and as which kind of volume."""
LABELS = {"pipelines.kubeflow.org/v2_component": "true"}
"""What every pod of a run carries; network and admission policies know runs by it."""


def step_pods(pipeline: str) -> Iterator[tuple[str, Json]]:
    """(executor, pod spec) of every step of a pipeline package."""
    documents = list(
        yaml.load_all(pipeline, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    )
    platform = documents[1] if len(documents) > 1 else {}
    settings = (
        platform.get("platforms", {})
        .get("kubernetes", {})
        .get("deploymentSpec", {})
        .get("executors", {})
    )
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        yield name, _pod(executor["container"]["image"], settings.get(name, {}))


def driver_pod() -> Json:
    """The pod that decides on a step before it runs; it holds KFP's own image alone."""
    context = {**SECCOMP, "runAsNonRoot": True}
    return {
        "securityContext": context,
        "containers": [{"name": "main", "securityContext": SYSTEM}, *_argo("wait")],
    }


def _pod(image: str, settings: Json) -> Json:
    given = settings.get("securityContext", {})
    numbers = {
        key: int(given[key]) for key in ("runAsUser", "runAsGroup") if key in given
    }
    flags = {"runAsNonRoot": given["runAsNonRoot"]} if "runAsNonRoot" in given else {}
    return {
        "securityContext": SECCOMP,
        "initContainers": [
            *_argo("init"),
            {"name": "kfp-launcher", "securityContext": SYSTEM},
        ],
        "containers": [
            {
                "name": "main",
                "image": image,
                "securityContext": {**CONFINED, **numbers, **flags},
            },
            *_argo("wait"),
        ],
        "volumes": [
            {"name": key, VOLUMES[key]: {}} for key in VOLUMES if settings.get(key)
        ],
    }


def _argo(name: str) -> list[Json]:
    return [{"name": name, "securityContext": {**SYSTEM, "runAsUser": 65532}}]
