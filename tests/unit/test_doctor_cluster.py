"""A sound cluster passes every check, and what cannot be looked at is no failure."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from components.cli.doctor.cluster_checks import RUN_RIGHTS, TRAIN_RIGHTS
from components.cli.package.profiles import load_profile
from components.errors import UserError
from tests.doubles.kubernetes_api import KubernetesApi
from tests.manifests.rights import KFP_USES, launcher_uses
from tests.unit.doctoring import (
    NAMESPACE,
    ROOT,
    STOCK_DEFAULTS,
    TEST_IMAGES,
    bad,
    by_check,
    cluster,
    limit_range,
    put,
    remove,
    small_node,
    sound,
)


@pytest.mark.parametrize("name", ["cpu", "gpu-1", "gpu-8", "multi-node"])
def test_a_cluster_with_the_manifests_passes_every_check(
    api: KubernetesApi, tmp_path: Path, name: str
) -> None:
    sound(api, load_profile(name, TEST_IMAGES))
    findings = cluster(api, tmp_path, name)
    assert {one.status for one in findings} == {"ok"}, findings
    assert set(api.impersonated) == {f"system:serviceaccount:{NAMESPACE}:ratchet-run"}
    assert ("kind trainjobs" in by_check(findings)) == (name == "multi-node")
    assert ("GPUs of the nodes" in by_check(findings)) == (name != "cpu")


def test_the_rights_that_are_asked_for_are_those_the_manifests_grant() -> None:
    assert {
        (group, resource, verb, name) for verb, group, resource, name in RUN_RIGHTS
    } == KFP_USES
    assert {
        (group, resource, verb, name) for verb, group, resource, name in TRAIN_RIGHTS
    } == launcher_uses()


def test_a_limit_of_cores_that_the_server_gives_to_every_step_refuses_none(
    api: KubernetesApi, tmp_path: Path
) -> None:
    """A container without a limit gets the default one, and the maximum where there is no default."""
    sound(api, load_profile("multi-node", TEST_IMAGES))
    limits = (
        {"type": "Container", "max": {"cpu": "8"}},
        {"type": "Pod", "max": {"cpu": "64"}},
    )
    put("/limitranges", limit_range(*limits))(api)
    assert bad(cluster(api, tmp_path)) == []


def test_nodes_of_a_profile_of_ones_own_need_not_say_their_memory(
    api: KubernetesApi, tmp_path: Path
) -> None:
    text = (ROOT / "manifests" / "profiles" / "multi-node.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("memory: 200Gi, ", ""))
    sound(api, load_profile(str(own), TEST_IMAGES))
    assert bad(cluster(api, tmp_path, str(own))) == []
    own.write_text(text.replace("memory: 200Gi, ", "memory: 200 GB, "))
    with pytest.raises(UserError, match=r"nodes\.resources\.memory"):
        load_profile(str(own), TEST_IMAGES)


def test_quotas_in_any_unit_of_kubernetes_are_read(
    api: KubernetesApi, tmp_path: Path
) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    hard = {"requests.cpu": "64e0", "requests.memory": "9E", "example.com/x": "100u"}
    put(
        "/resourcequotas",
        {"items": [{"metadata": {"name": "q"}, "spec": {"hard": hard}}]},
    )(api)
    assert bad(cluster(api, tmp_path, "cpu")) == []


def test_pods_with_a_role_need_no_secret(api: KubernetesApi, tmp_path: Path) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    remove("/ratchet-store-credentials")(api)
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/ratchet"}
    put("/ratchet-run", {"metadata": {"annotations": annotations}})(api)
    findings = cluster(api, tmp_path, "cpu")
    assert bad(findings) == []
    assert (
        "role/ratchet" in by_check(findings)["secret ratchet-store-credentials"].found
    )


def test_classes_of_a_profile_and_what_sets_them_are_looked_for(
    api: KubernetesApi, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{cpu_runtime_class: gvisor, priority_class: steps}")
    sound(api, load_profile(str(file), TEST_IMAGES))
    checks = {
        "runtimeclass gvisor": "/apis/node.k8s.io/v1/runtimeclasses/gvisor",
        "priorityclass steps": "/apis/scheduling.k8s.io/v1/priorityclasses/steps",
        "what gives steps their classes": (
            "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/ratchet-step-classes"
        ),
    }
    found = by_check(cluster(api, tmp_path, str(file)))
    assert [found[check].status for check in checks] == ["failed"] * 3
    assert "component step-classes" in found["what gives steps their classes"].cure
    for path in checks.values():
        api.objects[path] = {"metadata": {}}
    assert bad(cluster(api, tmp_path, str(file))) == []


def test_the_values_of_a_secret_are_never_asked_for(
    api: KubernetesApi, tmp_path: Path
) -> None:
    accepted: list[str] = []

    def look(handler: Any, carry_out: Any) -> None:
        if "/secrets/" in handler.path:
            accepted.append(handler.headers["Accept"])
        handler.answer(*carry_out())

    sound(api, load_profile("cpu", TEST_IMAGES))
    api.always = look
    cluster(api, tmp_path, "cpu")
    assert accepted == ["application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"]


def test_what_may_not_be_looked_at_is_said_and_is_no_failure(
    api: KubernetesApi, tmp_path: Path
) -> None:
    sound(api, load_profile("gpu-1", TEST_IMAGES))
    api.hidden = {
        "/api/v1/nodes",
        f"/api/v1/namespaces/{NAMESPACE}/secrets/ratchet-store-credentials",
    }
    api.may_impersonate = False
    findings = cluster(api, tmp_path, "gpu-1")
    assert bad(findings) == []
    skipped = [one.check for one in findings if one.status == "skipped"]
    assert skipped == [
        "secret ratchet-store-credentials",
        "rights",
        "room on the nodes",
        "GPUs of the nodes",
    ]
    assert "in a pod of account ratchet-run" in by_check(findings)["rights"].cure


def test_a_namespace_that_lets_any_pod_in_is_a_warning(
    api: KubernetesApi, tmp_path: Path
) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    put(f"/namespaces/{NAMESPACE}", {"metadata": {"labels": {}}})(api)
    assert by_check(cluster(api, tmp_path, "cpu"))["namespace"].status == "warning"


def test_a_step_that_no_node_can_hold_is_named_with_what_the_nodes_have(
    api: KubernetesApi, tmp_path: Path
) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    api.objects["/api/v1/nodes"] = {"items": [small_node()]}
    found = by_check(cluster(api, tmp_path, "cpu"))["room on the nodes"]
    assert found.status == "failed"
    assert "prepare: 1 cores and 8 GiB" in found.found
    assert "at most 3.92 cores and 7.654 GiB" in found.found
    assert "--profile small" in found.cure
    fits = by_check(cluster(api, tmp_path, "small"))["room on the nodes"]
    assert (fits.status, "train: 1 cores, 4 GiB" in fits.found) == ("ok", True)
    # An autoscaler may bring nodes of another size: a deployment must not stop at that.
    api.objects["/apis/karpenter.sh"] = {"versions": []}
    assert (
        by_check(cluster(api, tmp_path, "cpu"))["room on the nodes"].status == "warning"
    )


@pytest.mark.parametrize(
    ("variables", "said", "is_told_more"),
    [
        ([], "after 10s, its default", True),
        ([{"name": "LEADER", "value": "x"}], "after 10s, its default", True),
        ([{"name": "DEFAULT_REQUEUE_TIME", "value": "2s"}], "after 2s", False),
        (
            [{"name": "DEFAULT_REQUEUE_TIME", "valueFrom": {}}],
            "after what its ConfigMap says",
            False,
        ),
    ],
)
def test_the_pause_between_two_pods_is_said_with_the_command_that_shortens_it(
    api: KubernetesApi,
    tmp_path: Path,
    variables: list[dict[str, object]],
    said: str,
    is_told_more: bool,
) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    container = {"name": "controller", "env": variables}
    deployment = {"spec": {"template": {"spec": {"containers": [container]}}}}
    put("/deployments/workflow-controller", deployment)(api)
    found = by_check(cluster(api, tmp_path, "cpu"))["pause between pods"]
    assert (found.status, found.found) == ("ok", f"Argo looks at a run again {said}")
    cure = "kubectl -n kubeflow set env deployment/workflow-controller "
    assert (cure in found.cure) == is_told_more


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        (STOCK_DEFAULTS, "OnError: deleted pods alone"),
        ("", "OnFailure: pods that failed"),
        ("spec: {templateDefaults: }", "OnFailure: pods that failed"),
        (
            "spec: {templateDefaults: {retryStrategy: {retryPolicy: Always}}}",
            "Always: every pod",
        ),
    ],
)
def test_what_the_cluster_tries_again_is_said_with_the_patch(
    api: KubernetesApi, tmp_path: Path, defaults: str, said: str
) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    put("/workflow-controller-configmap", {"data": {"workflowDefaults": defaults}})(api)
    found = by_check(cluster(api, tmp_path, "cpu"))["retries of lost pods"]
    assert found.status == "ok"
    assert said in found.found
    if "Always" in said:
        assert found.cure == ""
        return
    words = shlex.split(found.cure.partition("): ")[2])
    assert words[:4] == ["kubectl", "-n", "kubeflow", "patch"]
    patched = json.loads(json.loads(words[-1])["data"]["workflowDefaults"])
    assert (
        patched["spec"]["templateDefaults"]["retryStrategy"]["retryPolicy"] == "Always"
    )
    if defaults == STOCK_DEFAULTS:
        assert patched["spec"]["ttlStrategy"] == {"secondsAfterCompletion": 3600}
