"""Nodes of a cluster, as the scheduler looks at them for a pod."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from components.cli.json_documents import Json, nested
from components.cli.package.profiles import Toleration

_REPELLING_EFFECTS = ("NoSchedule", "NoExecute")


def admits(
    node: Json, selector: Mapping[str, str], tolerations: Iterable[Toleration]
) -> bool:
    """Return whether a node's labels and taints let a pod onto it."""
    labels = nested(node, "metadata", "labels")
    if nested(node, "spec").get("unschedulable"):
        return False
    if not selector.items() <= labels.items():
        return False
    for taint in nested(node, "spec").get("taints") or ():
        if taint.get("effect") in _REPELLING_EFFECTS and not any(
            _tolerates(toleration, taint) for toleration in tolerations
        ):
            return False
    return True


def _tolerates(toleration: Toleration, taint: Json) -> bool:
    # An empty key or effect tolerates all of them.
    return (
        toleration.key in ("", taint["key"])
        and toleration.effect in ("", taint["effect"])
        and (
            toleration.operator == "Exists"
            or toleration.value == taint.get("value", "")
        )
    )
