"""Checks of a cluster's GPUs: nodes that have enough of them, and room in the quota."""

from __future__ import annotations

from collections.abc import Iterator

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.findings import Finding
from components.cli.json_documents import Json, nested
from components.cli.package.profiles import Profile, Toleration

_REPELLING_EFFECTS = ("NoSchedule", "NoExecute")


def gpu_checks(api: ApiServer, namespace: str, profile: Profile) -> Iterator[Finding]:
    """Yield findings about the GPUs that the largest step of the profile asks for."""
    gpus_of_steps = [profile.resources(step).gpus for step in ("generate", "train", "evaluate")]
    needed = max(*gpus_of_steps, profile.train_gpus)
    yield _check_nodes(api, profile, needed)
    yield from _check_quotas(api, namespace, profile.gpu, needed)


def _check_nodes(api: ApiServer, profile: Profile, needed: int) -> Finding:
    check = "GPUs of the nodes"
    status, document = api.ask("/api/v1/nodes")
    if status != 200:
        return Finding(check, "skipped", f"no permission to list nodes ({status})")
    # A step's GPUs must be on one node. Those that other pods hold now are counted: they may be
    # free by then.
    counts = []
    for node in document.get("items") or ():
        if _admits(node, profile):
            allocatable = nested(node, "status", "allocatable")
            counts.append(int(allocatable.get(profile.gpu) or 0))
    num_large_enough = sum(count >= needed for count in counts)
    if num_large_enough:
        observation = f"{num_large_enough} nodes have {needed} or more of {profile.gpu}"
        return Finding(check, "ok", observation)
    return Finding(
        check,
        "failed",
        f"no node has {needed} of {profile.gpu}, at most {max(counts, default=0)}",
        "take a smaller profile, add such a node, or check labels and taints (node_selector, "
        "tolerations)",
    )


def _check_quotas(api: ApiServer, namespace: str, gpu: str, needed: int) -> Iterator[Finding]:
    status, document = api.ask(f"/api/v1/namespaces/{namespace}/resourcequotas")
    if status != 200:
        return
    # Quotas name extended resources such as GPUs only by their requests.
    key = f"requests.{gpu}"
    for quota in document.get("items") or ():
        allowed = nested(quota, "spec", "hard").get(key)
        if allowed is not None and int(allowed) < needed:
            quota_name = quota["metadata"]["name"]
            yield Finding(
                "GPUs of the quota",
                "failed",
                f"{quota_name} allows {allowed} of {gpu}, a step takes {needed}",
                f"raise {key} (manifests/components/nvidia-gpu)",
            )


def _admits(node: Json, profile: Profile) -> bool:
    """Return whether a node's labels and taints let pods of this profile onto it."""
    labels = nested(node, "metadata", "labels")
    if nested(node, "spec").get("unschedulable"):
        return False
    if not profile.node_selector.items() <= labels.items():
        return False
    for taint in nested(node, "spec").get("taints") or ():
        if taint.get("effect") in _REPELLING_EFFECTS and not any(
            _tolerates(toleration, taint) for toleration in profile.tolerations
        ):
            return False
    return True


def _tolerates(toleration: Toleration, taint: Json) -> bool:
    # An empty key or effect tolerates all of them.
    return (
        toleration.key in ("", taint["key"])
        and toleration.effect in ("", taint["effect"])
        and (toleration.operator == "Exists" or toleration.value == taint.get("value", ""))
    )
