"""`doctor` says of a real cluster what is there, and its cures mend what is not."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.cluster_checks import cluster_checks
from components.cli.doctor.findings import Finding
from components.cli.doctor.retry_check import CONFIG_MAP, retry_check
from components.cli.package.profiles import load_profile
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import load_recipe
from tests.cluster.server import Server
from tests.manifests.rendering import ROOT, composed

CREDENTIALS = (
    "--from-literal=AWS_ACCESS_KEY_ID=a",
    "--from-literal=AWS_SECRET_ACCESS_KEY=b",
)
STOCK_DEFAULTS = (
    "spec: {templateDefaults: {retryStrategy: {limit: '2', retryPolicy: OnError}}}"
)


@pytest.fixture(scope="module")
def namespace(server: Server, new_namespace: Callable[[str], str]) -> str:
    """A namespace with an installation."""
    name = new_namespace("ratchet-doctor")
    server.apply_all(
        composed("object-store", "kueue", "static-credentials", namespace=name)
    )
    return name


def checked(
    api: ApiServer, namespace: str, profile: str, recipe: Recipe | None = None
) -> dict[str, Finding]:
    """Return check → finding."""
    images = ROOT / "tests" / "pipeline" / "images.toml"
    findings = cluster_checks(
        api,
        namespace,
        load_profile(profile, images),
        "ratchet-run",
        as_account=True,
        recipe=recipe,
        resolve=lambda host: {"huggingface.co": ["18.64.8.1"]}.get(host, []),
    )
    return {finding.check: finding for finding in findings}


def test_what_is_there_is_found_and_what_is_not_is_named(
    server: Server, api: ApiServer, namespace: str
) -> None:
    found = checked(api, namespace, "multi-node")
    ok = [
        "kubernetes",
        "namespace",
        "serviceaccount ratchet-run",
        "configmap ratchet-store",
        "rights",
        "kind trainjobs",
        "kind trainingruntimes",
        "trainingruntime ratchet-deepspeed",
        "localqueue ratchet",
    ]
    assert {name: found[name].status for name in ok} == dict.fromkeys(ok, "ok")
    # Trainer 2.3 has the field, so there is no finding about it.
    assert "trainer" not in found
    assert found["kind workflows"].status == "failed"
    secret = found["secret ratchet-store-credentials"]
    assert secret.status == "failed"
    # The quota of the base has no GPU, and its queue neither.
    assert "requests.nvidia.com/gpu is 0" in found["quota"].found
    assert found["room in queue ratchet"].status == "failed"
    command = shlex.split(secret.cure.partition("--from-literal=")[0])
    server.kubectl(*command[1:], *CREDENTIALS)
    assert (
        checked(api, namespace, "cpu")["secret ratchet-store-credentials"].status
        == "ok"
    )


def test_the_ways_of_a_recipe_are_read_from_the_servers_own_policies(
    server: Server, api: ApiServer, new_namespace: Callable[[str], str]
) -> None:
    name = new_namespace("ratchet-ways")
    base = ("object-store", "static-credentials")
    server.apply_all(composed(*base, namespace=name))
    recipe = load_recipe(
        ROOT / "recipes" / "demo.yaml", ("model.source=hf://org/model@main",)
    )
    found = checked(api, name, "cpu", recipe)
    # The API server's own address is that of the cluster, and its Service has no selector.
    assert found["way to the API server"].status == "ok"
    assert found["way to the store"].status == "ok"
    assert (found["hub"].status, found["way to the hub"].status) == ("failed", "failed")
    server.apply_all(composed(*base, "hub", namespace=name))
    found = checked(api, name, "cpu", recipe)
    assert "hub" not in found
    assert found["way to the hub"].status == "ok"
    # A Service of another namespace, and the operation that the cure prints.
    service = ("create", "service", "clusterip", "mlflow", "--tcp=5000:5000")
    elsewhere = new_namespace("ratchet-ways-mlflow")
    server.kubectl("create", "namespace", elsewhere)
    server.kubectl("-n", elsewhere, *service)
    patch = f'{{"data": {{"MLFLOW_TRACKING_URI": "http://mlflow.{elsewhere}:5000"}}}}'
    change = ("patch", "configmap", "ratchet-store", "--type=merge", "-p", patch)
    server.kubectl("-n", name, *change)
    closed = checked(api, name, "cpu")["way to MLflow"]
    assert closed.status == "failed"
    operation = closed.cure.partition("the operation ")[2].partition(" (manifests")[0]
    patches = (("NetworkPolicy/to-named-addresses", f"- {operation}"),)
    server.apply_all(composed(*base, "egress", namespace=name, patches=patches))
    server.kubectl("-n", name, *change)
    assert checked(api, name, "cpu")["way to MLflow"].status == "ok"


def test_the_patch_of_the_retry_policy_does_what_it_says(
    server: Server, api: ApiServer, new_namespace: Callable[[str], str]
) -> None:
    name = new_namespace("ratchet-pipelines")
    assert retry_check(api, name).status == "skipped"
    server.kubectl("create", "namespace", name)
    literal = f"--from-literal=workflowDefaults={STOCK_DEFAULTS}"
    server.kubectl("-n", name, "create", "configmap", CONFIG_MAP, literal)
    before = retry_check(api, name)
    assert before.found.startswith("OnError")
    command = shlex.split(before.cure.partition("): ")[2])
    assert command[0] == "kubectl"
    server.kubectl(*command[1:])
    after = retry_check(api, name)
    assert after.found.startswith("Always")
    assert after.cure == ""
