"""The table of connections, tried by real pods on a node whose network plugin enforces policies.

What `tests/manifests/network.py` says of a policy is our reading of the reference; this is what a
network plugin makes of the same policies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.pods import Pods
from tests.cluster.server import Server
from tests.manifests.network import End
from tests.manifests.rendering import COMPONENTS, composed, of_kind
from tests.manifests.rows import ENDS, ROWS, Row

OURS = "ratchet-connections"
PATIENCE_SECONDS = 60
"""A network plugin needs a moment after a policy was changed."""
LEAST_ROWS = 30
OWN_PODS = {name: end for name, end in ENDS.items() if end.namespace and name != "DNS"}
"""Ends that are pods of this test."""
NOT_PODS = ("Kubernetes API", "Kubernetes API on its node")
"""Ends outside the pods that every cluster has."""
TRIED = tuple(
    row
    for row in ROWS
    if (ENDS[row.target].namespace or row.target in NOT_PODS)
    and (row.protocol == "TCP" or row.target == "DNS")
)
"""Rows without addresses outside the cluster."""
_TCP = "/bin/busybox nc -w 2 {address} {port} </dev/null"
_UDP = "/bin/busybox nslookup kubernetes.default.svc.cluster.local {address}"


class Table:
    """Pods for all ends of the table, and what reaches what."""

    def __init__(self, server: Server) -> None:
        self._pods = Pods(server)
        self._server = server
        self._addresses: dict[str, str] = {}

    def start(self) -> None:
        """Start a pod for each end, which listens on all ports of its rows."""
        for name, end in OWN_PODS.items():
            ports = sorted({row.port for row in TRIED if row.target == name})
            servers = [f"/bin/busybox httpd -p {port} -h /" for port in ports]
            script = "; ".join([*servers, "sleep 36000"])
            self._pods.start(pod_name(name), namespace_of(end), script, end.labels)
        for name, end in OWN_PODS.items():
            self._addresses[name] = self._pods.address(
                pod_name(name), namespace_of(end)
            )
        self._addresses["DNS"] = self._address_of_dns()
        service = self._server.request(
            "GET", "/api/v1/namespaces/default/services/kubernetes"
        )
        self._addresses["Kubernetes API"] = service.document["spec"]["clusterIP"]
        slices = (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
        )
        [endpoint, *_] = self._server.request("GET", slices).document["endpoints"]
        self._addresses["Kubernetes API on its node"] = endpoint["addresses"][0]

    def delete(self) -> None:
        """Delete the pods."""
        for name, end in OWN_PODS.items():
            self._pods.delete(pod_name(name), namespace_of(end))
        for name, end in OWN_PODS.items():
            self._pods.wait_until_gone(pod_name(name), namespace_of(end))

    def wrong_rows(self, open_rows: Collection[Row]) -> list[str]:
        """Return the rows that are open and should not be, or the other way round.

        They are looked at until there are none: a plugin needs a moment.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            wrong = set(open_rows) ^ self._reached()
            if not wrong or time.monotonic() > deadline:
                return sorted(
                    f"{row.source} → {row.target} {row.protocol} {row.port}"
                    for row in wrong
                )

    def _address_of_dns(self) -> str:
        pods = self._server.request(
            "GET", "/api/v1/namespaces/kube-system/pods"
        ).document
        return next(
            str(pod["status"]["podIP"])
            for pod in pods["items"]
            if pod["metadata"].get("labels", {}).get("k8s-app") == "kube-dns"
        )

    def _reached(self) -> set[Row]:
        """Return the rows whose target answers."""
        sources = {row.source for row in TRIED}
        with ThreadPoolExecutor(4) as threads:
            return set().union(*threads.map(self._reached_from, sources))

    def _reached_from(self, source: str) -> set[Row]:
        rows = [row for row in TRIED if row.source == source]
        commands = []
        for number, row in enumerate(rows):
            template = _TCP if row.protocol == "TCP" else _UDP
            command = template.format(
                address=self._addresses[row.target], port=row.port
            )
            commands.append(f"{{ {command} >/dev/null 2>&1 && echo {number}; }} &")
        # Side by side: what a policy drops takes until the time-out.
        script = " ".join([*commands, "wait"])
        output = self._pods.execute(
            pod_name(source), namespace_of(ENDS[source]), script
        )
        return {rows[int(number)] for number in output.split()}


def pod_name(end: str) -> str:
    """Return the name of the pod of an end."""
    words = end.lower().replace("'", "").replace(" ", "-")
    return f"ratchet-tests-{words}"


def namespace_of(end: End) -> str:
    """Return the namespace of an end's pod; ours has another name on the test's cluster."""
    return OURS if end.namespace == "ratchet" else end.namespace


@pytest.fixture(scope="module")
def table(node: Server, new_namespace: Callable[[str], str]) -> Iterator[Table]:
    """The pods; those of this project are in a namespace that has no policies yet."""
    namespaces = {
        namespace_of(end): dict(end.namespace_labels)
        for end in ENDS.values()
        if end.namespace
    }
    # The policies name the others, so they are used as they are where the cluster has them.
    made = [name for name in namespaces if name == OURS or not exists(node, name)]
    for name in made:
        labels = {**namespaces[name], "kubernetes.io/metadata.name": name}
        metadata = {"name": new_namespace(name), "labels": labels}
        node.apply_all(
            [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}]
        )
        # A controller makes it: without it pods that name no account are refused.
        node.kubectl("-n", name, "wait", "--for=create", "serviceaccount/default")
    table = Table(node)
    table.delete()
    table.start()
    yield table
    table.delete()


def exists(server: Server, namespace: str) -> bool:
    """Return whether a namespace is there."""
    return server.request("GET", f"/api/v1/namespaces/{namespace}").status == 200


def test_the_table_holds_between_real_pods(
    table: Table, node: Server, record_property: Callable[[str, object], None]
) -> None:
    assert len(TRIED) >= LEAST_ROWS
    # Without policies everything is open: a row that is closed later is closed by a policy.
    assert table.wrong_rows(TRIED) == []
    # Every component at once opens what any of them opens, and the base alone the least.
    for components in (COMPONENTS, ()):
        objects = composed(*components, namespace=OURS)
        node.kubectl("-n", OURS, "delete", "networkpolicy", "--all")
        node.apply_all(of_kind(objects, "NetworkPolicy"))
        opened = {"base", *components}
        assert (
            table.wrong_rows([row for row in TRIED if opened & set(row.opened_by)])
            == []
        )
    record_property("connections", len(TRIED))
