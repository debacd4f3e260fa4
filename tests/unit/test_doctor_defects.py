"""Each defect of a cluster that would end a run is found before it begins, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.cli.package.profiles import load_profile
from tests.doubles.kubernetes_api import KubernetesApi
from tests.unit.doctoring import (
    NAMESPACE,
    TEST_IMAGES,
    bad,
    by_check,
    cluster,
    cluster_queue,
    limit_range,
    node,
    put,
    quota,
    remove,
    sound,
    trainer_schema,
)


def _without(path: str) -> Any:
    def change(api: KubernetesApi) -> None:
        del api.objects[path]

    return change


def _trainer_of_old(api: KubernetesApi) -> None:
    del api.objects["/apis/trainer.kubeflow.org/v1alpha1"]
    api.objects["/apis/trainer.kubeflow.org"] = {"versions": [{"version": "v2"}]}


DEFECTS: dict[str, tuple[Any, str, str, str]] = {
    "an old Kubernetes": (
        put("/version", {"gitVersion": "v1.29.4+k3s1"}),
        "kubernetes",
        "v1.29.4",
        "1.30",
    ),
    "no namespace": (
        remove(f"/namespaces/{NAMESPACE}"),
        "namespace",
        "no namespace ml",
        "kubectl apply -k",
    ),
    "no Kubeflow Pipelines": (
        remove("/apis/argoproj.io/v1alpha1"),
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
        remove("/ratchet-deepspeed"),
        "trainingruntime ratchet-deepspeed",
        "is not in namespace ml",
        "kubectl apply -k",
    ),
    "no Kueue": (
        remove("kueue.x-k8s.io/v1beta2"),
        "kind localqueues",
        "serves no localqueues",
        "Kueue",
    ),
    "no queue": (
        remove("localqueues/ratchet"),
        "localqueue ratchet",
        "is not in namespace ml",
        "nodes.queue",
    ),
    "no account": (
        remove("/ratchet-run"),
        "serviceaccount ratchet-run",
        "is not in namespace ml",
        "kubectl apply -k",
    ),
    "no secret": (
        remove("/ratchet-store-credentials"),
        "secret ratchet-store-credentials",
        "is not in namespace ml",
        "kubectl -n ml create secret generic ratchet-store-credentials",
    ),
    "no config map": (
        remove("/configmaps/ratchet-store"),
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
        put("/nodes", {"items": [node(gpus=4), node(gpus=4), node(gpus=0)]}),
        "GPUs of the nodes",
        "no node has 8 of nvidia.com/gpu, at most 4",
        "smaller profile",
    ),
    "a taint": (
        put(
            "/nodes",
            {
                "items": [
                    node(
                        gpus=8,
                        taints=[{"key": "team", "value": "x", "effect": "NoExecute"}],
                    ),
                    node(gpus=0),
                ]
            },
        ),
        "GPUs of the nodes",
        "at most 0",
        "tolerations",
    ),
    "a cordoned node": (
        put("/nodes", {"items": [node(gpus=8, unschedulable=True), node(gpus=0)]}),
        "GPUs of the nodes",
        "at most 0",
        "taints",
    ),
    "a Trainer without a field that we set": (
        put(
            "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1",
            trainer_schema("podSpecOverrides"),
        ),
        "trainer",
        "no field spec.runtimePatches",
        "Trainer 2.3",
    ),
    "a queue for one node": (
        put("/clusterqueues/ratchet", cluster_queue(gpus="8")),
        "room in queue ratchet",
        "has 8 of nvidia.com/gpu, less than the 16 of nvidia.com/gpu of 2 nodes of train",
        "nominalQuota",
    ),
    "a queue of a ClusterQueue that is not there": (
        remove("/clusterqueues/ratchet"),
        "room in queue ratchet",
        "there is no ClusterQueue ratchet",
        "components/kueue",
    ),
    "a quota for one node": (
        put(
            "/resourcequotas",
            {
                "items": [
                    {
                        "metadata": {"name": "q"},
                        "spec": {"hard": {"requests.cpu": "64"}},
                    }
                ]
            },
        ),
        "quota",
        "requests.cpu is 64, less than the 65 cores of 2 nodes of train and their step",
        "raise it",
    ),
    "a limit below a step": (
        put(
            "/limitranges",
            limit_range({"type": "Container", "max": {"memory": "48Gi"}}),
        ),
        "limits",
        "max.memory is 48Gi, generate asks for 64Gi",
        "raise it",
    ),
    "a default limit below a step": (
        put(
            "/limitranges",
            limit_range({"type": "Container", "default": {"cpu": "1500m"}}),
        ),
        "limits",
        "default.cpu is 1500m, prepare asks for 2",
        "raise it",
    ),
    "a limit of pods that no container has": (
        put("/limitranges", limit_range({"type": "Pod", "max": {"cpu": "64"}})),
        "limits",
        "max.cpu is set, and steps have no CPU limit",
        "raise it",
    ),
    "no GPUs in the quota": (
        put("/resourcequotas", {"items": [quota("0")]}),
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
