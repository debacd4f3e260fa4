"""The Pod Security Standard *restricted* of Kubernetes 1.37, control by control, and the pods it is
held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
SECCOMP = ("RuntimeDefault", "Localhost")
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = (
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
)


def pod_specs(one: Json) -> Iterator[Json]:
    """The specs of the pods that an object makes."""
    match one["kind"]:
        case "Pod":
            yield one["spec"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
            yield one["spec"]["template"]["spec"]
        case "CronJob":
            yield one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        case "TrainingRuntime" | "ClusterTrainingRuntime":
            for job in one["spec"]["template"]["spec"]["replicatedJobs"]:
                yield job["template"]["spec"]["template"]["spec"]
        case "InferenceService":
            yield _predictor(one["spec"]["predictor"])


def _predictor(predictor: Json) -> Json:
    """KServe makes one container of `model`, and one before it that fetches the model with the same
    context."""
    container = {"name": "kserve-container", **predictor["model"]}
    fetch = {
        "name": "storage-initializer",
        "securityContext": container.get("securityContext", {}),
    }
    return {**predictor, "containers": [container], "initContainers": [fetch]}


def containers(spec: Json) -> list[Json]:
    """All containers of a pod."""
    return [
        one
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for one in spec.get(kind) or ()
    ]


def violations(spec: Json) -> list[tuple[str, str]]:
    """(control, where) for everything by which a pod does not meet the standard."""
    pod = spec.get("securityContext") or {}
    found = [(control, "pod") for control, broken in _of_pod(spec, pod) if broken]
    for one in containers(spec):
        found += [
            (control, one["name"])
            for control, broken in _of_container(one, pod)
            if broken
        ]
    return found


def _of_pod(spec: Json, context: Json) -> Iterator[tuple[str, bool]]:
    yield (
        "host namespaces",
        any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
    )
    for volume in spec.get("volumes") or ():
        yield "volume types", not set(volume) - {"name"} <= VOLUMES
    yield (
        "sysctls",
        not {one["name"] for one in context.get("sysctls") or ()} <= SYSCTLS,
    )
    yield (
        "windows host process",
        bool((context.get("windowsOptions") or {}).get("hostProcess")),
    )
    yield from _shared(context)
    yield "run as non-root user", context.get("runAsUser") == 0


def _of_container(one: Json, pod: Json) -> Iterator[tuple[str, bool]]:
    context = one.get("securityContext") or {}
    capabilities = context.get("capabilities") or {}
    yield "privileged containers", bool(context.get("privileged"))
    yield "privilege escalation", context.get("allowPrivilegeEscalation") is not False
    yield "capabilities: drop ALL", "ALL" not in (capabilities.get("drop") or ())
    yield (
        "capabilities: add",
        not set(capabilities.get("add") or ()) <= {"NET_BIND_SERVICE"},
    )
    yield (
        "run as non-root",
        context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True,
    )
    yield "run as non-root user", context.get("runAsUser") == 0
    seccomp = context.get("seccompProfile") or pod.get("seccompProfile") or {}
    yield "seccomp", seccomp.get("type") not in SECCOMP
    yield "host ports", any(port.get("hostPort") for port in one.get("ports") or ())
    yield "/proc mount type", context.get("procMount", "Default") != "Default"
    yield (
        "windows host process",
        bool((context.get("windowsOptions") or {}).get("hostProcess")),
    )
    yield (
        "host of probes and hooks",
        any(action.get("host") for action in _network_actions(one)),
    )
    yield from _shared(context)


def _shared(context: Json) -> Iterator[tuple[str, bool]]:
    yield (
        "AppArmor",
        (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault")
        not in SECCOMP,
    )
    linux = context.get("seLinuxOptions") or {}
    yield (
        "SELinux",
        linux.get("type", "") not in SELINUX_TYPES
        or bool(linux.get("user") or linux.get("role")),
    )


def _network_actions(one: Json) -> Iterator[Json]:
    hooks = one.get("lifecycle") or {}
    probes = [
        one.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")
    ]
    for probe in (*probes, hooks.get("postStart"), hooks.get("preStop")):
        for action in ("httpGet", "tcpSocket"):
            if probe and probe.get(action):
                yield probe[action]


def of_the_house(spec: Json) -> list[str]:
    """What our own pods do beyond the standard: nothing is written but to volumes, no token, a
    limit of memory."""
    found = [
        f"{one['name']} may write to its image"
        for one in containers(spec)
        if (one.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True
    ]
    if spec.get("automountServiceAccountToken") is not False:
        found.append("has a token of the API server")
    if spec.get("enableServiceLinks") is not False:
        found.append("has the cluster's services in its environment")
    if not spec.get("priorityClassName"):
        found.append("has no priority class")
    return found
