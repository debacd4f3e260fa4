"""Small pods on a real node, which run a script of BusyBox's shell."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tests.cluster.server import Server
from tests.manifests.rendering import Json

START_SECONDS = 100.0
"""Longest time in which a pod comes or goes."""
POLL_SECONDS = 0.2
PUBLISHED = "busybox:1.36"


def images_of_nodes(server: Server) -> list[str]:
    """Return the names of all images that the nodes have."""
    return [
        str(name)
        for node in server.request("GET", "/api/v1/nodes").document["items"]
        for image in node["status"].get("images") or ()
        for name in image.get("names") or ()
    ]


def busybox(server: Server) -> str:
    """Return an image of BusyBox that a node has, else the published one."""
    for name in images_of_nodes(server):
        if "busybox" in name and "@" not in name:
            return name
    return PUBLISHED


class Pods:
    """Starts pods that Pod Security *restricted* admits."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._image = busybox(server)

    def start(
        self, name: str, namespace: str, script: str, labels: Mapping[str, str]
    ) -> None:
        """Start a pod."""
        container = {
            "name": "main",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/busybox", "sh", "-c", script],
            "resources": {
                "requests": {"cpu": "1m", "memory": "8Mi"},
                "limits": {"memory": "64Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        pod: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                    # Listens on ports below 1024 without a capability.
                    "sysctls": [
                        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
                    ],
                },
                "containers": [container],
            },
        }
        answer = self._server.create(pod, dry_run=False)
        assert answer.status == 201, answer.message

    def address(self, name: str, namespace: str) -> str:
        """Return the address of a pod, once it is ready."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            document = self._server.request("GET", _path(name, namespace)).document
            status = document.get("status") or {}
            for condition in status.get("conditions") or ():
                if condition["type"] == "Ready" and condition["status"] == "True":
                    return str(status["podIP"])
            assert time.monotonic() < deadline, f"{name} is not ready: {status}"
            time.sleep(POLL_SECONDS)

    def delete(self, name: str, namespace: str) -> None:
        """Have a pod deleted at once, if it is there."""
        self._server.request("DELETE", f"{_path(name, namespace)}?gracePeriodSeconds=0")

    def wait_until_gone(self, name: str, namespace: str) -> None:
        """Wait until a pod that was deleted is gone."""
        deadline = time.monotonic() + START_SECONDS
        while self._server.request("GET", _path(name, namespace)).status != 404:
            assert time.monotonic() < deadline, f"{name} is not gone"
            time.sleep(POLL_SECONDS)

    def execute(self, name: str, namespace: str, script: str) -> str:
        """Return what a script prints in a running pod."""
        shell = ("/bin/busybox", "sh", "-c", script)
        return self._server.kubectl("-n", namespace, "exec", name, "--", *shell)


def _path(name: str, namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
