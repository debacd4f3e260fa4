"""The double of the Kubernetes API answers as a real server does, to the calls of the launcher."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from components.errors import UserError
from components.train.launch.cluster_api import (
    GROUP,
    PLURAL,
    VERSION,
    Cluster,
    LaunchPatience,
)
from components.train.launch.trainjob import manifest
from tests.cluster.server import Server
from tests.doubles.kubernetes_api import KubernetesApi
from tests.manifests.rendering import Json
from tests.unit.launcher import SPEC

NAMESPACE = "ml"
"""Of the double."""
UNKNOWN_FIELD = "nothingThatTheTrainerKnows"
ANOTHER_UID = "00000000-0000-0000-0000-000000000000"
FOLDER = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
Ask = Callable[[str, str, Json | None], tuple[int, Any]]
"""Method, path and body of a request → status and document of its answer."""


@pytest.fixture(scope="module")
def namespace(server: Server, new_namespace: Callable[[str], str]) -> str:
    """An empty namespace of the real server."""
    name = new_namespace("ratchet-double")
    server.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def double() -> Any:
    """The double; it knows all fields of a TrainJob but one."""
    api = KubernetesApi()
    api.unknown_fields = {UNKNOWN_FIELD}
    yield api
    api.close()


def job(**spec: Any) -> Json:
    """The TrainJob of a training, with more fields."""
    document = manifest(replace(SPEC, namespace=NAMESPACE))
    document["spec"].update(spec)
    return document


def real(server: Server, namespace: str) -> Ask:
    """The real server, whose namespace has another name."""

    def ask(method: str, path: str, body: Json | None) -> tuple[int, Any]:
        sent = copy.deepcopy(body)
        if sent is not None and "metadata" in sent:
            sent["metadata"]["namespace"] = namespace
        own_path = path.replace(
            f"/namespaces/{NAMESPACE}/", f"/namespaces/{namespace}/"
        )
        answer = server.request(method, own_path, sent)
        return answer.status, answer.document

    return ask


def answers(ask: Ask) -> list[tuple[str, int, str, str]]:
    """Return (request, status, reason, message) of a life of a TrainJob; messages of errors alone."""
    strict = f"{FOLDER}?fieldValidation=Strict"
    one = f"{FOLDER}/{job()['metadata']['name']}"
    wrong_uid = {
        "propagationPolicy": "Background",
        "preconditions": {"uid": ANOTHER_UID},
    }
    told = []

    def tell(name: str, method: str, path: str, body: Json | None = None) -> Any:
        status, document = ask(method, path, body)
        fields = document if isinstance(document, dict) else {"message": str(document)}
        is_error = status >= 400
        reason = str(fields.get("reason", "")) if is_error else ""
        told.append(
            (name, status, reason, str(fields.get("message", "")) if is_error else "")
        )
        return document

    tell("read what is not there", "GET", one)
    tell("delete what is not there", "DELETE", one, {"propagationPolicy": "Background"})
    tell("an unknown field", "POST", strict, job(**{UNKNOWN_FIELD: 1}))
    created = tell("create", "POST", strict, job())
    tell("create again", "POST", strict, job())
    tell("read", "GET", one)
    tell("delete another", "DELETE", one, wrong_uid)
    uid = {"uid": created["metadata"]["uid"]}
    tell(
        "delete",
        "DELETE",
        one,
        {"propagationPolicy": "Background", "preconditions": uid},
    )
    tell("read what was deleted", "GET", one)
    return told


def test_the_double_answers_a_life_of_a_trainjob_as_the_server_does(
    server: Server, namespace: str, double: KubernetesApi
) -> None:
    by_server = answers(real(server, namespace))
    by_double = answers(
        lambda method, path, body: double.carry_out(method, path, body or {}, "")
    )
    for (name, status, reason, message), told in zip(by_server, by_double, strict=True):
        assert told[:3] == (name, status, reason)
        # The double's words are a part of the server's, which shows the object too.
        assert told[3] in message.replace(namespace, NAMESPACE), name


def test_the_launchers_calls_end_alike(
    server: Server, namespace: str, double: KubernetesApi, tmp_path: Any
) -> None:
    patience = LaunchPatience(connect_seconds=5, answer_seconds=15)
    environment = {"KUBECONFIG": str(server.kubeconfig), "NO_PROXY": "*"}
    at_server = Cluster.from_environment(environment, patience)
    environment["KUBECONFIG"] = str(double.kubeconfig(tmp_path / "kubeconfig"))
    at_double = Cluster.from_environment(environment, patience)
    assert outcomes(at_server, namespace) == outcomes(at_double, NAMESPACE)


def outcomes(cluster: Cluster, namespace: str) -> list[object]:
    """Return what each call of the launcher returned, or the class of what it raised."""
    own_job = job()
    own_job["metadata"]["namespace"] = namespace
    name = own_job["metadata"]["name"]
    seen: list[object] = [cluster.read_job(namespace, name)]
    created = cluster.create_job(namespace, own_job)
    assert created is not None
    seen.append(created["spec"]["runtimePatches"][0]["manager"])
    seen.append(cluster.create_job(namespace, own_job))
    seen.append(cluster.delete_job(namespace, name, ANOTHER_UID, "Background"))
    seen.append(
        cluster.delete_job(namespace, name, created["metadata"]["uid"], "Background")
    )
    seen.append(
        cluster.delete_job(namespace, name, created["metadata"]["uid"], "Background")
    )
    seen.append(cluster.pods(namespace, f"jobset.sigs.k8s.io/jobset-name={name}"))
    seen.append(cluster.warnings(namespace, name))
    seen.append(cluster.log_tail(namespace, "no-such-pod", "node", 5))
    for wrong, folder in (
        (own_job, "no-such-namespace"),
        (job(**{UNKNOWN_FIELD: 1}), namespace),
    ):
        wrong["metadata"]["namespace"] = folder
        try:
            seen.append(cluster.create_job(folder, wrong))
        except UserError as error:
            words = ("there is no namespace", f'unknown field "spec.{UNKNOWN_FIELD}"')
            seen.append([word for word in words if word in str(error)])
    return seen
