"""Pods of steps on a real node, as the compiled pipeline describes them.

The container has the image, command, arguments, environment, volumes, resources and user of the
pipeline package. Two parts of Kubeflow Pipelines have stand-ins, as there is no backend: the
image's entry point is the first process and passes SIGTERM on to the group of the command, as
Argo's executor does, and a line of shell writes the input artifact, as KFP's launcher does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from components.cli.package.package_file import Package
from tests.cluster.server import Server
from tests.manifests.kfp_pods import CONFINED, LABELS
from tests.manifests.rendering import Json

PATIENCE_SECONDS = 300
POLL_SECONDS = 1.0
_INPUT = "/tmp/input"
_OUTPUT = "/tmp/output"
_WRITE_INPUT = f'printf %s "$1" >{_INPUT}; shift; exec "$@"'
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Input:
    """What a step is given."""

    parameters: Json
    artifact: str
    """Name of its input artifact."""
    pointer: str
    """Content of the artifact."""
    output: str
    """Name of its output artifact."""

    def to_json(self) -> str:
        """Return the argument of KFP's executor."""
        return json.dumps(
            {
                "inputs": {
                    "parameterValues": self.parameters,
                    "artifacts": {
                        self.artifact: _artifact(self.artifact, "Dataset", _INPUT)
                    },
                },
                "outputs": {
                    "artifacts": {
                        self.output: _artifact(self.output, "Model", _OUTPUT)
                    },
                    "outputFile": "/tmp/executor_output.json",
                },
            }
        )


def _artifact(name: str, kind: str, path: str) -> Json:
    schema = {"schemaTitle": f"system.{kind}", "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": name, "type": schema, "uri": path, "metadata": {}}]}


def step_container(
    package: Package, executor: str, step_input: Input, source: str = ""
) -> tuple[Json, list[Json]]:
    """Return (container, volumes) of an executor of a pipeline package.

    Args:
        package: The compiled pipeline.
        executor: Name of the executor in it.
        step_input: What the step is given.
        source: Source of another component to run in its place.
    """
    pipeline, platform = yaml.safe_load_all(package.text)
    container = pipeline["deploymentSpec"]["executors"][executor]["container"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][
        executor
    ]
    arguments = [
        step_input.to_json() if argument == "{{$}}" else argument
        for argument in container["args"]
    ]
    command = list(container["command"])
    if source:
        command[-1] = source
    mounts = settings["emptyDirMounts"]
    resources = container["resources"]
    user = settings["securityContext"]
    spec = {
        "name": "main",
        "image": container["image"],
        "imagePullPolicy": "IfNotPresent",
        # `args`, not `command`: the image's entry point stands in for Argo's executor.
        "args": [
            "sh",
            "-ec",
            _WRITE_INPUT,
            "launcher",
            step_input.pointer,
            *command,
            *arguments,
        ],
        "env": [*_from_config_maps(settings), *_from_secrets(settings)],
        "resources": {
            "requests": {
                "cpu": resources["resourceCpuRequest"],
                "memory": resources["resourceMemoryRequest"],
            },
            "limits": {"memory": resources["resourceMemoryLimit"]},
        },
        "securityContext": {
            **CONFINED,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": user["runAsNonRoot"],
            "runAsUser": int(user["runAsUser"]),
        },
        "volumeMounts": [
            {"name": mount["volumeName"], "mountPath": mount["mountPath"]}
            for mount in mounts
        ],
    }
    volumes = [
        {
            "name": mount["volumeName"],
            "emptyDir": {
                "sizeLimit": mount["sizeLimit"],
                **({"medium": mount["medium"]} if mount.get("medium") else {}),
            },
        }
        for mount in mounts
    ]
    return spec, volumes


def _from_config_maps(settings: Json) -> list[Json]:
    return [
        _variable(
            "configMapKeyRef",
            source["configMapName"],
            one["configMapKey"],
            one["envVar"],
        )
        for source in settings["configMapAsEnv"]
        for one in source["keyToEnv"]
    ]


def _from_secrets(settings: Json) -> list[Json]:
    return [
        _variable("secretKeyRef", source["secretName"], one["secretKey"], one["envVar"])
        for source in settings["secretAsEnv"]
        for one in source["keyToEnv"]
    ]


def _variable(reference: str, name: str, key: str, variable: str) -> Json:
    return {
        "name": variable,
        "valueFrom": {reference: {"name": name, "key": key, "optional": True}},
    }


class StepPods:
    """Starts pods of steps in a namespace of the manifests, and looks at them."""

    def __init__(self, server: Server, namespace: str) -> None:
        self._server = server
        self.namespace = namespace

    def start(self, name: str, container: Json, volumes: list[Json]) -> None:
        """Start a pod as Argo would for a run."""
        metadata = {"name": name, "namespace": self.namespace, "labels": LABELS}
        pod: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": "ratchet-run",
                "automountServiceAccountToken": False,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
                "volumes": volumes,
            },
        }
        answer = self._server.create(pod, dry_run=False)
        assert answer.status == 201, answer.message

    def status(self, name: str) -> Json:
        """Return the status of a pod; empty if it is gone."""
        document = self._server.request("GET", self.path(name)).document
        status: Json = document.get("status", {})
        # Of a pod that is not there the server answers with an object of the kind Status.
        return status if isinstance(status, dict) else {}

    def path(self, name: str) -> str:
        """Return the path of a pod."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{name}"

    def log(self, name: str) -> str:
        """Return what a pod's container has written so far."""
        return self._server.text(f"{self.path(name)}/log")

    def execute(self, name: str, *command: str, check: bool = True) -> str:
        """Return what a command prints in a running container."""
        options = ("-n", self.namespace, "exec", name, "--", *command)
        return self._server.kubectl(*options, check=check)

    def delete(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        self._server.request("DELETE", self.path(name))
        self.wait_until_gone(name)

    def evict(self, name: str) -> None:
        """Evict a pod by the API and wait until it is gone."""
        metadata = {"name": name, "namespace": self.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        answer = self._server.request("POST", f"{self.path(name)}/eviction", eviction)
        assert answer.status == 201, answer.message
        self.wait_until_gone(name)

    def wait_until_gone(self, name: str) -> None:
        """Wait until a pod is gone."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._server.request("GET", self.path(name)).status != 404:
            assert time.monotonic() < deadline, f"{name} is not gone"
            time.sleep(POLL_SECONDS)

    def wait_for(self, name: str, condition: Callable[[Json], Any], what: str) -> None:
        """Wait until a condition holds of a pod's status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(status := self.status(name)):
            if status.get("phase") in _ENDED or time.monotonic() > deadline:
                # It may have come about with the end.
                assert condition(self.status(name)), (
                    f"{name}: not {what}: {self.log(name)}"
                )
            time.sleep(POLL_SECONDS)

    def wait_for_words(self, name: str, words: str) -> None:
        """Wait until a pod's log has some words."""
        self.wait_for(name, lambda _: words in self.log(name), f"'{words}' in the log")

    def scale_store(self, replicas: int) -> None:
        """Stop the store of the manifests, or start it again."""
        store = "statefulset/ratchet-store"
        self._server.kubectl(
            "-n", self.namespace, "scale", store, f"--replicas={replicas}"
        )
        if not replicas:
            self.wait_until_gone("ratchet-store-0")

    def is_lost(self, name: str) -> bool:
        """Return whether a pod is gone, or has failed."""
        return self.status(name).get("phase", "gone") in ("gone", "Failed")

    def wait_until_lost(self, name: str) -> None:
        """Wait until a pod is gone, or has failed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.is_lost(name):
            assert time.monotonic() < deadline, f"{name} goes on: {self.log(name)}"
            time.sleep(POLL_SECONDS)

    def ended_out_of_memory(self, name: str) -> bool:
        """Wait for the end of a pod, and return whether the lack of memory failed it."""
        self.ended(name)
        [container] = self.status(name)["containerStatuses"]
        end = container["state"]["terminated"]
        return bool(end["exitCode"]) and end.get("reason") == "OOMKilled"

    def ended(self, name: str) -> tuple[int, str]:
        """Return (exit status, log) of a pod's container, once the pod has ended."""
        self.wait_for(name, lambda status: status.get("phase") in _ENDED, "ended")
        status = self.status(name)
        [container] = status["containerStatuses"]
        return int(container["state"]["terminated"]["exitCode"]), self.log(name)
