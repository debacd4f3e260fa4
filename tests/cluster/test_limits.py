"""Quotas and limits, by real admission."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.server import Server
from tests.manifests.kfp_pods import LABELS, driver_pod
from tests.manifests.rendering import Json, composed


@pytest.fixture(scope="module")
def namespace(server: Server, new_namespace: Callable[[str], str]) -> str:
    """A namespace with the limits of the base and GPUs."""
    name = new_namespace("ratchet-limits")
    server.apply_all(composed("nvidia-gpu", namespace=name))
    return name


def pod(namespace: str, resources: Json | None = None, name: str = "pod") -> Json:
    """Return a pod that Pod Security admits, of one container besides Argo's."""
    spec = driver_pod()
    for container in spec["containers"]:
        container["image"] = "registry.example/image:1"
    if resources is not None:
        spec["containers"][0]["resources"] = resources
    metadata = {"name": name, "namespace": namespace, "labels": LABELS}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_a_container_that_says_nothing_gets_what_the_quota_can_count(
    server: Server, namespace: str
) -> None:
    answer = server.create(pod(namespace))
    assert answer.status == 201, answer.message
    for container in answer.document["spec"]["containers"]:
        assert container["resources"]["requests"] == {"cpu": "100m", "memory": "256Mi"}
        assert container["resources"]["limits"] == {"memory": "2Gi"}


@pytest.mark.parametrize(
    ("resources", "quota"),
    [
        ({"requests": {"cpu": "64"}}, "requests.cpu"),
        (
            {"requests": {"memory": "256Gi"}, "limits": {"memory": "256Gi"}},
            "requests.memory",
        ),
        ({"limits": {"memory": "511Gi"}}, "limits.memory"),
        ({"limits": {"nvidia.com/gpu": "9"}}, "requests.nvidia.com/gpu"),
        ({"limits": {"amd.com/gpu": "1"}}, "requests.amd.com/gpu"),
    ],
)
def test_more_than_the_quota_is_refused(
    resources: Json, quota: str, server: Server, namespace: str
) -> None:
    answer = server.create(pod(namespace, resources))
    assert answer.status == 403
    assert "exceeded quota: ratchet" in answer.message
    assert quota in answer.message


def test_eight_gpus_are_let_in(server: Server, namespace: str) -> None:
    answer = server.create(pod(namespace, {"limits": {"nvidia.com/gpu": "8"}}))
    assert answer.status == 201, answer.message


@pytest.mark.parametrize("kind", ["LoadBalancer", "NodePort"])
def test_no_service_leaves_the_cluster(
    kind: str, server: Server, namespace: str
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "open", "namespace": namespace},
        "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]},
    }
    answer = server.create(service)
    assert answer.status == 403
    assert "exceeded quota" in answer.message


def test_a_claim_larger_than_the_limit_is_refused(
    server: Server, namespace: str
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1025Gi"}},
        },
    }
    answer = server.create(claim)
    assert answer.status == 403
    assert "maximum storage usage per PersistentVolumeClaim is 1Ti" in answer.message
