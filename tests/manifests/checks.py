"""What must hold of every composition of the manifests. Each check yields findings: one line for
each thing wrong."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator

from components.cli.doctor.quantities import amount
from tests.manifests.admission import admission_findings
from tests.manifests.pod_security import containers, of_the_house, pod_specs, violations
from tests.manifests.rendering import ROOT, Json, named, of_kind
from tests.manifests.rights import rights_findings
from tests.manifests.rows import network_findings
from tests.manifests.schema import schema_findings

CLUSTER_SCOPED = {
    "Namespace",
    "PriorityClass",
    "ResourceFlavor",
    "ClusterQueue",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
}
BEFORE_PODS = {
    "Namespace",
    "ResourceQuota",
    "LimitRange",
    "PriorityClass",
    "ServiceAccount",
    "NetworkPolicy",
}
OF_PIPELINES = {"kubeflow-pipelines-edit"}
"""Roles of the whole cluster that Kubeflow Pipelines brings."""
LIMITED = {
    "pods",
    "requests.cpu",
    "requests.memory",
    "limits.memory",
    "requests.nvidia.com/gpu",
    "requests.amd.com/gpu",
    "persistentvolumeclaims",
    "requests.storage",
}
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")


def findings(objects: tuple[Json, ...], components: Iterable[str]) -> Iterator[str]:
    """Everything wrong with the objects that the base and some components make."""
    for one in objects:
        for text in schema_findings(json.dumps(one)):
            yield f"schema: {named(one)}: {text}"
        for spec in pod_specs(one):
            for control, where in violations(spec):
                yield f"pod security: {named(one)}: {control} ({where})"
            for text in of_the_house(spec):
                yield f"pod: {named(one)} {text}"
    yield from namespace_findings(objects)
    yield from rights_findings(objects)
    yield from order_findings(objects)
    yield from reference_findings(objects)
    yield from limit_findings(objects)
    yield from queue_findings(objects)
    yield from setting_findings(objects)
    yield from policy_findings(objects)
    yield from network_findings(objects, components)
    yield from admission_findings(objects)


def namespace_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """There is one namespace, it holds its pods to *restricted*, and everything lies in it."""
    (namespace,) = of_kind(objects, "Namespace")
    labels = namespace["metadata"]["labels"]
    for level in ("enforce", "audit", "warn"):
        if labels.get(f"pod-security.kubernetes.io/{level}") != "restricted":
            yield f"namespace: Pod Security does not {level} restricted"
    for label in ("ratchet.dev/campaigns", "pipelines.kubeflow.org/enabled"):
        if labels.get(label) != "true":
            yield f"namespace: no label {label}=true"
    for one in objects:
        wanted = (
            None if one["kind"] in CLUSTER_SCOPED else namespace["metadata"]["name"]
        )
        if one["metadata"].get("namespace") != wanted:
            yield f"namespace: {named(one)} is in {one['metadata'].get('namespace')}, not in {wanted}"


def order_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """Applied once or again, from top to bottom, nothing waits for something below it, and nothing
    is refused."""
    if objects[0]["kind"] != "Namespace":
        yield "order: the namespace does not come first"
    seen: set[tuple[str, str]] = set()
    for one in objects:
        if one["kind"] in ("Job", "Pod") or "generateName" in one["metadata"]:
            yield f"order: {named(one)} cannot be applied again"
        missing = (
            BEFORE_PODS - {kind for kind, _ in seen} if any(pod_specs(one)) else ()
        )
        for kind in sorted(missing):
            yield f"order: {named(one)} comes before any {kind}"
        for kind, name in _references(one):
            if (kind, name) not in seen:
                yield f"order: {named(one)} comes before {kind}/{name}, or that is missing"
        if (one["kind"], one["metadata"]["name"]) in seen:
            yield f"order: {named(one)} is there twice"
        seen.add((one["kind"], one["metadata"]["name"]))


def _references(one: Json) -> Iterator[tuple[str, str]]:
    """What an object cannot do without, but for Secrets, which the user makes."""
    if one["kind"] == "RoleBinding" and one["roleRef"]["name"] not in OF_PIPELINES:
        yield one["roleRef"]["kind"], one["roleRef"]["name"]
    if one["kind"] == "LocalQueue":
        yield "ClusterQueue", one["spec"]["clusterQueue"]
    for spec in pod_specs(one):
        yield "ServiceAccount", spec.get("serviceAccountName", "default")
        yield "PriorityClass", spec.get("priorityClassName", "")
        for source in (
            source
            for container in containers(spec)
            for source in container.get("envFrom") or ()
        ):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"]


def reference_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """Services and sets select the pods they are for, at ports that these open."""
    sets = list(of_kind(objects, "StatefulSet"))
    open_ports = {
        port.get("name")
        for one in sets
        for port in one["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    for one in sets:
        labels = one["spec"]["template"]["metadata"]["labels"]
        if not one["spec"]["selector"]["matchLabels"].items() <= labels.items():
            yield f"reference: {named(one)} does not select its own pods"
    for service in of_kind(objects, "Service"):
        wanted = service["spec"]["selector"].items()
        if not any(
            wanted <= one["spec"]["template"]["metadata"]["labels"].items()
            for one in sets
        ):
            yield f"reference: {named(service)} selects no pod"
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in open_ports:
                yield f"reference: {named(service)}: no port {port['targetPort']}"


def limit_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """There is a quota of all that costs money, defaults so that it counts every pod, and nobody
    else's pods suffer."""
    quota: Json = next(
        (one["spec"]["hard"] for one in of_kind(objects, "ResourceQuota")), {}
    )
    for name in sorted(LIMITED - set(quota)):
        yield f"limits: no quota of {name}"
    for name in ("services.nodeports", "services.loadbalancers"):
        if quota.get(name) != "0":
            yield f"limits: {name} are allowed"
    limits = [
        limit
        for one in of_kind(objects, "LimitRange")
        for limit in one["spec"]["limits"]
    ]
    defaults: Json = next(
        (limit for limit in limits if limit["type"] == "Container"), {}
    )
    for field, resource in (
        ("defaultRequest", "cpu"),
        ("defaultRequest", "memory"),
        ("default", "memory"),
    ):
        if resource not in defaults.get(field, {}):
            yield f"limits: a container that says nothing gets no {field} of {resource}"
    for one in of_kind(objects, "PriorityClass"):
        if one.get("globalDefault"):
            yield f"limits: {named(one)} applies to the whole cluster"
        if (
            one["metadata"]["name"] == "ratchet-train"
            and one.get("preemptionPolicy") != "Never"
        ):
            yield "limits: trainings evict the pods of others"


def queue_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """The queue is whole, and admits no more than the quota of the namespace lets in."""
    quota: Json = next(
        (one["spec"]["hard"] for one in of_kind(objects, "ResourceQuota")), {}
    )
    flavors = {one["metadata"]["name"] for one in of_kind(objects, "ResourceFlavor")}
    for group in (
        group
        for one in of_kind(objects, "ClusterQueue")
        for group in one["spec"]["resourceGroups"]
    ):
        for flavor in group["flavors"]:
            if flavor["name"] not in flavors:
                yield f"queue: no ResourceFlavor {flavor['name']}"
            if [resource["name"] for resource in flavor["resources"]] != group[
                "coveredResources"
            ]:
                yield "queue: a flavor's resources are not those its group covers, in that order"
            for resource in flavor["resources"]:
                limit = quota.get(f"requests.{resource['name']}", "0")
                if amount(resource["nominalQuota"]) > amount(limit):
                    yield f"queue: admits more {resource['name']} than the namespace has ({limit})"


def setting_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """Settings are those that the code reads, no key is among them, and images have a version."""
    for one in of_kind(objects, "Secret"):
        yield f"settings: {named(one)} is part of the manifests"
    for one in of_kind(objects, "ConfigMap"):
        for name in one["data"]:
            if name not in _variables():
                yield f"settings: {named(one)}: nothing reads {name}"
            if SECRET.search(name):
                yield f"settings: {named(one)}: {name} is a secret"
    for one in objects:
        for container in (
            container for spec in pod_specs(one) for container in containers(spec)
        ):
            image = container.get("image", "name:version")
            if ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
                yield f"settings: {named(one)}: image {image} without a version"
            for variable in container.get("env") or ():
                if "value" in variable and SECRET.search(variable["name"]):
                    yield f"settings: {named(one)}: the value of {variable['name']} is in the manifest"


@functools.cache
def _variables() -> frozenset[str]:
    """Names of environment variables that appear in the code; HF_HUB_OFFLINE is huggingface_hub's
    own."""
    code = "".join(path.read_text() for path in (ROOT / "components").rglob("*.py"))
    return frozenset(re.findall(r'"([A-Z][A-Z0-9_]+)"', code)) | {"HF_HUB_OFFLINE"}


def policy_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """One network policy denies everything to every pod, so that no other has to; each of the
    others opens something in the directions it names."""
    denying = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = list(of_kind(objects, "NetworkPolicy"))
    if denying not in [one["spec"] for one in policies]:
        yield "network: no policy denies everything by default"
    for one in policies:
        opened = [
            direction
            for direction in ("Ingress", "Egress")
            if one["spec"].get(direction.lower())
        ]
        if one["spec"] != denying and opened != one["spec"]["policyTypes"]:
            yield f"network: {named(one)} names other directions than it has rules for"
