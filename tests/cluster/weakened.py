"""Pods of every shape that this project makes, and the ways in which a pod can be weakened."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.cli.package.profiles import load_profile
from components.contracts.recipe_file import load_recipe
from tests.manifests.kfp_pods import LABELS, driver_pod, step_pods
from tests.manifests.pod_security import pod_specs
from tests.manifests.rendering import COMPONENTS, ROOT, Json, composed, named
from tests.pipeline.compiling import compile_aside

GONE = object()
"""The value of what is taken away."""


class Shape(NamedTuple):
    """A pod that an installation has."""

    name: str
    spec: Json
    labels: dict[str, str]


@functools.cache
def shapes() -> tuple[Shape, ...]:
    """Return a pod of every kind: those of the manifests, of every step, and KFP's driver."""
    return tuple(_shapes())


def _shapes() -> Iterator[Shape]:
    for one in composed(*COMPONENTS):
        for spec in pod_specs(one):
            yield Shape(
                named(one), _startable(spec), {"app.kubernetes.io/part-of": "ratchet"}
            )
    yield Shape("driver of a step", _startable(driver_pod()), LABELS)
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml")
    profile = load_profile("cpu", ROOT / "tests" / "pipeline" / "images.toml")
    package = compile_aside(recipe, 1, profile).package
    for executor, spec in step_pods(package.text):
        yield Shape(executor, _startable(spec), LABELS)


def _startable(spec: Json) -> Json:
    """Return a spec with what KFP, KServe and JobSet add, as far as the API server insists on it."""
    pod = {
        key: value for key, value in copy.deepcopy(spec).items() if key in _POD_FIELDS
    }
    mounted = set()
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind) or ():
            container.setdefault("image", "registry.example/image:1")
            for field in _NOT_OF_A_CONTAINER:
                container.pop(field, None)
            mounted |= {mount["name"] for mount in container.get("volumeMounts") or ()}
    for volume in pod.get("volumes") or ():
        volume["name"] = volume["name"].lower()
    names = {volume["name"] for volume in pod.get("volumes") or ()}
    # The StatefulSet's controller adds the volumes of its claims.
    for name in sorted(mounted - names):
        pod.setdefault("volumes", []).append({"name": name, "emptyDir": {}})
    pod.setdefault("restartPolicy", "Never")
    return pod


_POD_FIELDS = frozenset(
    {
        "automountServiceAccountToken",
        "containers",
        "enableServiceLinks",
        "initContainers",
        "priorityClassName",
        "restartPolicy",
        "securityContext",
        "serviceAccountName",
        "terminationGracePeriodSeconds",
        "tolerations",
        "volumes",
    }
)
_NOT_OF_A_CONTAINER = ("modelFormat", "storageUri")
"""Fields of KServe's `model`, which is a container otherwise."""


def pod(shape: Shape, namespace: str, spec: Json | None = None) -> Json:
    """Return the pod of a shape, perhaps with another spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shape", "namespace": namespace, "labels": shape.labels},
        "spec": shape.spec if spec is None else spec,
    }


class Weakening(NamedTuple):
    """One change of a pod's spec: a dotted path, and the new value. `main` is a container."""

    path: str
    value: Any = GONE


_LOOPBACK_PROBE = {"httpGet": {"path": "/", "port": 8080, "host": "10.0.0.1"}}
_UNCONFINED = {"type": "Unconfined"}
WEAKENINGS = (
    Weakening("hostNetwork", True),
    Weakening("hostPID", True),
    Weakening("hostIPC", True),
    Weakening("volumes.+", {"name": "host", "hostPath": {"path": "/"}}),
    Weakening("volumes.+", {"name": "nfs", "nfs": {"server": "10.0.0.1", "path": "/"}}),
    Weakening("securityContext.runAsUser", 0),
    Weakening("securityContext.seccompProfile", _UNCONFINED),
    Weakening("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "65536"}]),
    Weakening("securityContext.seLinuxOptions", {"type": "spc_t"}),
    Weakening("securityContext.appArmorProfile", _UNCONFINED),
    Weakening("securityContext.windowsOptions", {"hostProcess": True}),
    Weakening("main.securityContext.privileged", True),
    Weakening("main.securityContext.allowPrivilegeEscalation", True),
    Weakening("main.securityContext.allowPrivilegeEscalation"),
    Weakening("main.securityContext.capabilities"),
    Weakening("main.securityContext.capabilities.drop", ["NET_RAW"]),
    Weakening("main.securityContext.capabilities.add", ["SYS_PTRACE"]),
    Weakening("main.securityContext.runAsNonRoot", False),
    Weakening("main.securityContext.runAsUser", 0),
    Weakening("main.securityContext.seccompProfile", _UNCONFINED),
    Weakening("main.securityContext.procMount", "Unmasked"),
    Weakening("main.securityContext.seLinuxOptions", {"user": "root"}),
    Weakening("main.ports.+", {"containerPort": 29500, "hostPort": 29500}),
    Weakening("main.livenessProbe", _LOOPBACK_PROBE),
    Weakening("initContainers.+", {"name": "chown", "image": "busybox:1"}),
    # What is no matter of Pod Security: admission and validation know it.
    Weakening("serviceAccountName", "nobody-made-it"),
    Weakening("priorityClassName", "nobody-made-it"),
    Weakening("securityContext.runAsNonroot", True),
    Weakening("main.securityContext.runAsUser", "10001"),
    Weakening("main.resources", {"requests": {"cpu": "65"}}),
    Weakening("main.resources", {"limits": {"nvidia.com/gpu": "9"}}),
    Weakening(
        "main.resources",
        {"requests": {"memory": "257Gi"}, "limits": {"memory": "257Gi"}},
    ),
    Weakening(
        "main.resources", {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}
    ),
)


def weakened(spec: Json, weakening: Weakening) -> Json | None:
    """Return the spec with the one change; None where there is nothing to take away."""
    changed = copy.deepcopy(spec)
    parts = weakening.path.split(".")
    node: Any = changed
    if parts[0] == "main":
        node = changed["containers"][0]
        parts = parts[1:]
    for part in parts[:-1]:
        node = node.setdefault(part, [] if parts[-1] == "+" else {})
    if parts[-1] == "+":
        node.append(weakening.value)
    elif weakening.value is not GONE:
        node[parts[-1]] = weakening.value
    elif parts[-1] in node:
        del node[parts[-1]]
    else:
        return None
    return changed
