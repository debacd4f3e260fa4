"""Has KServe serve the release in force: one field of an InferenceService, by server-side apply."""

from __future__ import annotations

from dataclasses import dataclass

from components.cli.doctor.api_server import ApiServer
from components.cli.json_documents import Json, nested
from components.cli.releases import lines_of, require_files
from components.contracts.releases import Line
from components.errors import Transient, UserError, one_line
from components.runtime.context import Context

MANAGER = "ratchet"
"""Field manager, which owns the model's address, its share of the requests and its annotation."""
RELEASE = "ratchet.dev/release"
"""Annotation with name, version and line of the release."""
API = "serving.kserve.io/v1beta1"
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
WITHOUT_SHARES = ("RawDeployment", "Standard")
"""Deployment modes in which KServe knows one revision of a model only."""


@dataclass(frozen=True)
class Served:
    """What an InferenceService serves after `serve`."""

    service: str
    """`namespace/name`."""
    version: str
    line: int
    uri: str
    canary_percent: int | None
    """Share of the requests that this version gets; None: all."""
    changed: bool


def serve(
    context: Context,
    server: ApiServer,
    name: str,
    *,
    namespace: str,
    service: str,
    canary_percent: int | None = None,
) -> Served:
    """Have an InferenceService serve the release in force, and return what it serves.

    Done again, nothing changes. All other fields of the object stay whose they are.

    Args:
        context: Store of the ledger.
        server: API server of the cluster.
        name: Name of the releases.
        namespace: Namespace of the InferenceService.
        service: Its name. It must be there: the manifests make it, with its limits and policies.
        canary_percent: Share of the requests that this version gets, the last one before it gets
            the others; None: all.

    Raises:
        UserError: Nothing was released, KServe cannot fetch from this store, or the cluster has no
            such service or no canary.
        Corrupt: A file of the release is gone.
        Transient: The API server cannot answer now.
    """
    line = lines_of(context, name)[-1]
    if not context.store.root.startswith("s3://"):
        raise UserError(
            f"KServe cannot fetch a model from {context.store.root}; serve from a store s3://…"
        )
    require_files(context, line)
    path = f"/apis/{API}/namespaces/{namespace}/inferenceservices/{service}"
    current = _existing(server, path, namespace, service)
    uri = f"{context.store.root}/{line.prefix}"
    _require_canary(current, service, canary_percent)
    own_fields = _fields(namespace, service, line, uri, canary_percent)
    is_served = _served_fields(current) == _served_fields(own_fields)
    if not is_served:
        _apply(server, path, own_fields)
    return Served(
        service=f"{namespace}/{service}",
        version=line.version,
        line=line.number,
        uri=uri,
        canary_percent=canary_percent,
        changed=not is_served,
    )


def _existing(server: ApiServer, path: str, namespace: str, service: str) -> Json:
    """Return the InferenceService. Raises UserError if there is none."""
    status, document = server.ask(path)
    if status == 200:
        return document
    message = one_line(str(document.get("message") or status))
    if status == 404 and document.get("reason") == "NotFound":
        raise UserError(
            f"namespace {namespace} has no InferenceService {service}: apply an overlay with the "
            "component `kserve` (manifests/README.md), or name yours by --service and --namespace"
        )
    if status == 404:
        raise UserError(
            f"{server.server} does not know {API}: KServe is not installed there"
        )
    if status == 403:
        raise UserError(
            f"no permission to get inferenceservices in namespace {namespace} ({message}); `serve` "
            "needs get and patch"
        )
    raise UserError(
        f"{server.server} does not show InferenceService {service}: {message}"
    )


def _require_canary(current: Json, service: str, canary_percent: int | None) -> None:
    """Raise UserError for a share that KServe would ignore."""
    mode = nested(current, "metadata", "annotations", DEPLOYMENT_MODE)
    if canary_percent is not None and mode in WITHOUT_SHARES:
        raise UserError(
            f"InferenceService {service} has deployment mode {mode}, in which KServe splits no "
            "requests: leave --canary-percent out, or deploy it on Knative"
        )


def _fields(
    namespace: str, service: str, line: Line, uri: str, canary_percent: int | None
) -> Json:
    """Return the fields that `serve` owns. One that it owned before and leaves out is removed."""
    predictor: Json = {"model": {"storageUri": uri}}
    if canary_percent is not None:
        predictor["canaryTrafficPercent"] = canary_percent
    release = f"{line.name} {line.version} (line {line.number})"
    return {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {
            "name": service,
            "namespace": namespace,
            "annotations": {RELEASE: release},
        },
        "spec": {"predictor": predictor},
    }


def _served_fields(document: Json) -> tuple[object, object, object]:
    predictor = ("spec", "predictor")
    return (
        nested(document, *predictor, "model", "storageUri"),
        nested(document, *predictor, "canaryTrafficPercent"),
        nested(document, "metadata", "annotations", RELEASE),
    )


def _apply(server: ApiServer, path: str, own_fields: Json) -> None:
    status, document = server.apply(path, own_fields, MANAGER)
    if status == 200:
        return
    message = one_line(str(document.get("message") or status))
    # Somebody deleted or changed it since it was read.
    if status in (404, 409):
        raise Transient(f"{server.server}: {message}; the same command tries it again")
    raise UserError(
        f"{server.server} refuses the InferenceService ({message}); `serve` needs the rights get "
        "and patch on inferenceservices"
    )
