"""Steps get the classes that their profile names from the server itself, as their pods are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from components.cli.package.profiles import PRIORITY_CLASS, RUNTIME_CLASS
from tests.cluster.server import Server
from tests.manifests.kfp_pods import LABELS
from tests.manifests.rendering import Json, composed, of_kind
from tests.waiting import wait_until

GROUP = "admissionregistration.k8s.io"
KINDS = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
OURS = "ratchet-tests-steps"
BOTH = {RUNTIME_CLASS: OURS, PRIORITY_CLASS: OURS}


@pytest.fixture
def namespace(bare_server: Server, new_namespace: Callable[[str], str]) -> Any:
    """A namespace with the component; skipped where the server has no such policies."""
    versions = bare_server.request("GET", f"/apis/{GROUP}").document["versions"]
    policies = list(of_kind(composed("step-classes"), *KINDS))
    served = [
        entry["groupVersion"]
        for entry in versions
        if bare_server.serves({**policies[0], "apiVersion": entry["groupVersion"]})
    ]
    if not served:
        release = bare_server.request("GET", "/version").document["gitVersion"]
        pytest.skip(f"Kubernetes {release} serves no {KINDS[0]}")
    name = new_namespace("ratchet-classes")
    labels = {"ratchet.dev/campaigns": "true"}
    space: Json = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }
    priority: Json = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "value": 500,
    }
    runtime: Json = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "handler": "runc",
    }
    classes = [{**one, "metadata": {"name": OURS}} for one in (priority, runtime)]
    objects: list[Json] = [
        space,
        *classes,
        *({**one, "apiVersion": served[0]} for one in policies),
    ]
    bare_server.apply_all(objects)
    yield name
    for one in objects[1:]:
        bare_server.request("DELETE", bare_server.path(one))


def admitted(server: Server, namespace: str, labels: Json, annotations: Json) -> Json:
    """Return the classes and the priority of a pod as the server would store it."""
    metadata = {"name": "step", "namespace": namespace, "labels": labels}
    metadata["annotations"] = annotations
    # An account of its own: the one of pods that name none may not be there yet.
    spec = {
        "containers": [{"name": "main", "image": "x"}],
        "serviceAccountName": "default",
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    answer = server.create(pod)
    if answer.status != 201:
        return {"refused": answer.message}
    fields = ("runtimeClassName", "priorityClassName", "priority")
    return {name: answer.document["spec"].get(name) for name in fields}


def test_a_step_of_a_run_has_the_classes_of_its_profile_and_no_other_pod_has(
    bare_server: Server, namespace: str
) -> None:
    whole = {"runtimeClassName": OURS, "priorityClassName": OURS, "priority": 500}
    # Policies are in force a moment after they were made, and so is a namespace's account.
    wait_until(lambda: admitted(bare_server, namespace, LABELS, BOTH) == whole)
    plain = {"runtimeClassName": None, "priorityClassName": None, "priority": 0}
    assert admitted(bare_server, namespace, {"app": "x"}, BOTH) == plain
    assert admitted(bare_server, namespace, LABELS, {"other": "x"}) == plain
    runtime = admitted(bare_server, namespace, LABELS, {RUNTIME_CLASS: OURS})
    assert runtime == {**plain, "runtimeClassName": OURS}
    refused = admitted(
        bare_server, namespace, LABELS, {PRIORITY_CLASS: "no-such-class"}
    )
    assert "no-such-class" in refused["refused"]
