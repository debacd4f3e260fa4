"""Checks of the room for the steps: nodes, quotas, limits and a queue that can hold them.

A pod that asks for more than any of them has stays Pending, or is refused, and nothing says so
before the step's turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.findings import Finding, Status
from components.cli.doctor.nodes import admits
from components.cli.doctor.quantities import amount, in_words
from components.cli.json_documents import Json, nested
from components.cli.package.profiles import STEPS, Nodes, Profile

KUEUE = "kueue.x-k8s.io/v1beta2"
FEWEST_NODES = 2
"""Of a training on many nodes, where no recipe says how many."""
_AUTOSCALERS = (
    "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status",
    "/apis/karpenter.sh",
)


@dataclass(frozen=True)
class Demand:
    """Pods that must be there at one time, and what they ask for together."""

    pods: str
    """Their name, in words."""
    requests: dict[str, float]
    """Resource → number: cores, bytes, GPUs."""


def room_checks(
    api: ApiServer, namespace: str, profile: Profile, num_nodes: int = FEWEST_NODES
) -> Iterator[Finding]:
    """Yield findings about the room for each step of the profile, alone.

    Args:
        api: The API server.
        namespace: Namespace of the runs.
        profile: Says what the steps ask for.
        num_nodes: Nodes of a training, where the profile trains on many.
    """
    yield _check_nodes(api, profile)
    yield from _check_quotas(api, namespace, profile, num_nodes)
    yield from _check_limits(api, namespace, profile)
    if profile.nodes and profile.nodes.queue:
        yield _check_queue(api, namespace, profile.nodes, num_nodes)


def _of_step(profile: Profile, step: str) -> Demand:
    resources = profile.resources(step)
    requests = {"cpu": amount(resources.cpu), "memory": amount(resources.memory)}
    if resources.gpus:
        requests[profile.gpu] = float(resources.gpus)
    return Demand(step, requests)


def _of_nodes(nodes: Nodes, number: int) -> Demand:
    """Return what some nodes of a training on many nodes ask for together."""
    together = {
        name: number * amount(quantity) for name, quantity in nodes.resources.items()
    }
    return Demand(
        "a node of train" if number == 1 else f"{number} nodes of train", together
    )


def _check_nodes(api: ApiServer, profile: Profile) -> Finding:
    """Return whether each step, and each node of a training, fits on some node of the cluster."""
    check = "room on the nodes"
    status, document = api.ask("/api/v1/nodes")
    if status != 200:
        return Finding(check, "skipped", f"no permission to list nodes ({status})")
    nodes = document.get("items") or []
    demands = [_of_step(profile, step) for step in STEPS]
    if profile.nodes:
        demands.append(_of_nodes(profile.nodes, 1))
    for demand in demands:
        shortage = _shortage(nodes, demand, profile)
        if shortage:
            return _too_large(api, check, shortage)
    largest = max(demands, key=lambda demand: demand.requests.get("memory", 0.0))
    requests = ", ".join(
        in_words(name, number) for name, number in largest.requests.items()
    )
    summary = f"each step fits on a node; the largest is {largest.pods}: {requests}"
    return Finding(check, "ok", summary)


def _shortage(nodes: list[Json], demand: Demand, profile: Profile) -> str:
    """Return why no node can take a pod; empty if one can, or if all that lacks are GPUs."""
    # GPUs are the matter of gpu_check, which says how many the nodes have.
    has_gpu = profile.gpu in demand.requests
    selector = profile.node_selector if has_gpu else profile.cpu_node_selector
    tolerations = profile.tolerations if has_gpu else profile.cpu_tolerations
    open_nodes = []
    for node in nodes:
        free = _allocatable(node)
        has_the_gpus = (
            not has_gpu or free.get(profile.gpu, 0.0) >= demand.requests[profile.gpu]
        )
        if admits(node, selector, tolerations) and has_the_gpus:
            open_nodes.append(free)
    if has_gpu and not open_nodes:
        return ""
    resources = ("cpu", "memory")
    requests = {
        name: demand.requests[name] for name in resources if name in demand.requests
    }
    for free in open_nodes:
        if all(free.get(name, 0.0) >= number for name, number in requests.items()):
            return ""
    requests_text = " and ".join(
        in_words(name, number) for name, number in requests.items()
    )
    maxima = [
        in_words(name, max((free.get(name, 0.0) for free in open_nodes), default=0.0))
        for name in requests
    ]
    maxima_text = " and ".join(maxima)
    return f"{demand.pods}: {requests_text}; the nodes it may use have at most {maxima_text}"


def _allocatable(node: Json) -> dict[str, float]:
    quantities = nested(node, "status", "allocatable")
    return {name: amount(quantity) for name, quantity in quantities.items()}


def _too_large(api: ApiServer, check: str, shortage: str) -> Finding:
    status: Status = "failed"
    # Nodes that are not there yet: their sizes are not known here.
    if any(api.ask(path)[0] == 200 for path in _AUTOSCALERS):
        status = "warning"
        shortage += " (an autoscaler may add larger ones)"
    cure = "take a smaller profile (--profile small), or add such a node; the pod waits for ever"
    return Finding(check, status, shortage, cure)


def _check_quotas(
    api: ApiServer, namespace: str, profile: Profile, num_nodes: int
) -> Iterator[Finding]:
    """Yield quotas that one step, or the nodes of a training beside their step, is too large for."""
    status, document = api.ask(f"/api/v1/namespaces/{namespace}/resourcequotas")
    if status != 200:
        yield Finding("quota", "skipped", f"no permission to list quotas ({status})")
        return
    demands = [_of_step(profile, step) for step in STEPS]
    if profile.nodes:
        demands.append(_and_its_step(_of_nodes(profile.nodes, num_nodes), profile))
    for quota in document.get("items") or ():
        spec = nested(quota, "spec")
        # A scope (a priority class, best effort) may leave our pods out.
        if spec.get("scopes") or spec.get("scopeSelector"):
            continue
        for problem in _over_quota(nested(spec, "hard"), demands):
            name = quota["metadata"]["name"]
            cure = (
                f"raise it in your overlay (kubectl -n {namespace} describe quota {name}); for GPUs "
                "there are the components nvidia-gpu and amd-gpu"
            )
            yield Finding("quota", "failed", f"quota {name}: {problem}", cure)


def _and_its_step(training: Demand, profile: Profile) -> Demand:
    """Return a training's demand with that of the step that waits for it."""
    requests = dict(training.requests)
    for name, number in _of_step(profile, "train").requests.items():
        requests[name] = requests.get(name, 0.0) + number
    return Demand(f"{training.pods} and their step", requests)


def _over_quota(hard: Json, demands: list[Demand]) -> Iterator[str]:
    for key, quantity in sorted(hard.items()):
        # Of memory, requests and limits are equal; of cores there is no limit.
        resource = key.removeprefix("requests.")
        if key == "limits.memory":
            resource = "memory"
        allowed = amount(quantity)
        over = [
            demand for demand in demands if demand.requests.get(resource, 0.0) > allowed
        ]
        if over:
            worst = max(over, key=lambda demand: demand.requests[resource])
            request = in_words(resource, worst.requests[resource])
            yield f"{key} is {quantity}, less than the {request} of {worst.pods}"


def _check_limits(
    api: ApiServer, namespace: str, profile: Profile
) -> Iterator[Finding]:
    """Yield LimitRanges that refuse a step's container."""
    status, document = api.ask(f"/api/v1/namespaces/{namespace}/limitranges")
    if status != 200:
        return
    limits = [
        (str(limit_range["metadata"]["name"]), limit)
        for limit_range in document.get("items") or ()
        for limit in nested(limit_range, "spec").get("limits") or ()
    ]
    # Of all LimitRanges of the namespace: one gives a container the limit that another asks for.
    has_default_cores = any("cpu" in _default_limits(limit) for _, limit in limits)
    for name, limit in limits:
        for problem in _over_limit(limit, profile, has_default_cores=has_default_cores):
            cure = f"raise it (kubectl -n {namespace} edit limitrange {name})"
            yield Finding("limits", "failed", f"limit range {name}: {problem}", cure)


def _default_limits(limit: Json) -> Json:
    """Return the limits that the server gives a container which has none of its own."""
    if limit.get("type") != "Container":
        return {}
    # Where no default is set, the server takes the maximum for it.
    return {**(limit.get("max") or {}), **(limit.get("default") or {})}


def _over_limit(
    limit: Json, profile: Profile, *, has_default_cores: bool
) -> Iterator[str]:
    if limit.get("type") not in ("Container", "Pod"):
        return
    maximum = limit.get("max") or {}
    if limit["type"] == "Pod" and "cpu" in maximum and not has_default_cores:
        # The server refuses a pod without a limit of what has a maximum, and our steps have none
        # of cores.
        yield "max.cpu is set, and steps have no CPU limit, so their pods are refused"
    default_limits = _default_limits(limit)
    if "cpu" in default_limits:
        # It becomes the step's limit, and a request above its limit is invalid.
        yield from _first_step_over(
            "cpu", "default.cpu", default_limits["cpu"], profile
        )
    if "memory" in maximum:
        yield from _first_step_over("memory", "max.memory", maximum["memory"], profile)


def _first_step_over(
    resource: str, key: str, allowed: object, profile: Profile
) -> Iterator[str]:
    for step in STEPS:
        resources = profile.resources(step)
        request = resources.cpu if resource == "cpu" else resources.memory
        if amount(request) > amount(allowed):
            yield f"{key} is {allowed}, {step} asks for {request}"
            return


def _check_queue(
    api: ApiServer, namespace: str, nodes: Nodes, num_nodes: int
) -> Finding:
    """Return whether the queue of the profile's trainings can ever admit one."""
    check = f"room in queue {nodes.queue}"
    path = f"/apis/{KUEUE}/namespaces/{namespace}/localqueues/{nodes.queue}"
    status, local_queue = api.ask(path)
    name = str(nested(local_queue, "spec").get("clusterQueue") or "")
    if not name:
        return Finding(check, "skipped", f"its ClusterQueue is not known ({status})")
    status, cluster_queue = api.ask(f"/apis/{KUEUE}/clusterqueues/{name}")
    if status == 404:
        cure = "make it (manifests/components/kueue), or correct spec.clusterQueue of the queue"
        return Finding(check, "failed", f"there is no ClusterQueue {name}", cure)
    if status != 200:
        return Finding(
            check, "skipped", f"no permission to get its ClusterQueue ({status})"
        )
    spec = nested(cluster_queue, "spec")
    training = _of_nodes(nodes, num_nodes)
    if spec.get("cohortName"):
        return Finding(check, "ok", f"ClusterQueue {name} may borrow from its cohort")
    for resource, request in training.requests.items():
        allowed = _nominal(spec, resource)
        if request > allowed:
            return Finding(
                check,
                "failed",
                f"ClusterQueue {name} has {in_words(resource, allowed)}, less than the "
                f"{in_words(resource, request)} of {training.pods}",
                "raise nominalQuota in your overlay, and the quota of the namespace with it",
            )
    return Finding(check, "ok", f"ClusterQueue {name} can hold {training.pods}")


def _nominal(spec: Json, resource: str) -> float:
    """Return the quota of a resource over all flavors of a ClusterQueue."""
    total = 0.0
    for group in spec.get("resourceGroups") or ():
        for flavor in group.get("flavors") or ():
            for entry in flavor.get("resources") or ():
                if entry.get("name") == resource:
                    total += amount(entry.get("nominalQuota", "0"))
    return total
