"""InferenceServices of a Kubernetes API server in memory, with server-side apply.

By the rules of the real one: what a manager applied before and leaves out now is removed, the
fields of others stay, and a field of another manager is taken over by force alone.
"""

from __future__ import annotations

import copy
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.kubernetes_api import problem
from tests.doubles.network import Answering
from tests.doubles.served import Served

Json = dict[str, Any]
ROOT = "/apis/serving.kserve.io/v1beta1/namespaces/"


class KserveApi(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.services: dict[str, Json] = {}
        """`namespace/name` → InferenceService."""
        self.applied: dict[str, Json] = {}
        """`namespace/name` → what the manager `ratchet` applied last."""
        self.installed = True
        self.denied: set[str] = set()
        """Methods that the caller has no permission for."""
        self.requests: list[str] = []
        """Methods, in order."""
        self.serve(self._handler())

    def carry_out(
        self, method: str, target: str, body: Json, kind: str
    ) -> tuple[int, Any]:
        """The answer to a request, after its effect."""
        parts = urlsplit(target)
        self.requests.append(method)
        if not self.installed or not parts.path.startswith(ROOT):
            return 404, b"404 page not found\n"
        namespace, _, name = parts.path.removeprefix(ROOT).split("/")
        if method in self.denied:
            return 403, problem(403, "Forbidden", f"cannot {method} inferenceservices")
        key = f"{namespace}/{name}"
        if method == "GET":
            if key not in self.services:
                return 404, problem(
                    404, "NotFound", f'inferenceservices "{name}" not found'
                )
            return 200, self.services[key]
        query = parse_qs(parts.query)
        assert (kind, query["fieldManager"], query["fieldValidation"]) == (
            "application/apply-patch+yaml",
            ["ratchet"],
            ["Strict"],
        )
        service = copy.deepcopy(self.services.get(key, {}))
        _remove(service, self.applied.get(key, {}), body)
        if _conflicts(service, body) and query.get("force") != ["true"]:
            return 409, problem(409, "Conflict", "Apply failed with 1 conflict")
        _merge(service, body)
        self.services[key], self.applied[key] = service, body
        return 200, service

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(Answering):
            def _serve(self) -> None:
                kind = self.headers.get("Content-Type", "")
                self.answer(
                    *api.carry_out(self.command, self.path, self.sent_json(), kind)
                )

            do_GET = do_PATCH = _serve

        return Handler


def _remove(service: Json, applied: Json, wanted: Json) -> None:
    """Remove the fields that were applied and are not wanted any more."""
    for name, part in applied.items():
        if isinstance(part, dict) and isinstance(service.get(name), dict):
            _remove(service[name], part, wanted.get(name, {}))
        elif name not in wanted:
            service.pop(name, None)


def _conflicts(service: Json, wanted: Json) -> bool:
    """Whether a field has another value, which somebody else gave it."""
    for name, part in wanted.items():
        if isinstance(part, dict):
            if _conflicts(service.get(name, {}), part):
                return True
        elif name in service and service[name] != part:
            return True
    return False


def _merge(service: Json, wanted: Json) -> None:
    for name, part in wanted.items():
        if isinstance(part, dict):
            _merge(service.setdefault(name, {}), part)
        else:
            service[name] = part
