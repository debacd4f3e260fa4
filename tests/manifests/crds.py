"""Strict schemas of custom resources, where no package ships them: no field is allowed but those
listed.

They hold what the manifests use of Kueue v1beta2, prometheus-operator v1 and KServe v1beta1, each
with the fields' own names and types; a field that is new in the manifests must be looked up and
added here.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
TYPES = "https://kubernetes.io/api/_definitions.json"
CORE = f"{TYPES}#/$defs/io.k8s.api.core.v1."
TEXT: Json = {"type": "string", "minLength": 1}
QUANTITY: Json = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}
LABELS: Json = {"type": "object", "additionalProperties": {"type": "string"}}
SELECTOR: Json = {
    "$ref": f"{TYPES}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"
}
PORT: Json = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Json = {"type": "integer", "minimum": 0}
DURATION: Json = {"type": "string", "pattern": r"^[0-9]+(s|m|h)$"}


def record(required: Json, optional: Json | None = None) -> Json:
    """An object with these fields and no others."""
    fields = {**required, **(optional or {})}
    return {
        "type": "object",
        "properties": fields,
        "required": sorted(required),
        "additionalProperties": False,
    }


def items(of: Json) -> Json:
    """A list that is not empty."""
    return {"type": "array", "items": of, "minItems": 1}


def one_of(*values: str) -> Json:
    """One of a few words."""
    return {"type": "string", "enum": list(values)}


def core(name: str, *fields: str) -> Json:
    """Some fields of a type of Kubernetes itself."""
    return {field: {"$ref": f"{CORE}{name}/properties/{field}"} for field in fields}


_flavor = record(
    {"name": TEXT, "resources": items(record({"name": TEXT, "nominalQuota": QUANTITY}))}
)
_alert = record(
    {
        "alert": TEXT,
        "expr": TEXT,
        "labels": LABELS,
        "annotations": record({"summary": TEXT}),
    },
    {"for": DURATION},
)
_model = record(
    {
        "modelFormat": record({"name": TEXT}),
        "storageUri": {"type": "string", "pattern": "^s3://.+/$"},
    },
    core("Container", "args", "env", "resources", "securityContext", "volumeMounts"),
)
_pod = core(
    "PodSpec",
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "priorityClassName",
    "securityContext",
    "volumes",
    "tolerations",
)

SPECS: dict[tuple[str, str], Json] = {
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): record({}, {"nodeLabels": LABELS}),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): record(
        {
            "namespaceSelector": SELECTOR,
            "resourceGroups": items(
                record({"coveredResources": items(TEXT), "flavors": items(_flavor)})
            ),
        },
        {
            "queueingStrategy": one_of("BestEffortFIFO", "StrictFIFO"),
            "preemption": record(
                {
                    "withinClusterQueue": one_of(
                        "Never", "LowerPriority", "LowerOrNewerEqualPriority"
                    )
                },
            ),
        },
    ),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): record({"clusterQueue": TEXT}),
    ("monitoring.coreos.com/v1", "PodMonitor"): record(
        {
            "selector": SELECTOR,
            "podMetricsEndpoints": items(
                record({"interval": DURATION}, {"port": TEXT, "portNumber": PORT})
            ),
        }
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): record(
        {"groups": items(record({"name": TEXT, "rules": items(_alert)}))},
    ),
    ("serving.kserve.io/v1beta1", "InferenceService"): record(
        {
            "predictor": record(
                {"model": _model},
                {"minReplicas": COUNT, "maxReplicas": COUNT, "labels": LABELS, **_pod},
            )
        },
    ),
}
"""(apiVersion, kind) → schema of `spec`."""


def schema(api_version: str, kind: str) -> Json | None:
    """The schema of a custom resource; None for kinds that are not listed here."""
    spec = SPECS.get((api_version, kind))
    if spec is None:
        return None
    metadata = record(
        {"name": TEXT}, {"namespace": TEXT, "labels": LABELS, "annotations": LABELS}
    )
    needed = {"spec": spec} if spec["required"] else {}
    return record(
        {"apiVersion": TEXT, "kind": TEXT, "metadata": metadata, **needed},
        {} if needed else {"spec": spec},
    )
