"""A real cluster, which these tests fill with namespaces of their own.

`RATCHET_CLUSTER` names the kubeconfig of a cluster that may be changed at will (kind, minikube).
Else `CLUSTER` is a program that starts one and prints `export KUBECONFIG=…`; `CLUSTER api` starts
one without a node, which is enough for most of them. With neither, the tests are left out, unless
RATCHET_NEED_CLUSTER is set. The current context of `kubectl` is never used: these tests change
objects of the whole cluster.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from components.cli.doctor.api_server import ApiServer
from components.train.launch.cluster_api import LaunchPatience
from tests.cluster.definitions import published_definitions
from tests.cluster.server import Server
from tests.manifests.rendering import MANIFESTS, Json, composed, render_text
from tests.waiting import wait_until

START_SECONDS = 1800
"""The first start of a cluster may build it."""
_KUBECONFIG = re.compile(r"\bKUBECONFIG=(\S+)")


def _leave_out(reason: str) -> None:
    if os.environ.get("RATCHET_NEED_CLUSTER"):
        pytest.fail(reason)
    pytest.skip(reason)


def _started(*arguments: str) -> Path:
    """Return the kubeconfig of the cluster; start it where a program is there for that."""
    if kubeconfig := os.environ.get("RATCHET_CLUSTER"):
        return Path(kubeconfig)
    program = os.environ.get("CLUSTER")
    if not program:
        _leave_out(
            "no cluster: RATCHET_CLUSTER names no kubeconfig, CLUSTER no program"
        )
    assert program
    run = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    exported = _KUBECONFIG.search(run.stdout)
    if run.returncode or exported is None:
        raise RuntimeError(f"{program} started no cluster: {run.stderr[-2000:]}")
    return Path(exported[1])


@pytest.fixture(scope="session")
def bare_server() -> Server:
    """The API server, with its own kinds of objects alone."""
    return Server(_started("api"))


@pytest.fixture(scope="session")
def server(bare_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The API server, with the definitions of all custom resources of the manifests."""
    for file in published_definitions(tmp_path_factory.mktemp("definitions")):
        bare_server.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", str(file)
        )
    # `kubectl wait` fails on a definition that has no conditions yet.
    wait_until(bare_server.definitions_are_served)
    return bare_server


@pytest.fixture
def api(server: Server) -> ApiServer:
    """The server as `doctor` and `serve` ask it."""
    environment = {"KUBECONFIG": str(server.kubeconfig), "NO_PROXY": "*"}
    return ApiServer.from_environment(
        environment, LaunchPatience(connect_seconds=5, answer_seconds=15)
    )


@pytest.fixture(scope="session")
def node(bare_server: Server) -> Server:
    """The API server of a cluster with a node that runs pods."""
    _started()
    if not bare_server.request("GET", "/api/v1/nodes").document["items"]:
        _leave_out("the cluster has no node")
    bare_server.kubectl(
        "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=100s"
    )
    return bare_server


@pytest.fixture(scope="session")
def new_namespace(bare_server: Server) -> Iterator[Callable[[str], str]]:
    """A function that makes sure that a namespace of a name does not exist; all go at the end."""
    names: list[str] = []

    def make(name: str) -> str:
        delete = ("delete", "namespace", name, "--ignore-not-found")
        bare_server.kubectl(*delete)
        names.append(name)
        return name

    yield make
    for name in names:
        bare_server.kubectl(
            "delete", "namespace", name, "--wait=false", "--ignore-not-found"
        )


def overlay_in(name: str, namespace: str, folder: Path) -> tuple[Json, ...]:
    """Return the objects of an overlay, in another namespace."""
    manifests = os.path.relpath(MANIFESTS, folder.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "sortOptions": {"order": "fifo"},
        "namespace": namespace,
        "resources": [f"{manifests}/overlays/{name}"],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return tuple(yaml.safe_load_all(render_text(folder)))


@pytest.fixture(scope="session")
def installation(server: Server, new_namespace: Callable[[str], str]) -> str:
    """The namespace of an installation of the base, with its quotas, accounts and policies."""
    namespace = new_namespace("ratchet-admission")
    components = ("object-store", "gc", "static-credentials", "nvidia-gpu", "kserve")
    server.apply_all(composed(*components, namespace=namespace))
    # A controller makes it: without it pods that name no account are refused.
    server.kubectl("-n", namespace, "wait", "--for=create", "serviceaccount/default")
    return namespace
