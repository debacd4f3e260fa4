"""`doctor RECIPE` says which addresses the policies close, and its cure opens them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components.cli.doctor.destinations import destinations
from components.cli.doctor.findings import Finding
from components.cli.package.profiles import load_profile
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import load_recipe
from tests.doubles.kubernetes_api import KubernetesApi
from tests.unit.doctoring import (
    NAMESPACE,
    ROOT,
    TEST_IMAGES,
    bad,
    by_check,
    cluster,
    service_of,
    sound,
)

CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/ratchet-store"
OPENAI = ("generate.engine=openai", "generate.endpoint.model=m")
JUDGE = ("select.judge.model=j",)
HUB_MODEL = ("model.source=hf://org/model@main",)
HUB_DATA = ("data.sources=[{uri: 'hf://datasets/org/rows@main/a.jsonl'}]",)
OPERATION = re.compile(r"the operation (\{op: add.*\}) \(manifests")
KEYS = "secrets: {ratchet-keys: [OPENAI_API_KEY], ratchet-store-credentials: [AWS_ACCESS_KEY_ID]}"


def demo(*changes: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "demo.yaml", changes)


def set_up(
    api: KubernetesApi, profile: str, settings: dict[str, str], *components: str
) -> None:
    """A sound cluster whose ConfigMap has these settings too."""
    sound(api, load_profile(profile, TEST_IMAGES), *components)
    api.objects[CONFIG_MAP]["data"].update(settings)


@pytest.fixture
def keyed(tmp_path: Path) -> str:
    """A profile that passes an endpoint's key."""
    file = tmp_path / "keyed.yaml"
    file.write_text(KEYS)
    return str(file)


MLFLOW = {"MLFLOW_TRACKING_URI": "http://mlflow.mlflow:5000"}
MLFLOW_OUTSIDE = {"MLFLOW_TRACKING_URI": "https://10.7.0.5:8443"}
JUDGE_INSIDE = {"RATCHET_JUDGE_URL": "http://judge.llm.svc.cluster.local:8000/v1"}
JUDGE_OUTSIDE = {"RATCHET_JUDGE_URL": "https://judge.example:8443/v1"}
STORE_OUTSIDE = {"AWS_ENDPOINT_URL_S3": "http://10.1.2.3:9000"}
PROXY = {"HTTPS_PROXY": "http://10.1.2.9:3128", "NO_PROXY": ".svc"}
OWN_ENDPOINT = {"OPENAI_BASE_URL": "http://vllm.llm:8000/v1"}

GATEWAY = {"PROMETHEUS_PUSHGATEWAY_URL": "http://10.7.0.6:9091"}
COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://10.7.0.7:4318"}
REGISTRY = {"MODEL_REGISTRY_URL": "http://model-registry-service.kubeflow:8080"}
TO_MLFLOW = ("announce={to: [mlflow]}",)
TO_REGISTRY = ("announce={to: [model-registry]}",)

CLOSED: dict[str, tuple[tuple[str, ...], dict[str, str], str, str]] = {
    "an endpoint in the cluster": (
        OPENAI,
        OWN_ENDPOINT,
        "the endpoint",
        "generate does not reach",
    ),
    "a judge in the cluster": (
        JUDGE,
        JUDGE_INSIDE,
        "the judge",
        "judge.llm.svc.cluster.local:8000",
    ),
    "a judge at a private address": (
        JUDGE,
        JUDGE_OUTSIDE,
        "the judge",
        "judge.example:8443",
    ),
    "MLflow in the cluster": (
        (),
        MLFLOW,
        "MLflow",
        "train does not reach mlflow.mlflow:5000",
    ),
    "MLflow at a private address": ((), MLFLOW_OUTSIDE, "MLflow", "10.7.0.5:8443"),
    "MLflow for releases": (
        TO_MLFLOW,
        MLFLOW,
        "MLflow for releases",
        "publish does not reach mlflow.mlflow:5000",
    ),
    "a Pushgateway": ((), GATEWAY, "the Pushgateway", "10.7.0.6:9091"),
    "a collector": ((), COLLECTOR, "the OpenTelemetry collector", "10.7.0.7:4318"),
    "S3 of a data centre": ((), STORE_OUTSIDE, "the store", "10.1.2.3:9000"),
    "a proxy": (HUB_MODEL, PROXY, "the hub, by the proxy", "10.1.2.9:3128"),
}


def others(api: KubernetesApi) -> None:
    """Services of other namespaces that these recipes speak to."""
    api.objects.update(service_of("llm", "vllm", {"app": "vllm"}, 8000, 8000))
    api.objects.update(
        service_of("llm", "judge", {"app.kubernetes.io/name": "j"}, 8000, "http")
    )
    api.objects.update(service_of("mlflow", "mlflow", {"app": "mlflow"}, 5000, 5000))


@pytest.mark.parametrize("name", CLOSED)
def test_an_address_that_no_policy_opens_is_named_and_its_cure_opens_it(
    api: KubernetesApi, tmp_path: Path, keyed: str, name: str
) -> None:
    changes, settings, purpose, said = CLOSED[name]
    set_up(api, keyed, {"HF_HUB_OFFLINE": "0", **settings})
    others(api)
    checks = by_check(cluster(api, tmp_path, keyed, recipe=demo(*changes)))
    found = checks[f"way to {purpose}"]
    assert (found.status, said in found.found) == ("failed", True), found
    operation = OPERATION.search(found.cure)
    assert operation, found.cure
    patch = ("NetworkPolicy/to-named-addresses", f"- {operation[1]}")
    profile = load_profile(keyed, TEST_IMAGES)
    sound(api, profile, "egress", patches=(patch,))
    api.objects[CONFIG_MAP]["data"].update(settings)
    others(api)
    checks = by_check(cluster(api, tmp_path, keyed, recipe=demo(*changes)))
    found = checks[f"way to {purpose}"]
    assert found.status == "ok", found


@pytest.mark.parametrize("changes", [HUB_MODEL, HUB_DATA])
def test_a_recipe_that_takes_from_the_hub_needs_the_component_hub(
    api: KubernetesApi, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    set_up(api, "cpu", {})
    without = by_check(cluster(api, tmp_path, "cpu", recipe=demo(*changes)))
    assert without["hub"].status == "failed"
    assert "HF_HUB_OFFLINE is set" in without["hub"].found
    way = without["way to the hub"]
    assert (way.status, "component hub" in way.cure) == ("failed", True)
    assert "prepare does not reach huggingface.co:443" in way.found
    # A recipe without it needs no component.
    assert bad(cluster(api, tmp_path, "cpu", recipe=demo())) == []
    set_up(api, "cpu", {}, "hub")
    found = cluster(api, tmp_path, "cpu", recipe=demo(*changes))
    assert bad(found) == []
    assert by_check(found)["way to the hub"].status == "ok"


def test_the_component_model_registry_opens_the_way_of_releases_and_brings_the_address(
    api: KubernetesApi, tmp_path: Path
) -> None:
    def found(*components: str) -> dict[str, Finding]:
        set_up(api, "cpu", REGISTRY if not components else {}, *components)
        labels = {"component": "model-registry-server"}
        api.objects.update(
            service_of("kubeflow", "model-registry-service", labels, 8080, 8080)
        )
        return by_check(cluster(api, tmp_path, "cpu", recipe=demo(*TO_REGISTRY)))

    way = found()["way to the model registry"]
    assert way.status == "failed"
    assert "publish does not reach model-registry-service.kubeflow:8080" in way.found
    assert found("model-registry")["way to the model registry"].status == "ok"


def test_an_endpoint_at_a_public_address_needs_a_component_for_such(
    api: KubernetesApi, tmp_path: Path, keyed: str
) -> None:
    set_up(api, keyed, {})
    checks = by_check(cluster(api, tmp_path, keyed, recipe=demo(*OPENAI)))
    found = checks["way to the endpoint"]
    assert (found.status, "component outside-store" in found.cure) == ("failed", True)
    set_up(api, keyed, {}, "outside-store")
    checks = by_check(cluster(api, tmp_path, keyed, recipe=demo(*OPENAI)))
    found = checks["way to the endpoint"]
    assert found.status == "ok"


def test_a_store_without_an_endpoint_is_that_of_aws(
    api: KubernetesApi, tmp_path: Path
) -> None:
    set_up(api, "multi-node", {})
    del api.objects[CONFIG_MAP]["data"]["AWS_ENDPOINT_URL_S3"]
    found = by_check(cluster(api, tmp_path))["way to the store"]
    assert (found.status, "component outside-store" in found.cure) == ("failed", True)
    # `hub` opens public addresses to runs alone, and nodes of a training need the store too.
    set_up(api, "multi-node", {}, "hub")
    del api.objects[CONFIG_MAP]["data"]["AWS_ENDPOINT_URL_S3"]
    found = by_check(cluster(api, tmp_path))["way to the store"]
    assert (
        found.found.startswith("nodes of train does not reach")
        or "nodes of train" in found.found
    )
    assert by_check(cluster(api, tmp_path, "cpu"))["way to the store"].status == "ok"


def test_a_public_address_is_judged_where_its_name_is_not_known(
    api: KubernetesApi, tmp_path: Path
) -> None:
    set_up(api, "cpu", {"AWS_REGION": "of-no-name-server"})
    del api.objects[CONFIG_MAP]["data"]["AWS_ENDPOINT_URL_S3"]
    assert (
        by_check(cluster(api, tmp_path, "cpu"))["way to the store"].status == "failed"
    )
    set_up(api, "cpu", {"AWS_REGION": "of-no-name-server"}, "outside-store")
    del api.objects[CONFIG_MAP]["data"]["AWS_ENDPOINT_URL_S3"]
    assert by_check(cluster(api, tmp_path, "cpu"))["way to the store"].status == "ok"


def test_a_variable_that_neither_config_map_nor_secret_has_is_named(
    api: KubernetesApi, tmp_path: Path, keyed: str
) -> None:
    set_up(api, keyed, {})
    found = by_check(cluster(api, tmp_path, keyed, recipe=demo(*JUDGE)))
    missing = found["variable RATCHET_JUDGE_URL"]
    assert (missing.status, "select.judge" in missing.found) == ("failed", True)
    # The endpoint's key is in a Secret of the profile, whose values nobody reads.
    assert "variable OPENAI_API_KEY" not in by_check(
        cluster(api, tmp_path, keyed, recipe=demo(*OPENAI))
    )


def test_an_address_in_a_secret_is_not_read_and_said_so(
    api: KubernetesApi, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("secrets: {ratchet-keys: [RATCHET_JUDGE_URL, TEAM_HOOK]}")
    set_up(api, str(file), {})
    recipe = demo(*JUDGE, "notify.url_env=TEAM_HOOK")
    found = by_check(cluster(api, tmp_path, str(file), recipe=recipe))
    for variable in ("RATCHET_JUDGE_URL", "TEAM_HOOK"):
        way = found[f"way to {variable}"]
        assert (way.status, "Secret ratchet-keys" in way.found) == ("skipped", True)


@pytest.mark.parametrize(
    ("settings", "change", "check", "cure"),
    [
        ({}, ("openshift-dns", "dns-default"), "way to DNS", "component openshift"),
        (
            {"HTTP_PROXY": "http://10.1.2.9:3128"},
            None,
            "way to the store, by the proxy",
            "egress",
        ),
        (
            {"AWS_ENDPOINT_URL_S3": "ratchet-store"},
            None,
            "way to the store",
            "http://host:port",
        ),
        (
            {"MLFLOW_TRACKING_URI": "http://a:b:c"},
            None,
            "way to MLflow",
            "http://host:port",
        ),
    ],
)
def test_what_a_cluster_and_its_settings_ask_for_is_looked_at_without_a_recipe(
    api: KubernetesApi,
    tmp_path: Path,
    settings: dict[str, str],
    change: tuple[str, str] | None,
    check: str,
    cure: str,
) -> None:
    set_up(api, "cpu", settings)
    if change is not None:
        labels = {"dns.operator.openshift.io/daemonset-dns": "default"}
        api.objects.update(service_of(*change, labels, 53, 5353, "UDP"))
    found = by_check(cluster(api, tmp_path, "cpu"))[check]
    assert (found.status, cure in found.cure) == ("failed", True), found


def test_another_store_of_kubeflow_pipelines_is_looked_at(
    api: KubernetesApi, tmp_path: Path
) -> None:
    set_up(api, "cpu", {})
    check = "way to Kubeflow Pipelines, its store"
    assert by_check(cluster(api, tmp_path, "cpu"))[check].status == "ok"
    # MinIO listens on 9000, and the base opens SeaweedFS's 8333.
    api.objects.update(
        service_of("kubeflow", "minio-service", {"app": "minio"}, 9000, 9000)
    )
    found = by_check(cluster(api, tmp_path, "cpu"))[check]
    assert (found.status, "app: 'minio'" in found.cure) == ("failed", True)
    launcher = f"/api/v1/namespaces/{NAMESPACE}/configmaps/kfp-launcher"
    providers = "minio: {default: {endpoint: '10.5.0.1:9000', disableSSL: true}}"
    api.objects[launcher] = {"data": {"providers": providers}}
    found = by_check(cluster(api, tmp_path, "cpu"))[check]
    assert "10.5.0.1:9000" in found.found


def test_policies_of_the_other_side_count_and_those_that_may_not_be_listed_do_not(
    api: KubernetesApi, tmp_path: Path
) -> None:
    set_up(api, "cpu", {})
    closed = {"metadata": {"namespace": "kubeflow"}, "spec": {"podSelector": {}}}
    path = "/apis/networking.k8s.io/v1/namespaces/kubeflow/networkpolicies"
    api.objects[path] = {"items": [closed]}
    checks = by_check(cluster(api, tmp_path, "cpu"))
    found = checks["way to Kubeflow Pipelines, its API"]
    assert (
        found.status,
        "no network policy of kubeflow lets it in" in found.found,
    ) == (
        "failed",
        True,
    )
    api.hidden = {path}
    assert bad(cluster(api, tmp_path, "cpu")) == []
    api.hidden = {path.replace("kubeflow", NAMESPACE)}
    found = by_check(cluster(api, tmp_path, "cpu"))["network policies"]
    assert found.status == "skipped"


def test_a_pod_that_an_address_opens_is_a_warning(
    api: KubernetesApi, tmp_path: Path
) -> None:
    operation = (
        "- {op: add, path: /spec/egress/-, value: {to: [{ipBlock: {cidr: 10.244.0.0/16}}], "
        "ports: [{protocol: TCP, port: 5000}]}}"
    )
    profile = load_profile("cpu", TEST_IMAGES)
    sound(
        api,
        profile,
        "egress",
        patches=(("NetworkPolicy/to-named-addresses", operation),),
    )
    api.objects[CONFIG_MAP]["data"].update(MLFLOW)
    others(api)
    pod: dict[str, Any] = {"metadata": {"labels": {"app": "mlflow"}}}
    pod["status"] = {"podIP": "10.244.0.8"}
    api.objects["/api/v1/namespaces/mlflow/pods"] = {"items": [pod]}
    found = by_check(cluster(api, tmp_path, "cpu"))["way to MLflow"]
    assert (found.status, "ipBlock" in found.found) == ("warning", True)


def test_a_name_that_nobody_knows_is_a_warning(
    api: KubernetesApi, tmp_path: Path
) -> None:
    set_up(api, "cpu", {"MLFLOW_TRACKING_URI": "http://nowhere.example.org:5000"})
    found = by_check(cluster(api, tmp_path, "cpu"))["way to MLflow"]
    assert (found.status, "not known here" in found.found) == ("warning", True)


@pytest.mark.parametrize(
    ("no_proxy", "is_direct"),
    [
        ("", False),
        ("*", True),
        ("huggingface.co", True),
        (".co", True),
        ("co", True),
        ("face.co", False),
        ("10.0.0.0/8, .huggingface.co", True),
        ("10.0.0.0/8", False),
    ],
)
def test_no_proxy_leaves_hosts_out_by_name_and_ending(
    no_proxy: str, is_direct: bool
) -> None:
    settings = {"HTTPS_PROXY": "http://10.1.2.9:3128", "NO_PROXY": no_proxy}
    profile = load_profile("cpu", TEST_IMAGES)
    told = {
        one.purpose: one for one in destinations(demo(*HUB_MODEL), profile, settings)
    }
    assert ("the hub" in told) == is_direct


def test_the_nodes_of_the_recipe_are_counted(
    api: KubernetesApi, tmp_path: Path
) -> None:
    set_up(api, "multi-node", {})
    assert bad(cluster(api, tmp_path, recipe=demo("train.num_nodes=2"))) == []
    found = by_check(cluster(api, tmp_path, recipe=demo("train.num_nodes=4")))
    assert "32 of nvidia.com/gpu of 4 nodes of train" in found["quota"].found
    assert found["room in queue ratchet"].status == "failed"
