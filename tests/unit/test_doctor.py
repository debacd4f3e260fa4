"""Every defect that would end a run is found before it begins, named, with what to do; a sound
place is called so."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.cli.doctor.all_checks import Surroundings, all_checks
from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.cluster_checks import RUN_RIGHTS, TRAIN_RIGHTS, cluster_checks
from components.cli.doctor.findings import Finding, as_document
from components.cli.doctor.image_checks import image_checks
from components.cli.doctor.machine_checks import machine_checks, profile_checks
from components.cli.doctor.store_checks import store_checks
from components.cli.package.profiles import Profile, load_profile
from components.errors import UserError
from components.train.launch.cluster_api import LaunchPatience
from tests.conftest import BUCKET, READER_KEY, READER_SECRET, S3Server
from tests.doubles.kfp_api import KfpApi
from tests.doubles.kubernetes_api import KubernetesApi, failing
from tests.doubles.network import RudeServer
from tests.manifests.rights import KFP_USES, launcher_uses

ROOT = Path(__file__).resolve().parents[2]
TEST_IMAGES = ROOT / "tests" / "pipeline" / "images.toml"
NAMESPACE = "ml"
STOCK_DEFAULTS = """spec:
  ttlStrategy:
    secondsAfterCompletion: 3600
  templateDefaults:
    retryStrategy:
      limit: '2'
      retryPolicy: OnError
"""
"""`workflowDefaults` as Kubeflow Pipelines 2.17 installs them."""


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in findings}


def bad(findings: list[Finding]) -> list[str]:
    return [one.check for one in findings if one.status == "failed"]


# ---- the store ----


def store(uri: str, environment: dict[str, str], ahead_seconds: float = 0.0) -> list[Finding]:
    return list(store_checks(uri, environment, lambda: time.time() + ahead_seconds))


def test_a_sound_store_passes_every_check_and_keeps_one_small_object(s3_server: S3Server) -> None:
    uri = s3_server.new_uri()
    findings = store(uri, s3_server.environment)
    assert [(one.check, one.status) for one in findings] == [
        (f"store {name}", "ok")
        for name in (
            "endpoint",
            "credentials",
            "write",
            "write-once",
            "checksums",
            "multipart",
            "clock",
            "delete",
        )
    ]
    prefix = uri.removeprefix(f"s3://{BUCKET}/")
    left = s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert [one["Key"] for one in left] == [f"{prefix}/probe/write-once.json"]


def test_a_server_without_conditional_writes_and_checksums_is_found_out() -> None:
    rude = RudeServer()
    found = by_check(store("s3://bucket/prefix", rude.environment))
    rude.close()
    once, sums = found["store write-once"], found["store checksums"]
    assert (once.status, sums.status) == ("failed", "failed")
    assert once.found.startswith("16 of 16 writers")
    assert "conditional writes" in once.cure
    assert "wrong SHA-256" in sums.found
    assert found["store multipart"].status == "failed"


def test_checksums_that_the_user_switched_off_are_not_tried() -> None:
    rude = RudeServer()
    found = by_check(
        store("s3://bucket/p", {**rude.environment, "RATCHET_S3_REQUEST_CHECKSUM": "when_required"})
    )
    rude.close()
    assert found["store checksums"].status == "skipped"


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "store endpoint", "cannot be reached"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "store credentials", "refuses bucket"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "store credentials", "refuses bucket"),
        (
            {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET},
            "store write",
            "refuses bucket",
        ),
    ],
)
def test_a_store_that_cannot_be_used_ends_its_checks_with_the_reason(
    s3_server: S3Server, change: dict[str, str], check: str, said: str
) -> None:
    findings = store(s3_server.new_uri(), {**s3_server.environment, **change})
    assert bad(findings) == [check]
    last = by_check(findings)[check]
    assert said in last.found
    assert last.cure.startswith("check ")
    assert not any(secret in str(findings) for secret in ("that-no-message-may-show", "wrong"))


def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    findings = store("s3://no-such-bucket/p", s3_server.environment)
    assert "no bucket no-such-bucket" in by_check(findings)["store credentials"].found


@pytest.mark.parametrize(("ahead", "said"), [(900.0, "s ahead of"), (-400.0, "s behind")])
def test_a_clock_that_is_off_is_found(s3_server: S3Server, ahead: float, said: str) -> None:
    found = by_check(store(s3_server.new_uri(), s3_server.environment, ahead))["store clock"]
    assert found.status == "failed"
    assert said in found.found
    assert "NTP" in found.cure


def test_a_folder_is_no_store_for_pods(tmp_path: Path) -> None:
    [one] = store((tmp_path / "store").as_uri(), {})
    assert (one.status, "s3://" in one.cure) == ("warning", True)


# ---- the cluster ----


def sound(api: KubernetesApi, profile: Profile) -> None:
    """A cluster with everything that the manifests bring."""
    where = f"/api/v1/namespaces/{NAMESPACE}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.objects = {
        "/version": {"gitVersion": "v1.34.1"},
        where: {"metadata": {"name": NAMESPACE, "labels": labels}},
        f"{where}/serviceaccounts/ratchet-run": {"metadata": {"name": "ratchet-run"}},
        f"{where}/secrets/ratchet-store-credentials": {
            "metadata": {"name": "ratchet-store-credentials"}
        },
        f"{where}/configmaps/ratchet-store": {"metadata": {}, "data": {"AWS_REGION": "us-east-1"}},
        f"{where}/resourcequotas": {"items": [quota("16")]},
        f"{where}/limitranges": {"items": []},
        "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap": {
            "data": {"workflowDefaults": STOCK_DEFAULTS}
        },
        "/apis/argoproj.io": {"versions": [{"version": "v1alpha1"}]},
        "/apis/argoproj.io/v1alpha1": {
            "resources": [{"name": "workflows"}, {"name": "workflowtaskresults"}]
        },
        "/apis/trainer.kubeflow.org": {"versions": [{"version": "v1alpha1"}]},
        "/apis/trainer.kubeflow.org/v1alpha1": {
            "resources": [{"name": "trainjobs"}, {"name": "trainingruntimes"}]
        },
        f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainingruntimes/ratchet-deepspeed": {
            "spec": {}
        },
        "/apis/kueue.x-k8s.io": {"versions": [{"version": "v1beta2"}]},
        "/apis/kueue.x-k8s.io/v1beta2": {"resources": [{"name": "localqueues"}]},
        f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{NAMESPACE}/localqueues/ratchet": {
            "spec": {"clusterQueue": "ratchet"}
        },
        "/apis/kueue.x-k8s.io/v1beta2/clusterqueues/ratchet": cluster_queue(gpus="16"),
        "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1": trainer_schema("runtimePatches"),
        "/api/v1/nodes": {"items": [node(gpus=8), node(gpus=0)]},
    }
    assert profile.config_map == "ratchet-store"


def node(gpus: int, **spec: Any) -> dict[str, Any]:
    taints = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}] if gpus else []
    return {
        "metadata": {"name": "n", "labels": {"zone": "a"}},
        "spec": {"taints": taints, **spec},
        "status": {"allocatable": {"cpu": "64", "memory": "263856Mi", "nvidia.com/gpu": str(gpus)}},
    }


def small_node() -> dict[str, Any]:
    """A node of minikube."""
    allocatable = {"cpu": "3920m", "memory": "8025640Ki"}
    return {"metadata": {"name": "minikube"}, "spec": {}, "status": {"allocatable": allocatable}}


def cluster_queue(gpus: str) -> dict[str, Any]:
    quotas = {"cpu": "96", "memory": "512Gi", "nvidia.com/gpu": gpus}
    resources = [{"name": name, "nominalQuota": value} for name, value in quotas.items()]
    return {"spec": {"resourceGroups": [{"flavors": [{"name": "f", "resources": resources}]}]}}


def trainer_schema(*fields: str) -> dict[str, Any]:
    """The part of the server's OpenAPI document that names the fields of a TrainJob."""
    names: dict[str, Any] = {name: {} for name in fields}
    schema = {"properties": {"spec": {"properties": names}}}
    return {"components": {"schemas": {"org.kubeflow.trainer.v1alpha1.TrainJob": schema}}}


def quota(gpus: str) -> dict[str, Any]:
    return {"metadata": {"name": "ratchet"}, "spec": {"hard": {"requests.nvidia.com/gpu": gpus}}}


def limit_range(*limits: dict[str, Any]) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": "l"}, "spec": {"limits": limits}}]}


def server(api: KubernetesApi, tmp_path: Path) -> ApiServer:
    file = api.kubeconfig(tmp_path / "kubeconfig")
    return ApiServer.from_environment(
        {"KUBECONFIG": str(file)}, LaunchPatience(connect_seconds=2, answer_seconds=5)
    )


def cluster(
    api: KubernetesApi, tmp_path: Path, name: str = "multi-node", account: str = "ratchet-run"
) -> list[Finding]:
    profile = load_profile(name, TEST_IMAGES)
    return list(cluster_checks(server(api, tmp_path), NAMESPACE, profile, account, as_account=True))


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
    assert {(group, resource, verb, name) for verb, group, resource, name in RUN_RIGHTS} == KFP_USES
    assert {
        (group, resource, verb, name) for verb, group, resource, name in TRAIN_RIGHTS
    } == launcher_uses()


def _remove(path: str) -> Any:
    def change(api: KubernetesApi) -> None:
        [key] = [key for key in api.objects if key.endswith(path)]
        del api.objects[key]

    return change


def _without(path: str) -> Any:
    def change(api: KubernetesApi) -> None:
        del api.objects[path]

    return change


def _put(path: str, document: dict[str, Any]) -> Any:
    def change(api: KubernetesApi) -> None:
        [key] = [key for key in api.objects if key.endswith(path)]
        api.objects[key] = document

    return change


def _trainer_of_old(api: KubernetesApi) -> None:
    del api.objects["/apis/trainer.kubeflow.org/v1alpha1"]
    api.objects["/apis/trainer.kubeflow.org"] = {"versions": [{"version": "v2"}]}


DEFECTS: dict[str, tuple[Any, str, str, str]] = {
    "an old Kubernetes": (
        _put("/version", {"gitVersion": "v1.29.4+k3s1"}),
        "kubernetes",
        "v1.29.4",
        "1.30",
    ),
    "no namespace": (
        _remove(f"/namespaces/{NAMESPACE}"),
        "namespace",
        "no namespace ml",
        "kubectl apply -k",
    ),
    "no Kubeflow Pipelines": (
        _remove("/apis/argoproj.io/v1alpha1"),
        "kind workflows",
        "serves no workflows",
        "install Kubeflow Pipelines",
    ),
    "no Trainer": (
        _without("/apis/trainer.kubeflow.org/v1alpha1"),
        "kind trainjobs",
        "serves no trainjobs",
        "Trainer 2.3",
    ),
    "another Trainer": (_trainer_of_old, "kind trainjobs", "but v2", "Trainer 2.3"),
    "no runtime": (
        _remove("/ratchet-deepspeed"),
        "trainingruntime ratchet-deepspeed",
        "is not in namespace ml",
        "kubectl apply -k",
    ),
    "no Kueue": (
        _remove("kueue.x-k8s.io/v1beta2"),
        "kind localqueues",
        "serves no localqueues",
        "Kueue",
    ),
    "no queue": (
        _remove("localqueues/ratchet"),
        "localqueue ratchet",
        "is not in namespace ml",
        "nodes.queue",
    ),
    "no account": (
        _remove("/ratchet-run"),
        "serviceaccount ratchet-run",
        "is not in namespace ml",
        "kubectl apply -k",
    ),
    "no secret": (
        _remove("/ratchet-store-credentials"),
        "secret ratchet-store-credentials",
        "is not in namespace ml",
        "kubectl -n ml create secret generic ratchet-store-credentials",
    ),
    "no config map": (
        _remove("/ratchet-store"),
        "configmap ratchet-store",
        "is not in namespace ml",
        "kubectl apply",
    ),
    "no right": (
        lambda api: api.denied.update({("create", "trainjobs"), ("get", "pods/log")}),
        "rights",
        "ratchet-run may not: create trainjobs.trainer.kubeflow.org, get pods/log",
        "accounts.yaml",
    ),
    "too few GPUs": (
        _put("/nodes", {"items": [node(gpus=4), node(gpus=4), node(gpus=0)]}),
        "GPUs of the nodes",
        "no node has 8 of nvidia.com/gpu, at most 4",
        "smaller profile",
    ),
    "a taint": (
        _put(
            "/nodes",
            {
                "items": [
                    node(gpus=8, taints=[{"key": "team", "value": "x", "effect": "NoExecute"}]),
                    node(gpus=0),
                ]
            },
        ),
        "GPUs of the nodes",
        "at most 0",
        "tolerations",
    ),
    "a cordoned node": (
        _put("/nodes", {"items": [node(gpus=8, unschedulable=True), node(gpus=0)]}),
        "GPUs of the nodes",
        "at most 0",
        "taints",
    ),
    "a Trainer without a field that we set": (
        _put("/openapi/v3/apis/trainer.kubeflow.org/v1alpha1", trainer_schema("podSpecOverrides")),
        "trainer",
        "no field spec.runtimePatches",
        "Trainer 2.3",
    ),
    "a queue for one node": (
        _put("/clusterqueues/ratchet", cluster_queue(gpus="8")),
        "room in queue ratchet",
        "has 8 of nvidia.com/gpu, less than the 16 of nvidia.com/gpu of 2 nodes of train",
        "nominalQuota",
    ),
    "a queue of a ClusterQueue that is not there": (
        _remove("/clusterqueues/ratchet"),
        "room in queue ratchet",
        "there is no ClusterQueue ratchet",
        "components/kueue",
    ),
    "a quota for one node": (
        _put(
            "/resourcequotas",
            {"items": [{"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "64"}}}]},
        ),
        "quota",
        "requests.cpu is 64, less than the 65 cores of 2 nodes of train and their step",
        "raise it",
    ),
    "a limit below a step": (
        _put("/limitranges", limit_range({"type": "Container", "max": {"memory": "48Gi"}})),
        "limits",
        "max.memory is 48Gi, generate asks for 64Gi",
        "raise it",
    ),
    "a default limit below a step": (
        _put("/limitranges", limit_range({"type": "Container", "default": {"cpu": "1500m"}})),
        "limits",
        "default.cpu is 1500m, prepare asks for 2",
        "raise it",
    ),
    "a limit of pods that no container has": (
        _put("/limitranges", limit_range({"type": "Pod", "max": {"cpu": "64"}})),
        "limits",
        "max.cpu is set, and steps have no CPU limit",
        "raise it",
    ),
    "no GPUs in the quota": (
        _put("/resourcequotas", {"items": [quota("0")]}),
        "quota",
        "requests.nvidia.com/gpu is 0, less than the 16 of nvidia.com/gpu of 2 nodes of train",
        "nvidia-gpu",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_of_a_cluster_is_named_with_what_to_do(
    api: KubernetesApi, tmp_path: Path, name: str
) -> None:
    change, check, said, cure = DEFECTS[name]
    sound(api, load_profile("multi-node", TEST_IMAGES))
    change(api)
    findings = cluster(api, tmp_path)
    assert bad(findings) == [check]
    one = by_check(findings)[check]
    assert said in one.found
    assert cure in one.cure


def test_a_limit_of_cores_that_the_server_gives_to_every_step_refuses_none(
    api: KubernetesApi, tmp_path: Path
) -> None:
    """A container without a limit gets the default one, and the maximum where there is no default."""
    sound(api, load_profile("multi-node", TEST_IMAGES))
    limits = ({"type": "Container", "max": {"cpu": "8"}}, {"type": "Pod", "max": {"cpu": "64"}})
    _put("/limitranges", limit_range(*limits))(api)
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


def test_quotas_in_any_unit_of_kubernetes_are_read(api: KubernetesApi, tmp_path: Path) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    hard = {"requests.cpu": "64e0", "requests.memory": "9E", "example.com/x": "100u"}
    _put("/resourcequotas", {"items": [{"metadata": {"name": "q"}, "spec": {"hard": hard}}]})(api)
    assert bad(cluster(api, tmp_path, "cpu")) == []


def test_pods_with_a_role_need_no_secret(api: KubernetesApi, tmp_path: Path) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    _remove("/ratchet-store-credentials")(api)
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/ratchet"}
    _put("/ratchet-run", {"metadata": {"annotations": annotations}})(api)
    findings = cluster(api, tmp_path, "cpu")
    assert bad(findings) == []
    assert "role/ratchet" in by_check(findings)["secret ratchet-store-credentials"].found


def test_the_values_of_a_secret_are_never_asked_for(api: KubernetesApi, tmp_path: Path) -> None:
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


def test_a_namespace_that_lets_any_pod_in_is_a_warning(api: KubernetesApi, tmp_path: Path) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    _put(f"/namespaces/{NAMESPACE}", {"metadata": {"labels": {}}})(api)
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
    assert by_check(cluster(api, tmp_path, "cpu"))["room on the nodes"].status == "warning"


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        (STOCK_DEFAULTS, "OnError: deleted pods alone"),
        ("", "OnFailure: pods that failed"),
        ("spec: {templateDefaults: }", "OnFailure: pods that failed"),
        ("spec: {templateDefaults: {retryStrategy: {retryPolicy: Always}}}", "Always: every pod"),
    ],
)
def test_what_the_cluster_tries_again_is_said_with_the_patch(
    api: KubernetesApi, tmp_path: Path, defaults: str, said: str
) -> None:
    sound(api, load_profile("cpu", TEST_IMAGES))
    _put("/workflow-controller-configmap", {"data": {"workflowDefaults": defaults}})(api)
    found = by_check(cluster(api, tmp_path, "cpu"))["retries of lost pods"]
    assert found.status == "ok"
    assert said in found.found
    if "Always" in said:
        assert found.cure == ""
        return
    words = shlex.split(found.cure.partition("): ")[2])
    assert words[:4] == ["kubectl", "-n", "kubeflow", "patch"]
    patched = json.loads(json.loads(words[-1])["data"]["workflowDefaults"])
    assert patched["spec"]["templateDefaults"]["retryStrategy"]["retryPolicy"] == "Always"
    if defaults == STOCK_DEFAULTS:
        assert patched["spec"]["ttlStrategy"] == {"secondsAfterCompletion": 3600}


def everything(
    tmp_path: Path, namespace: str = NAMESPACE, **environment: str
) -> dict[str, Finding]:
    profile = load_profile("cpu", TEST_IMAGES)
    surroundings = Surroundings(
        store="",
        endpoint="",
        namespace=namespace,
        account="ratchet-run",
        token_file=None,
        environment={"HOME": str(tmp_path), **environment},
    )
    found = all_checks(profile, surroundings, local_step="", clock=time.time)
    return by_check(found)


def test_an_api_server_that_cannot_be_used_is_one_finding(
    api: KubernetesApi, tmp_path: Path
) -> None:
    gone = api.kubeconfig(tmp_path / "gone", "http://127.0.0.1:9")
    assert "cannot be reached" in everything(tmp_path, KUBECONFIG=str(gone))["kubernetes"].found
    there = api.kubeconfig(tmp_path / "there")
    api.token = "another"
    one = everything(tmp_path, KUBECONFIG=str(there))["kubernetes"]
    assert (one.status, "401" in one.found, "renew" in one.cure) == ("failed", True, True)
    api.token, api.always = None, failing(503)
    assert everything(tmp_path, KUBECONFIG=str(there))["kubernetes"].status == "failed"
    (tmp_path / "empty").write_text("")
    assert everything(tmp_path, KUBECONFIG=str(tmp_path / "empty"))["kubernetes"].status == "failed"


def test_what_is_not_configured_is_skipped_and_says_how(tmp_path: Path) -> None:
    found = everything(tmp_path)
    assert {
        name: found[name].status for name in ("store", "kubernetes", "pipelines")
    } == dict.fromkeys(("store", "kubernetes", "pipelines"), "skipped")
    assert all(one.cure for one in found.values() if one.status != "ok")


def test_an_old_version_of_pipelines_and_one_without_namespaces_are_named(
    tmp_path: Path,
) -> None:
    kfp = KfpApi()
    kfp.health = {"multi_user": True, "tag_name": "2.15.0"}
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint)["pipelines"]
    assert (found.status, "2.15.0 is older than 2.17" in found.found) == ("failed", True)
    kfp.health = {"multi_user": False, "tag_name": "2.17.0"}
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint)["pipelines"]
    assert (found.status, "has one user" in found.found) == ("failed", True)
    kfp.close()


def test_runs_of_a_single_user_pipelines_are_looked_at_in_its_own_namespace(
    api: KubernetesApi, tmp_path: Path
) -> None:
    kfp = KfpApi()
    kfp.health = {"multi_user": False, "tag_name": "2.17.0"}
    sound(api, load_profile("cpu", TEST_IMAGES))
    api.objects["/api/v1/namespaces/kubeflow"] = {"metadata": {"name": "kubeflow"}}
    environment = {"KF_PIPELINES_ENDPOINT": kfp.endpoint}
    environment["KUBECONFIG"] = str(api.kubeconfig(tmp_path / "kubeconfig"))
    found = everything(tmp_path, "", **environment)
    kfp.close()
    assert found["namespace"].found == "kubeflow is that of Kubeflow Pipelines itself"
    account = found["serviceaccount ratchet-run"]
    assert (account.status, account.found) == ("failed", "is not in namespace kubeflow")
    assert found["pipelines"].status == "ok"


def test_the_api_of_pipelines_is_tried_with_its_token(tmp_path: Path) -> None:
    kfp = KfpApi()
    kfp.tokens = {"good"}
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint, KF_PIPELINES_TOKEN="good")[
        "pipelines"
    ]
    assert (found.status, "2.17.0" in found.found) == ("ok", True)
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint, KF_PIPELINES_TOKEN="bad-one")[
        "pipelines"
    ]
    assert (found.status, "refuses the token" in found.found, "bad-one" in str(found)) == (
        "failed",
        True,
        False,
    )
    kfp.close()
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT="http://127.0.0.1:9")["pipelines"]
    assert (found.status, "check the address" in found.cure) == ("failed", True)


# ---- images ----

DIGEST = f"sha256:{'a' * 64}"
LOGIN = base64.b64encode(b"me:a-password").decode()


class Registry:
    """A registry with one image, and a token server, on 127.0.0.1."""

    def __init__(self) -> None:
        self.needs = ""
        """Login that its token server wants; empty: anybody gets a token."""
        self.private = False
        self.served = DIGEST
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                right = self.headers.get("Authorization", "")
                if self.path.startswith("/token"):
                    granted = not registry.needs or right == f"Basic {registry.needs}"
                    return self.answer(
                        200 if granted else 401,
                        json.dumps({"token": "t"} if granted else {}).encode(),
                    )
                if registry.private and right != "Bearer t":
                    realm = f'Bearer realm="{registry.url}/token",service="r",scope="repository:team/cpu:pull"'
                    return self.answer(401, WWW_Authenticate=realm)
                if self.path != f"/v2/team/cpu/manifests/{DIGEST}":
                    return self.answer(404)
                return self.answer(200, Docker_Content_Digest=registry.served)

            do_HEAD = do_GET

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    one = Registry()
    yield one
    one.close()


def image(reference: str, **environment: str) -> Finding:
    [one] = image_checks({"decide": reference, "report": reference}, environment)
    return one


def test_an_image_is_looked_up_by_its_digest(registry: Registry) -> None:
    assert image(f"{registry.host}/team/cpu@{DIGEST}").status == "ok"
    registry.private = True
    assert image(f"{registry.host}/team/cpu@{DIGEST}").status == "ok"


def test_a_digest_that_the_registry_does_not_have_is_named(registry: Registry) -> None:
    other = f"sha256:{'b' * 64}"
    one = image(f"{registry.host}/team/cpu@{other}")
    assert (one.status, "has no team/cpu@sha256:bbb" in one.found, "push it" in one.cure) == (
        "failed",
        True,
        True,
    )
    registry.served = other
    assert image(f"{registry.host}/team/cpu@{DIGEST}").status == "failed"


def test_a_login_is_used_and_a_missing_one_is_said(registry: Registry, tmp_path: Path) -> None:
    registry.private, registry.needs = True, LOGIN
    one = image(f"{registry.host}/team/cpu@{DIGEST}", HOME=str(tmp_path))
    assert (one.status, "pull_secrets" in one.cure) == ("warning", True)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": LOGIN}}}))
    assert image(f"{registry.host}/team/cpu@{DIGEST}", DOCKER_CONFIG=str(tmp_path)).status == "ok"


def test_images_that_cannot_be_looked_up_are_said() -> None:
    assert image(f"127.0.0.1:9/team/cpu@{DIGEST}").status == "failed"
    assert image("127.0.0.1:9/team/cpu@sha256:12").found.endswith("is no digest")
    one = image("ratchet/cpu:dev")
    assert (one.status, "decide, report" in one.found, "digest" in one.cure) == (
        "warning",
        True,
        True,
    )


# ---- this machine, and the verb ----


def test_a_pod_without_shared_memory_gpu_or_scratch_is_found(tmp_path: Path) -> None:
    profile = load_profile("gpu-8", TEST_IMAGES)
    (tmp_path / "dev").mkdir()
    found = by_check(list(machine_checks(profile, "train", tmp_path / "dev", tmp_path / "none")))
    assert {one.status for one in found.values()} == {"failed"}
    assert "emptyDir in memory" in found["shared memory here"].cure
    assert "0 of 8" in found["GPUs here"].found
    for number in range(8):
        (tmp_path / "dev" / f"nvidia{number}").touch()
    (tmp_path / "dev" / "shm").mkdir()
    found = by_check(list(machine_checks(profile, "generate", tmp_path / "dev", tmp_path)))
    assert (found["GPUs here"].status, found["scratch here"].status) == ("ok", "ok")


def test_shared_memory_that_does_not_fit_into_a_steps_memory_is_found(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("default: {memory: 2Gi, shared_memory: 4Gi}")
    [one] = profile_checks(load_profile(str(tmp_path / "p.yaml"), TEST_IMAGES))
    assert (one.status, "more memory" in one.cure) == ("failed", True)


@pytest.mark.process
def test_the_verb_tells_all_and_ends_with_1_where_something_failed(
    s3_server: S3Server, tmp_path: Path
) -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RATCHET_", "KF_", "KUBE"))
    }
    environment = {
        **kept,
        **s3_server.environment,
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, str(ROOT / "pipeline.py"), "doctor", "--store"]
    done = subprocess.run(
        [*command, s3_server.new_uri(), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["failed"], told["exit_code"]) == (0, 0, 0), done.stderr
    assert {"store write-once", "kubernetes", "pipelines"} <= {
        one["check"] for one in told["checks"]
    }
    done = subprocess.run(
        [*command, "s3://no-such-bucket/p"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "failed   store credentials" in done.stdout
    assert "→ make it, or correct the store's URI" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_document_counts_what_was_found() -> None:
    document = as_document(
        [Finding("a", "ok", "x"), Finding("b", "failed", "y", "z"), Finding("c", "skipped", "w")]
    )
    assert (document["ok"], document["failed"], document["skipped"], document["warning"]) == (
        1,
        1,
        1,
        0,
    )
    assert (document["exit_code"], document["checks"][1]["cure"]) == (1, "z")


def test_a_wrong_profile_is_an_error_of_usage() -> None:
    with pytest.raises(UserError):
        load_profile("none-such")
