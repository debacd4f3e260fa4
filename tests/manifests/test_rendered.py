"""Every composition of the manifests holds to the rules of checks.py; each of those rules catches
what breaks it."""

from __future__ import annotations

import pytest
import yaml

from components.cli.doctor.quantities import amount
from tests.manifests.checks import findings
from tests.manifests.kfp_pods import LABELS
from tests.manifests.mutants import MUTANTS, Mutant, mutated
from tests.manifests.network import allowed, selects
from tests.manifests.pod_security import pod_specs
from tests.manifests.rendering import (
    COMPONENTS,
    MANIFESTS,
    OVERLAYS,
    Json,
    composed,
    named,
    of_kind,
    overlay,
    render_text,
)
from tests.manifests.rights import launcher_uses
from tests.manifests.rows import ENDS, ROWS


def components_of(name: str) -> list[str]:
    listed = yaml.safe_load(
        (MANIFESTS / "overlays" / name / "kustomization.yaml").read_text()
    )["components"]
    return [path.rpartition("/")[2] for path in listed]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_holds_to_every_rule(name: str) -> None:
    assert list(findings(overlay(name), components_of(name))) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_short(name: str) -> None:
    assert (
        len(
            (MANIFESTS / "overlays" / name / "kustomization.yaml")
            .read_text()
            .splitlines()
        )
        <= 40
    )


@pytest.mark.parametrize(
    "name",
    [(), *((one,) for one in COMPONENTS)],
    ids=lambda name: name[0] if name else "base",
)
def test_the_base_holds_to_every_rule_with_each_component_alone(
    name: tuple[str, ...],
) -> None:
    assert list(findings(composed(*name), name)) == []


def test_all_components_combine() -> None:
    assert list(findings(composed(*COMPONENTS), COMPONENTS)) == []
    assert set(COMPONENTS) == {
        folder.name for folder in (MANIFESTS / "components").iterdir()
    }


def test_what_a_component_changes_is_there() -> None:
    """A patch without a target is no error to kustomize: it is silently not applied."""
    everything = composed(*COMPONENTS)
    (runtime,) = of_kind(everything, "TrainingRuntime")
    (nodes,) = pod_specs(runtime)
    assert [one["key"] for one in nodes["tolerations"]] == [
        "nvidia.com/gpu",
        "amd.com/gpu",
    ]
    assert nodes["containers"][0]["envFrom"][1] == {
        "secretRef": {"name": "ratchet-store-credentials", "optional": False}
    }
    (quota,) = of_kind(everything, "ResourceQuota")
    assert amount(quota["spec"]["hard"]["requests.nvidia.com/gpu"]) == 8
    assert amount(quota["spec"]["hard"]["requests.amd.com/gpu"]) == 8
    (store,) = of_kind(everything, "ConfigMap")
    assert store["data"]["AWS_ENDPOINT_URL_S3"] == "http://ratchet-store:8333"
    assert store["data"]["HF_HUB_OFFLINE"] == "0"
    accounts = {
        one["metadata"]["name"]: one for one in of_kind(everything, "ServiceAccount")
    }
    with_role = {
        name for name, one in accounts.items() if "annotations" in one["metadata"]
    }
    assert with_role == {"ratchet-run", "ratchet-train", "ratchet-serve", "ratchet-gc"}
    assert accounts["ratchet-serve"]["secrets"] == [
        {"name": "ratchet-store-credentials"}
    ]
    (queue,) = of_kind(overlay("prod"), "ClusterQueue")
    quotas = {
        one["name"]: one["nominalQuota"]
        for one in queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    }
    assert (quotas["nvidia.com/gpu"], quotas["amd.com/gpu"]) == ("8", "0")


def test_two_teams_have_a_queue_each_by_the_patches_of_the_readme() -> None:
    text = (MANIFESTS / "README.md").read_text()
    [block] = [
        one
        for one in text.split("```")
        if "namespace: other\n" in one and "patches" in one
    ]
    document = yaml.safe_load(block.removeprefix("yaml"))
    patches = tuple(
        (f"{one['target']['kind']}/{one['target']['name']}", one["patch"])
        for one in document["patches"]
    )
    first, second = (
        composed("kueue"),
        composed("kueue", namespace="other", patches=patches),
    )
    for one in second:
        # What both apply is the same object with the same content.
        whole = one["kind"] in (
            "PriorityClass",
            "ResourceFlavor",
            "ValidatingAdmissionPolicy",
        )
        assert not whole or without_namespace(one) in [
            without_namespace(two) for two in first
        ]
    queues = {named(one) for one in (*first, *second) if one["kind"] == "ClusterQueue"}
    assert queues == {"ClusterQueue/ratchet", "ClusterQueue/ratchet-other"}
    [local] = of_kind(second, "LocalQueue")
    assert (local["metadata"]["namespace"], local["spec"]["clusterQueue"]) == (
        "other",
        "ratchet-other",
    )


def without_namespace(one: Json) -> Json:
    metadata = {
        key: value for key, value in one["metadata"].items() if key != "namespace"
    }
    return {**one, "metadata": metadata}


def test_on_openshift_the_namespace_gives_the_users() -> None:
    """Its constraints refuse a pod that names a user or group outside the namespace's range."""
    everything = composed(*COMPONENTS)
    kinds = ("StatefulSet", "TrainingRuntime", "InferenceService", "CronJob")
    for one in of_kind(everything, *kinds):
        for pod in pod_specs(one):
            context = pod["securityContext"]
            assert context["runAsNonRoot"] is True
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context), named(one)


def test_an_address_of_ones_own_is_one_patch_and_not_for_the_store() -> None:
    rule = "{to: [{ipBlock: {cidr: 192.168.7.7/32}}], ports: [{protocol: TCP, port: 9000}]}"
    patch = f"- {{op: add, path: /spec/egress/-, value: {rule}}}"
    objects = composed("egress", patches=(("NetworkPolicy/to-named-addresses", patch),))
    for source, port, expected in (
        ("run", 9000, True),
        ("node", 9000, True),
        ("run", 80, False),
    ):
        assert allowed(objects, ENDS[source], ENDS["intranet"], port) == expected
    assert not allowed(objects, ENDS["store"], ENDS["intranet"], 9000)


def test_beside_a_single_user_pipelines_nothing_touches_its_own_pods() -> None:
    """Limits, a policy that selects its pods, or rules of Pod Security would stop them."""
    objects = overlay("single-user")
    kinds = {one["kind"] for one in objects}
    assert not kinds & {"Namespace", "ResourceQuota", "LimitRange", "TrainingRuntime"}
    for one in objects:
        if one["kind"] != "PriorityClass":
            assert one["metadata"]["namespace"] == "kubeflow"
        if one["kind"] == "NetworkPolicy":
            selected = one["spec"]["podSelector"]["matchLabels"]
            assert selected == {"app.kubernetes.io/name": "ratchet-store"}
    names = {named(one) for one in objects}
    assert "ServiceAccount/default" not in names
    assert {
        "ServiceAccount/ratchet-run",
        "RoleBinding/ratchet-kfp",
        "ConfigMap/ratchet-store",
        "StatefulSet/ratchet-store",
    } <= names


def test_another_namespace_is_one_line() -> None:
    objects = composed(*COMPONENTS, namespace="elsewhere")
    assert next(of_kind(objects, "Namespace"))["metadata"]["name"] == "elsewhere"
    text = yaml.safe_dump_all(one for one in objects if one["kind"] != "PrometheusRule")
    assert "namespace: ratchet\n" not in text
    labels = next(of_kind(objects, "Namespace"))["metadata"]["labels"]
    for one in of_kind(
        objects, "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicyBinding"
    ):
        assert selects(one["spec"]["matchResources"]["namespaceSelector"], labels)


@pytest.mark.parametrize("name", OVERLAYS)
def test_rendering_again_gives_the_same_bytes_and_no_names_made_of_hashes(
    name: str,
) -> None:
    first = render_text(MANIFESTS / "overlays" / name)
    assert first == render_text(MANIFESTS / "overlays" / name)
    assert list(overlay(name)) == list(yaml.safe_load_all(first))


def test_the_rights_of_the_launcher_are_read_off_its_code() -> None:
    verbs = {(resource, verb) for _, resource, verb, _ in launcher_uses()}
    assert {
        ("trainjobs", "create"),
        ("trainjobs", "get"),
        ("trainjobs", "delete"),
        ("pods/log", "get"),
    } <= verbs


def test_the_table_of_connections_is_wide() -> None:
    assert len(ROWS) >= 40
    assert len({row[:3] + row[4:] for row in ROWS}) == len(ROWS), "a row is there twice"


def test_the_pods_of_the_table_have_the_labels_of_the_manifests() -> None:
    everything = composed(*COMPONENTS)
    (runtime,), (store,), (model,), (collection,) = (
        list(of_kind(everything, kind))
        for kind in ("TrainingRuntime", "StatefulSet", "InferenceService", "CronJob")
    )
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    set_by_jobset = {
        "jobset.sigs.k8s.io/jobset-name",
        "jobset.sigs.k8s.io/replicatedjob-name",
    }
    node = {
        key: value
        for key, value in ENDS["node"].labels.items()
        if key not in set_by_jobset
    }
    assert node == job["template"]["spec"]["template"]["metadata"]["labels"]
    assert ENDS["node"].labels["jobset.sigs.k8s.io/replicatedjob-name"] == job["name"]
    assert ENDS["store"].labels == store["spec"]["template"]["metadata"]["labels"]
    pod_of_collection = collection["spec"]["jobTemplate"]["spec"]["template"]
    assert ENDS["gc"].labels == pod_of_collection["metadata"]["labels"]
    assert ENDS["model"].labels == model["spec"]["predictor"]["labels"]
    assert LABELS.items() <= ENDS["run"].labels.items()


@pytest.mark.parametrize(
    "mutant",
    MUTANTS,
    ids=lambda mutant: f"{mutant.target}:{mutant.path or 'all of it'}",
)
def test_a_weakened_manifest_is_caught(mutant: Mutant) -> None:
    objects = composed(*COMPONENTS)
    assert list(findings(mutated(objects, mutant), COMPONENTS)), "nothing noticed it"
