"""What `doctor` is tried on: a sound cluster, profiles, and findings by their check."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.cluster_checks import cluster_checks
from components.cli.doctor.findings import Finding
from components.cli.package.profiles import Profile, load_profile
from components.contracts.recipe import Recipe
from components.train.launch.cluster_api import LaunchPatience
from tests.doubles.kubernetes_api import KubernetesApi
from tests.manifests.rendering import composed, of_kind

ROOT = Path(__file__).resolve().parents[2]
TEST_IMAGES = ROOT / "tests" / "pipeline" / "images.toml"
NAMESPACE = "ml"
ADDRESSES = {
    "huggingface.co": ["18.64.8.1"],
    "api.openai.com": ["172.66.0.243"],
    "s3.us-east-1.amazonaws.com": ["52.216.10.10"],
    "judge.example": ["10.9.0.1"],
}
"""Names outside the cluster."""
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


def sound(
    api: KubernetesApi,
    profile: Profile,
    *components: str,
    patches: tuple[tuple[str, str], ...] = (),
) -> None:
    """A cluster with everything that the manifests bring.

    Args:
        api: The cluster.
        profile: Names the objects.
        components: Of the manifests, beside the store in the cluster.
        patches: Of the objects, as an overlay would have them.
    """
    where = f"/api/v1/namespaces/{NAMESPACE}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.objects = {
        "/version": {"gitVersion": "v1.34.1"},
        where: {"metadata": {"name": NAMESPACE, "labels": labels}},
        f"{where}/serviceaccounts/ratchet-run": {"metadata": {"name": "ratchet-run"}},
        f"{where}/secrets/ratchet-store-credentials": {
            "metadata": {"name": "ratchet-store-credentials"}
        },
        f"{where}/configmaps/ratchet-store": {
            "metadata": {},
            "data": {"AWS_REGION": "us-east-1"},
        },
        f"{where}/resourcequotas": {"items": [quota("16")]},
        f"{where}/limitranges": {"items": []},
        "/apis/apps/v1/namespaces/kubeflow/deployments/workflow-controller": {
            "spec": {"template": {"spec": {"containers": [{"name": "controller"}]}}}
        },
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
        "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1": trainer_schema(
            "runtimePatches"
        ),
        "/api/v1/nodes": {"items": [node(gpus=8), node(gpus=0)]},
    }
    assert profile.config_map == "ratchet-store"
    manifests = composed(
        "object-store", *components, namespace=NAMESPACE, patches=patches
    )
    api.objects[
        f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
    ] = {"items": list(of_kind(manifests, "NetworkPolicy"))}
    for config_map in of_kind(manifests, "ConfigMap"):
        # Renderings are shared by all tests.
        api.objects[f"{where}/configmaps/ratchet-store"] = copy.deepcopy(config_map)
    for service in (
        service_of("kube-system", "kube-dns", {"k8s-app": "kube-dns"}, 53, 53, "UDP"),
        service_of(NAMESPACE, "ratchet-store", STORE_LABELS, 8333, "s3"),
        service_of("kubeflow", "ml-pipeline", {"app": "ml-pipeline"}, 8887, 8887),
        service_of("kubeflow", "minio-service", {"app": "seaweedfs"}, 9000, 8333),
    ):
        api.objects.update(service)
    api.objects[f"/api/v1/namespaces/{NAMESPACE}/pods"] = {"items": [STORE_POD]}
    api.objects["/api/v1/namespaces/default/services/kubernetes"] = {"spec": {}}
    api.objects["/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"] = {
        "items": [
            {"ports": [{"port": 6443}], "endpoints": [{"addresses": ["10.0.0.9"]}]}
        ]
    }


STORE_LABELS = {"app.kubernetes.io/name": "ratchet-store"}
STORE_POD = {
    "metadata": {"labels": {**STORE_LABELS, "apps.kubernetes.io/pod-index": "0"}},
    "spec": {"containers": [{"ports": [{"name": "s3", "containerPort": 8333}]}]},
    "status": {"podIP": "10.244.0.7"},
}


def service_of(
    namespace: str,
    name: str,
    selector: dict[str, str],
    port: int,
    target: int | str,
    protocol: str = "TCP",
) -> dict[str, Any]:
    """Path and document of a Service."""
    entry = {"port": port, "targetPort": target, "protocol": protocol}
    spec = {"selector": selector, "ports": [entry]}
    return {f"/api/v1/namespaces/{namespace}/services/{name}": {"spec": spec}}


def node(gpus: int, **spec: Any) -> dict[str, Any]:
    taints = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}] if gpus else []
    return {
        "metadata": {"name": "n", "labels": {"zone": "a"}},
        "spec": {"taints": taints, **spec},
        "status": {
            "allocatable": {
                "cpu": "64",
                "memory": "263856Mi",
                "nvidia.com/gpu": str(gpus),
            }
        },
    }


def cluster_queue(gpus: str) -> dict[str, Any]:
    quotas = {"cpu": "96", "memory": "512Gi", "nvidia.com/gpu": gpus}
    resources = [
        {"name": name, "nominalQuota": value} for name, value in quotas.items()
    ]
    return {
        "spec": {
            "resourceGroups": [{"flavors": [{"name": "f", "resources": resources}]}]
        }
    }


def trainer_schema(*fields: str) -> dict[str, Any]:
    """The part of the server's OpenAPI document that names the fields of a TrainJob."""
    names: dict[str, Any] = {name: {} for name in fields}
    schema = {"properties": {"spec": {"properties": names}}}
    return {
        "components": {"schemas": {"org.kubeflow.trainer.v1alpha1.TrainJob": schema}}
    }


def quota(gpus: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "ratchet"},
        "spec": {"hard": {"requests.nvidia.com/gpu": gpus}},
    }


def small_node() -> dict[str, Any]:
    """A node of minikube."""
    allocatable = {"cpu": "3920m", "memory": "8025640Ki"}
    return {
        "metadata": {"name": "minikube"},
        "spec": {},
        "status": {"allocatable": allocatable},
    }


def limit_range(*limits: dict[str, Any]) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": "l"}, "spec": {"limits": limits}}]}


def server(api: KubernetesApi, tmp_path: Path) -> ApiServer:
    file = api.kubeconfig(tmp_path / "kubeconfig")
    return ApiServer.from_environment(
        {"KUBECONFIG": str(file)}, LaunchPatience(connect_seconds=2, answer_seconds=5)
    )


def cluster(
    api: KubernetesApi,
    tmp_path: Path,
    name: str = "multi-node",
    account: str = "ratchet-run",
    recipe: Recipe | None = None,
) -> list[Finding]:
    profile = load_profile(name, TEST_IMAGES)
    findings = cluster_checks(
        server(api, tmp_path),
        NAMESPACE,
        profile,
        account,
        as_account=True,
        recipe=recipe,
        resolve=lambda host: ADDRESSES.get(host, []),
    )
    return list(findings)


def remove(path: str) -> Any:
    def change(api: KubernetesApi) -> None:
        [key] = [key for key in api.objects if key.endswith(path)]
        del api.objects[key]

    return change


def put(path: str, document: dict[str, Any]) -> Any:
    def change(api: KubernetesApi) -> None:
        [key] = [key for key in api.objects if key.endswith(path)]
        api.objects[key] = document

    return change
