"""A real API server, asked over HTTP, and with `kubectl` as a user does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.manifests.rendering import Json, kubectl, named

FIELD_MANAGER = "ratchet-tests"
REQUEST_SECONDS = 30
KUBECTL_SECONDS = 120


class Answer(NamedTuple):
    """An answer of the server."""

    status: int
    document: Json

    @property
    def message(self) -> str:
        """The server's own words, where it refused."""
        return str(self.document.get("message") or "")


class Server:
    """The API server that a kubeconfig names."""

    def __init__(self, kubeconfig: Path) -> None:
        from kubernetes import client, config

        self.kubeconfig = kubeconfig
        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        # A proxy of the machine must not get between the tests and a cluster on it.
        configuration.proxy = None
        self._api = client.ApiClient(configuration)
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content: str = "application/json",
    ) -> Answer:
        """Return the answer to one request, whatever its status."""
        from kubernetes.client.exceptions import ApiException

        try:
            response = self._api.call_api(
                path,
                method,
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _request_timeout=REQUEST_SECONDS,
                _preload_content=False,
                _return_http_data_only=False,
            )
            return Answer(response[1], _document(response[0].data))
        except ApiException as error:
            return Answer(int(error.status), _document(error.body))

    def text(self, path: str) -> str:
        """Return the answer to a GET as text, whatever its status."""
        from kubernetes.client.exceptions import ApiException

        try:
            response = self._api.call_api(
                path,
                "GET",
                auth_settings=["BearerToken"],
                _request_timeout=REQUEST_SECONDS,
                _preload_content=False,
                _return_http_data_only=False,
            )
        except ApiException as error:
            return str(error.body)
        return bytes(response[0].data).decode(errors="replace")

    def path(self, one: Json, *, collection: bool = False) -> str:
        """Return the path of an object. Raises KeyError for a kind that the server does not know."""
        plural, namespaced = self._resource(one["apiVersion"], one["kind"])
        prefix = "/api" if "/" not in one["apiVersion"] else "/apis"
        namespace = one["metadata"].get("namespace", "default")
        folder = f"{prefix}/{one['apiVersion']}"
        folder += f"/namespaces/{namespace}/{plural}" if namespaced else f"/{plural}"
        return folder if collection else f"{folder}/{one['metadata']['name']}"

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        if api_version not in self._resources:
            prefix = "/api" if "/" not in api_version else "/apis"
            answer = self.request("GET", f"{prefix}/{api_version}")
            self._resources[api_version] = {
                entry["kind"]: (entry["name"], entry["namespaced"])
                for entry in answer.document.get("resources", ())
                if "/" not in entry["name"]
            }
        return self._resources[api_version][kind]

    def serves(self, one: Json) -> bool:
        """Return whether the server knows the kind of an object."""
        try:
            self._resource(one["apiVersion"], one["kind"])
        except KeyError:
            return False
        return True

    def definitions_are_served(self) -> bool:
        """Return whether the server serves the kinds of all definitions of custom resources."""
        answer = self.request(
            "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        )
        return all(
            any(
                condition["type"] == "Established" and condition["status"] == "True"
                for condition in entry.get("status", {}).get("conditions") or ()
            )
            for entry in answer.document["items"]
        )

    def create(self, one: Json, *, dry_run: bool = True) -> Answer:
        """Create an object; a dry run goes through admission and stores nothing."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.request("POST", self.path(one, collection=True) + query, one)

    def apply(self, one: Json, *, dry_run: bool = True) -> Answer:
        """Apply an object on the server's side; unknown fields are errors."""
        query = f"?fieldManager={FIELD_MANAGER}&fieldValidation=Strict&force=true"
        query += "&dryRun=All" if dry_run else ""
        content = "application/apply-patch+yaml"
        return self.request("PATCH", self.path(one) + query, one, content=content)

    def may(
        self, user: str, verb: str, group: str, resource: str, name: str, where: str
    ) -> bool:
        """Return whether the server's authorizer lets a user do something in a namespace."""
        kind, _, subresource = resource.partition("/")
        attributes = {
            "namespace": where,
            "verb": verb,
            "group": group,
            "resource": kind,
            "subresource": subresource,
            "name": name,
        }
        # The groups that the server gives every service account.
        _, _, namespace, _ = user.split(":")
        groups = [
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        ]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"resourceAttributes": attributes, "user": user, "groups": groups},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = self.request("POST", path, review)
        assert answer.status == 201, answer.message
        return bool(answer.document["status"]["allowed"])

    def kubectl(self, *arguments: str, text: str = "", check: bool = True) -> str:
        """Return what `kubectl` printed. Raises RuntimeError with its message if it fails."""
        run = subprocess.run(
            [kubectl(), *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=KUBECTL_SECONDS,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )
        if check and run.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {run.stderr[-2000:]}")
        return run.stdout if check else run.stdout + run.stderr

    def apply_all(self, objects: Iterable[Json]) -> dict[str, str]:
        """Apply objects as `kubectl apply` does; return object → its word (created, unchanged)."""
        documents = yaml.safe_dump_all(objects)
        lines = self.kubectl("apply", "-f", "-", text=documents).splitlines()
        return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}

    def missing_kinds(self, objects: Iterable[Json]) -> list[str]:
        """Return the objects whose kind the server does not know."""
        return [named(one) for one in objects if not self.serves(one)]


def _document(body: Any) -> Json:
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        return {"message": str(body)}
    return document if isinstance(document, dict) else {}
