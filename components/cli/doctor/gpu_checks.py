"""Check of a cluster's GPUs: nodes that have enough of them."""

from __future__ import annotations

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.findings import Finding
from components.cli.doctor.nodes import admits
from components.cli.json_documents import nested
from components.cli.package.profiles import Profile


def gpu_check(api: ApiServer, profile: Profile) -> Finding:
    """Return whether a node has the GPUs that the largest step of the profile asks for."""
    gpus_of_steps = [
        profile.resources(step).gpus for step in ("generate", "train", "evaluate")
    ]
    needed = max(*gpus_of_steps, profile.train_gpus)
    return _check_nodes(api, profile, needed)


def _check_nodes(api: ApiServer, profile: Profile, needed: int) -> Finding:
    check = "GPUs of the nodes"
    status, document = api.ask("/api/v1/nodes")
    if status != 200:
        return Finding(check, "skipped", f"no permission to list nodes ({status})")
    # A step's GPUs must be on one node. Those that other pods hold now are counted: they may be
    # free by then.
    counts = []
    for node in document.get("items") or ():
        if admits(node, profile.node_selector, profile.tolerations):
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
