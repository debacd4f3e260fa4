"""What each account may do, asked of the server's own authorizer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from components.cli.cluster.kfp_calls import TOKEN_AUDIENCE
from tests.cluster.server import Server
from tests.manifests.mutants import MUTANTS, Mutant, mutated
from tests.manifests.rendering import Json, composed
from tests.manifests.rights import KFP_USES, Use, launcher_uses

COMPONENTS = ("object-store", "static-credentials", "kserve", "profile")
USES = sorted(KFP_USES | launcher_uses())
FORBIDDEN: tuple[Use, ...] = (
    ("", "secrets", "get", "ratchet-store-credentials"),
    ("", "secrets", "list", ""),
    ("", "secrets", "create", ""),
    ("", "configmaps", "get", "ratchet-store"),
    ("", "configmaps", "list", ""),
    # A right to one name is asked for by that name.
    ("", "configmaps", "list", "kfp-launcher"),
    ("", "secrets", "list", "mlpipeline-minio-artifact"),
    ("", "configmaps", "update", "kfp-launcher"),
    ("", "pods", "create", ""),
    ("", "pods", "delete", ""),
    ("", "pods", "get", ""),
    ("", "pods/exec", "create", ""),
    ("", "pods/ephemeralcontainers", "update", ""),
    ("", "serviceaccounts/token", "create", ""),
    ("", "nodes", "list", ""),
    ("", "namespaces", "get", ""),
    ("apps", "statefulsets", "delete", "ratchet-store"),
    ("argoproj.io", "workflows", "create", ""),
    ("argoproj.io", "workflowtaskresults", "list", ""),
    ("rbac.authorization.k8s.io", "roles", "escalate", ""),
    ("rbac.authorization.k8s.io", "rolebindings", "create", ""),
    ("trainer.kubeflow.org", "trainjobs", "list", ""),
    ("trainer.kubeflow.org", "trainjobs", "update", ""),
    ("trainer.kubeflow.org", "trainingruntimes", "create", ""),
)
"""What nothing in a run does."""
PIPELINES_EDIT: Json = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "kubeflow-pipelines-edit"},
    "rules": [
        {
            "apiGroups": ["pipelines.kubeflow.org"],
            "resources": ["runs", "pipelines", "experiments"],
            "verbs": ["get", "list", "create", "delete"],
        }
    ],
}
"""The part of a role of Kubeflow Pipelines 2.17 that `submit` needs."""


@pytest.fixture(scope="module")
def namespace(server: Server, new_namespace: Callable[[str], str]) -> str:
    """A namespace with all accounts."""
    name = new_namespace("ratchet-rights")
    server.apply_all([PIPELINES_EDIT, *composed(*COMPONENTS, namespace=name)])
    return name


def granted(server: Server, namespace: str, account: str, where: str = "") -> list[Use]:
    """Return what an account may do, of all that is used or forbidden."""
    user = f"system:serviceaccount:{namespace}:{account}"
    return [
        (group, resource, verb, name)
        for group, resource, verb, name in (*USES, *FORBIDDEN)
        if server.may(user, verb, group, resource, name, where or namespace)
    ]


@pytest.mark.parametrize("account", ["ratchet-run", "default-editor"])
def test_accounts_of_runs_may_do_what_their_pods_do_and_nothing_else(
    account: str, server: Server, namespace: str
) -> None:
    assert granted(server, namespace, account) == USES
    assert granted(server, namespace, account, where="default") == []
    assert granted(server, namespace, account, where="kube-system") == []


@pytest.mark.parametrize(
    "account",
    ["ratchet-train", "ratchet-store", "ratchet-serve", "ratchet-ci", "default"],
)
def test_no_other_account_may_do_anything(
    account: str, server: Server, namespace: str
) -> None:
    assert granted(server, namespace, account) == []


def test_ci_may_begin_runs_in_its_namespace_alone(
    server: Server, namespace: str
) -> None:
    user = f"system:serviceaccount:{namespace}:ratchet-ci"
    group = "pipelines.kubeflow.org"
    for verb in ("get", "list", "create"):
        assert server.may(user, verb, group, "runs", "", namespace)
        assert not server.may(user, verb, group, "runs", "", "default")


def test_the_token_of_ci_is_for_the_audience_of_pipelines(
    server: Server, namespace: str
) -> None:
    token = server.kubectl(
        "-n", namespace, "create", "token", "ratchet-ci", "--audience", TOKEN_AUDIENCE
    )
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["aud"] == [TOKEN_AUDIENCE]
    assert claims["sub"] == f"system:serviceaccount:{namespace}:ratchet-ci"


@pytest.mark.parametrize(
    "mutant",
    [
        mutant
        for mutant in MUTANTS
        if mutant.target.startswith("Role/") or mutant.path == "subjects.0.name"
    ],
    ids=lambda mutant: f"{mutant.target}:{mutant.path}",
)
def test_a_right_too_few_or_too_many_is_seen(
    mutant: Mutant, server: Server, new_namespace: Callable[[str], str]
) -> None:
    """The authorizer answers otherwise where a role is changed: the questions above are enough."""
    number = MUTANTS.index(mutant)
    name = new_namespace(f"ratchet-rights-{number}")
    server.apply_all(mutated(composed(namespace=name), mutant))
    of_run = granted(server, name, "ratchet-run")
    of_train = granted(server, name, "ratchet-train")
    assert (of_run, of_train) != (USES, [])
