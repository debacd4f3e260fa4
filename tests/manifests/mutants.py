"""Weakened manifests: each takes one thing away from, or puts one into, a composition of
everything.

A check that none of them fails is a check that looks away.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.manifests.rendering import Json, named

GONE = object()
"""The value of what is taken away."""
RUNTIME = "TrainingRuntime/ratchet-deepspeed"
NODES = "spec.template.spec.replicatedJobs.0.template.spec.template.spec."
STORE = "StatefulSet/ratchet-store"
STORE_POD = "spec.template.spec."
GC = "CronJob/ratchet-gc"
GC_POD = "spec.jobTemplate.spec.template.spec."
MODEL = "InferenceService/ratchet"
POLICY = "ValidatingAdmissionPolicy/ratchet-read-only-root"
CLASSES = "MutatingAdmissionPolicy/ratchet-step-classes"
STEPS = "MutatingAdmissionPolicy/ratchet-read-only-root-steps"


class Mutant(NamedTuple):
    """One change: an object as `Kind/name`, a dotted path in it (`""`: the object itself), and the
    new value."""

    target: str
    path: str
    value: Any = GONE


MUTANTS = (
    # Pod Security and what the house asks of pods
    Mutant(
        "Namespace/ratchet",
        "metadata.labels.pod-security~kubernetes~io/enforce",
        "baseline",
    ),
    Mutant("Namespace/ratchet", "metadata.labels.pod-security~kubernetes~io/enforce"),
    Mutant("Namespace/ratchet", "metadata.labels.pod-security~kubernetes~io/audit"),
    Mutant("Namespace/ratchet", "metadata.labels.ratchet~dev/campaigns"),
    Mutant(RUNTIME, f"{NODES}securityContext.runAsNonRoot"),
    Mutant(RUNTIME, f"{NODES}securityContext.runAsUser", 0),
    Mutant(RUNTIME, f"{NODES}securityContext.seccompProfile"),
    Mutant(RUNTIME, f"{NODES}hostNetwork", True),
    Mutant(RUNTIME, f"{NODES}hostPID", True),
    Mutant(RUNTIME, f"{NODES}volumes.0", {"name": "tmp", "hostPath": {"path": "/tmp"}}),
    Mutant(RUNTIME, f"{NODES}containers.0.securityContext.allowPrivilegeEscalation"),
    Mutant(
        RUNTIME, f"{NODES}containers.0.securityContext.capabilities.drop", ["NET_RAW"]
    ),
    Mutant(
        RUNTIME, f"{NODES}containers.0.securityContext.capabilities.add", ["SYS_PTRACE"]
    ),
    Mutant(RUNTIME, f"{NODES}containers.0.securityContext.privileged", True),
    Mutant(
        RUNTIME, f"{NODES}containers.0.securityContext.readOnlyRootFilesystem", False
    ),
    Mutant(
        RUNTIME,
        f"{NODES}containers.0.ports",
        [{"containerPort": 29500, "hostPort": 29500}],
    ),
    Mutant(RUNTIME, f"{NODES}automountServiceAccountToken"),
    Mutant(RUNTIME, f"{NODES}serviceAccountName", "ratchet-runner"),
    Mutant(RUNTIME, f"{NODES}priorityClassName", "ratchet-training"),
    Mutant(RUNTIME, f"{NODES}containers.0.envFrom.0.configMapRef.name", "store"),
    Mutant(STORE, f"{STORE_POD}securityContext.runAsNonRoot", False),
    Mutant(STORE, f"{STORE_POD}containers.0.securityContext.readOnlyRootFilesystem"),
    Mutant(
        STORE,
        f"{STORE_POD}containers.0.securityContext.seccompProfile",
        {"type": "Unconfined"},
    ),
    Mutant(STORE, f"{STORE_POD}containers.0.securityContext.procMount", "Unmasked"),
    Mutant(
        STORE,
        f"{STORE_POD}securityContext.sysctls",
        [{"name": "kernel.msgmax", "value": "65536"}],
    ),
    Mutant(STORE, f"{STORE_POD}containers.0.readinessProbe.httpGet.host", "10.0.0.1"),
    Mutant(STORE, f"{STORE_POD}containers.0.image", "chrislusf/seaweedfs:latest"),
    Mutant(
        STORE,
        f"{STORE_POD}containers.0.env",
        [{"name": "AWS_SECRET_ACCESS_KEY", "value": "a-secret"}],
    ),
    Mutant(
        STORE,
        f"{STORE_POD}containers.0.securityContext.appArmorProfile",
        {"type": "Unconfined"},
    ),
    Mutant(
        STORE,
        f"{STORE_POD}containers.0.securityContext.seLinuxOptions",
        {"type": "spc_t"},
    ),
    Mutant(STORE, f"{STORE_POD}securityContext.windowsOptions", {"hostProcess": True}),
    Mutant(
        STORE,
        f"{STORE_POD}initContainers",
        [{"name": "chown", "image": "busybox:1", "command": ["chown"]}],
    ),
    Mutant(MODEL, "spec.predictor.model.securityContext.capabilities"),
    Mutant(MODEL, "spec.predictor.automountServiceAccountToken"),
    Mutant(
        MODEL, "spec.predictor.model.storageUri", "s3://ratchet/models/NAME/VERSION"
    ),
    Mutant(GC, f"{GC_POD}securityContext.runAsNonRoot"),
    Mutant(GC, f"{GC_POD}securityContext.seccompProfile"),
    Mutant(GC, f"{GC_POD}containers.0.securityContext.capabilities.drop", ["NET_RAW"]),
    Mutant(GC, f"{GC_POD}containers.0.securityContext.readOnlyRootFilesystem", False),
    Mutant(GC, f"{GC_POD}automountServiceAccountToken"),
    Mutant(GC, f"{GC_POD}priorityClassName"),
    Mutant(GC, f"{GC_POD}containers.0.image", "ratchet/cpu"),
    Mutant(GC, f"{GC_POD}containers.0.envFrom.0.configMapRef.name", "store"),
    # Fields that no API server knows, and types it does not take
    Mutant(RUNTIME, "spec.mlPolicy.torch.numProcPerNode", 8),
    Mutant(RUNTIME, f"{NODES}securityContext.runAsNonroot", True),
    Mutant(RUNTIME, f"{NODES}containers.0.securityContext.runAsUser", "10001"),
    Mutant(STORE, "spec.replica", 2),
    Mutant(GC, "spec.concurrency", "Forbid"),
    Mutant("ResourceQuota/ratchet", "spec.hard.pods", ["200"]),
    Mutant("NetworkPolicy/to-dns", "spec.egres", []),
    Mutant("ClusterQueue/ratchet", "spec.queueingStrategy", "Fifo"),
    Mutant("PodMonitor/ratchet-store", "spec.endpoints", []),
    Mutant("PrometheusRule/ratchet", "spec.groups.0.rules.0.expression", "1"),
    # Rights and tokens
    Mutant("Role/ratchet-kfp", "rules.2.resourceNames"),
    Mutant("Role/ratchet-kfp", "rules.0.verbs", ["create"]),
    Mutant("Role/ratchet-kfp", "rules.1.verbs", ["get", "list"]),
    Mutant("Role/ratchet-train-jobs", "rules.0.verbs", ["*"]),
    Mutant(
        "Role/ratchet-train-jobs",
        "rules.0.resources",
        ["trainjobs", "trainingruntimes"],
    ),
    Mutant("Role/ratchet-train-jobs", "rules.2"),
    Mutant("RoleBinding/ratchet-train-jobs", "subjects.0.name", "ratchet-train"),
    Mutant("RoleBinding/ratchet-kfp", "roleRef.kind", "ClusterRole"),
    Mutant("RoleBinding/ratchet-kfp", "subjects.0.namespace", "other"),
    Mutant("RoleBinding/ratchet-train-jobs", ""),
    Mutant("ServiceAccount/ratchet-train", "automountServiceAccountToken"),
    Mutant("ServiceAccount/default", "automountServiceAccountToken", True),
    Mutant("ServiceAccount/ratchet-store", ""),
    Mutant("ServiceAccount/ratchet-gc", ""),
    Mutant("ServiceAccount/ratchet-gc", "automountServiceAccountToken", True),
    # Network
    Mutant("NetworkPolicy/default-deny", ""),
    Mutant("NetworkPolicy/default-deny", "spec.policyTypes", ["Ingress"]),
    Mutant("NetworkPolicy/default-deny", "spec.policyTypes", ["Egress"]),
    Mutant(
        "NetworkPolicy/default-deny",
        "spec.podSelector.matchLabels",
        {"app.kubernetes.io/part-of": "ratchet"},
    ),
    Mutant("NetworkPolicy/to-dns", "spec.egress.0.ports.0"),
    Mutant("NetworkPolicy/to-dns", "spec.egress.0.to"),
    Mutant("NetworkPolicy/to-dns", "spec.egress.0.to.0.podSelector"),
    Mutant("NetworkPolicy/runs-to-kfp", "spec.podSelector.matchLabels"),
    Mutant("NetworkPolicy/runs-to-kfp", "spec.egress.0.ports"),
    Mutant("NetworkPolicy/runs-to-kfp", "spec.egress.0.to.0.namespaceSelector", {}),
    Mutant("NetworkPolicy/runs-to-kfp", "spec.egress.2.to.0.podSelector"),
    Mutant("NetworkPolicy/runs-to-kubernetes-api", "spec.podSelector", {}),
    Mutant("NetworkPolicy/runs-to-kubernetes-api", "spec.egress.0.ports"),
    Mutant("NetworkPolicy/runs-to-kubernetes-api", "spec.egress.0.ports.1"),
    Mutant("NetworkPolicy/trainer-peers", "spec.ingress.0.from"),
    Mutant("NetworkPolicy/trainer-peers", "spec.egress.0.ports.1.endPort"),
    Mutant("NetworkPolicy/trainer-peers", "spec.ingress.0.ports.1.endPort", 40000),
    Mutant("NetworkPolicy/trainer-peers", "spec.egress.0.ports.0"),
    Mutant("NetworkPolicy/object-store", "spec.ingress.0.ports"),
    Mutant(
        "NetworkPolicy/object-store", "spec.ingress.0.from", [{"namespaceSelector": {}}]
    ),
    Mutant("NetworkPolicy/to-object-store", ""),
    Mutant("NetworkPolicy/to-outside-store", "spec.egress.0.to.0.ipBlock.except"),
    Mutant("NetworkPolicy/to-outside-store", "spec.egress.0.ports.0.port", 80),
    Mutant("NetworkPolicy/to-outside-store", "spec.podSelector", {}),
    Mutant("NetworkPolicy/runs-to-hub", "spec.egress.0.to.0.ipBlock.except.2"),
    Mutant("NetworkPolicy/runs-to-model-registry", "spec.podSelector", {}),
    Mutant("NetworkPolicy/clients-to-model", "spec.ingress.0.from"),
    Mutant("NetworkPolicy/from-prometheus", "spec.ingress.0.from.0.podSelector"),
    Mutant("NetworkPolicy/from-prometheus", "spec.podSelector", {}),
    # Quotas, queues, priorities
    Mutant("ResourceQuota/ratchet", ""),
    Mutant("ResourceQuota/ratchet", "spec.hard.requests~nvidia~com/gpu"),
    Mutant("ResourceQuota/ratchet", "spec.hard.requests~nvidia~com/gpu", "4"),
    Mutant("ResourceQuota/ratchet", "spec.hard.services~loadbalancers"),
    Mutant("LimitRange/ratchet", "spec.limits.0"),
    Mutant("PriorityClass/ratchet-train", "preemptionPolicy"),
    Mutant("PriorityClass/ratchet-store", "globalDefault", True),
    Mutant("PriorityClass/ratchet-store", ""),
    Mutant(
        "ClusterQueue/ratchet",
        "spec.resourceGroups.0.flavors.0.resources.1.nominalQuota",
        "1Ti",
    ),
    Mutant(
        "ClusterQueue/ratchet",
        "spec.resourceGroups.0.coveredResources",
        ["memory", "cpu"],
    ),
    Mutant("LocalQueue/ratchet", "spec.clusterQueue", "default"),
    Mutant("ResourceFlavor/ratchet", ""),
    # Order, references, settings
    Mutant("ConfigMap/ratchet-store", "metadata.namespace", "kubeflow"),
    Mutant("ConfigMap/ratchet-store", "data.AWS_SECRET_ACCESS_KEY", "a-secret"),
    Mutant("ConfigMap/ratchet-store", "data.AWS_ENDPOINT", "http://ratchet-store:8333"),
    Mutant("ConfigMap/ratchet-store", "kind", "Secret"),
    Mutant("Service/ratchet-store", "spec.selector", {"app": "ratchet-store"}),
    Mutant("Service/ratchet-store", "spec.ports.0.targetPort", "http"),
    Mutant(STORE, "spec.selector.matchLabels", {"app": "ratchet-store"}),
    Mutant(STORE, "metadata.generateName", "ratchet-store-"),
    Mutant("ClusterQueue/ratchet", "metadata.namespace", "ratchet"),
    # Admission
    Mutant(POLICY, "spec.variables.0.expression", "object.spec.containers"),
    Mutant(POLICY, "spec.failurePolicy", "Ignore"),
    Mutant(POLICY, "spec.matchConditions"),
    Mutant(
        POLICY,
        "spec.validations.0.expression",
        "variables.containers.exists(c, has(c.securityContext))",
    ),
    Mutant(POLICY, "spec.matchConstraints.resourceRules.1"),
    Mutant(f"{POLICY.replace('/', 'Binding/')}", "spec.validationActions", ["Audit"]),
    Mutant(
        f"{POLICY.replace('/', 'Binding/')}",
        "spec.matchResources.namespaceSelector.matchLabels",
        {"team": "a"},
    ),
    Mutant(f"{POLICY.replace('/', 'Binding/')}", ""),
    Mutant(STEPS, "spec.matchConditions.1"),
    Mutant(STEPS, "spec.mutations.0.applyConfiguration.expression", "Object{}"),
    Mutant(CLASSES, "spec.matchConditions.0"),
    Mutant(CLASSES, "spec.mutations.0.jsonPatch.expression", "[]"),
)


def mutated(objects: tuple[Json, ...], mutant: Mutant) -> tuple[Json, ...]:
    """The objects with the one change. Raises KeyError if there is nothing to change."""
    return tuple(_mutated(objects, mutant))


def _mutated(objects: tuple[Json, ...], mutant: Mutant) -> Iterator[Json]:
    found = [one for one in objects if named(one) == mutant.target]
    if len(found) != 1:
        raise KeyError(mutant.target)
    for one in objects:
        if one is not found[0]:
            yield one
        elif mutant.path:
            changed = copy.deepcopy(one)
            _put(
                changed,
                [part.replace("~", ".") for part in mutant.path.split(".")],
                mutant.value,
            )
            yield changed


def _put(node: Any, path: list[str], value: Any) -> None:
    """Set or remove what lies at a path. What is removed must be there; of what is set, all but the
    last part."""
    for part in path[:-1]:
        node = node[int(part) if isinstance(node, list) else part]
    last: Any = int(path[-1]) if isinstance(node, list) else path[-1]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
