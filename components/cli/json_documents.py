"""JSON documents of other programs: compiled pipelines, and answers of Kubeflow and Kubernetes.

Their schemas are not ours and grow with every version, so they are read field by field.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def nested(document: Json, *keys: str) -> Any:
    """Return the value under a path of keys; an empty mapping where a key is missing or null."""
    value: Any = document
    for key in keys:
        # Servers leave a field out, or send null; both mean that there is none.
        value = value.get(key) or {}
    return value
