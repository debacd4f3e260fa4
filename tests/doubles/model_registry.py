"""Kubeflow Model Registry in memory: the entries that releases need, by the rules of its server.

From its OpenAPI document and what a real server was seen to do (0.3.8): unknown fields and values
of the wrong type are refused, names are unique below their parent, and custom properties are
replaced as a whole.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.network import Answering
from tests.doubles.served import Served

Json = dict[str, Any]
PATH = "/api/model_registry/v1alpha3"
COMMON = {"name", "description", "customProperties", "externalId"}
FIELDS = {
    "registered_models": COMMON
    | {"owner", "state", "license", "licenseLink", "libraryName", "provider", "readme"},
    "model_versions": COMMON | {"registeredModelId", "author", "state"},
    "artifacts": COMMON
    | {
        "artifactType",
        "uri",
        "state",
        "modelFormatName",
        "modelFormatVersion",
        "modelSourceKind",
        "modelSourceClass",
        "modelSourceGroup",
        "modelSourceId",
        "modelSourceName",
        "storageKey",
        "storagePath",
        "serviceAccountName",
    },
}
VALUES = {
    "MetadataStringValue": ("string_value", str),
    "MetadataDoubleValue": ("double_value", float),
}


class ModelRegistryServer(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Json]] = {name: [] for name in FIELDS}
        self._lock = threading.Lock()
        self._parents: dict[str, str] = {}
        """Id of an artifact → id of its version."""
        self.serve(self._handler())

    def carry_out(self, method: str, target: str, body: Json) -> tuple[int, Json]:
        """The answer to a request, after its effect."""
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix(PATH).strip("/").split("/")
        with self._lock:
            match method, path:
                case "GET", ["registered_model"]:
                    return self._find("registered_models", query, "")
                case "GET", ["model_version"]:
                    return self._find(
                        "model_versions", query, query.get("parentResourceId", "-")
                    )
                case "GET", ["model_artifact"]:
                    return self._find(
                        "artifacts", query, query.get("parentResourceId", "-")
                    )
                case "POST", ["registered_models"]:
                    return self._create("registered_models", body, "")
                case "POST", ["model_versions"]:
                    return self._create(
                        "model_versions", body, body.get("registeredModelId", "")
                    )
                case "POST", ["model_versions", version, "artifacts"]:
                    return self._create("artifacts", body, version)
                case "PATCH", ["registered_models", model]:
                    return self._change("registered_models", model, body)
        return 404, {"code": "404", "message": "page not found"}

    def _parent_of(self, kind: str, entry: Json) -> str:
        if kind == "artifacts":
            return self._parents[entry["id"]]
        return str(entry.get("registeredModelId", ""))

    def _find(self, kind: str, query: dict[str, str], parent: str) -> tuple[int, Json]:
        if kind != "registered_models" and not {"name", "parentResourceId"} <= set(
            query
        ):
            return 400, {
                "code": "Bad Request",
                "message": "supply name and parentResourceId",
            }
        for entry in self.entries[kind]:
            if (entry["name"], self._parent_of(kind, entry)) == (
                query.get("name"),
                parent,
            ):
                return 200, entry
        return 404, {
            "code": "Not Found",
            "message": f"no {kind} found for name={query.get('name')}",
        }

    def _create(self, kind: str, body: Json, parent: str) -> tuple[int, Json]:
        if problem := _problem(kind, body) or self._without_parent(kind, parent):
            return 400, {"code": "Bad Request", "message": problem}
        if (
            self._find(
                kind, {"name": body["name"], "parentResourceId": parent}, parent
            )[0]
            == 200
        ):
            return 409, {
                "code": "Conflict",
                "message": f"{body['name']} already exists",
            }
        number = sum(len(entries) for entries in self.entries.values()) + 1
        entry = {"id": str(number), "state": "LIVE", **body}
        self._parents[entry["id"]] = parent
        self.entries[kind].append(entry)
        return 201, entry

    def _without_parent(self, kind: str, parent: str) -> str:
        above = {
            "model_versions": "registered_models",
            "artifacts": "model_versions",
        }.get(kind)
        ids = {entry["id"] for entry in self.entries[above]} if above else {parent}
        return "" if parent in ids else f"no {above} with id {parent}"

    def _change(self, kind: str, entry_id: str, body: Json) -> tuple[int, Json]:
        if problem := _problem(kind, {"name": "-", **body}):
            return 400, {"code": "Bad Request", "message": problem}
        for entry in self.entries[kind]:
            if entry["id"] == entry_id:
                entry.update(body)
                return 200, entry
        return 404, {"code": "Not Found", "message": f"no {kind} with id {entry_id}"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(Answering):
            def _serve(self) -> None:
                self.answer(
                    *registry.carry_out(self.command, self.path, self.sent_json())
                )

            do_GET = do_POST = do_PATCH = _serve

        return Handler


def _problem(kind: str, body: Json) -> str:
    """What the server's decoder has against a document; empty if it takes it."""
    if unknown := set(body) - FIELDS[kind]:
        return f'json: unknown field "{min(unknown)}"'
    if not body.get("name"):
        return "required field 'name' is zero value."
    for name, value in body.items():
        if name == "customProperties":
            for key, property_value in value.items():
                field, kind_of_value = VALUES.get(
                    property_value.get("metadataType"), ("", None)
                )
                if set(property_value) != {"metadataType", field} or not isinstance(
                    property_value[field], kind_of_value or ()
                ):
                    return f"{key}: no valid value"
        elif not isinstance(value, str):
            return f"json: cannot unmarshal {name} into a string"
    return ""
