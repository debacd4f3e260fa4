"""Checks of the classes that a profile names: RuntimeClass, PriorityClass, and what sets them."""

from __future__ import annotations

from collections.abc import Iterator

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.findings import Finding
from components.cli.package.profiles import Profile

_RUNTIME_CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
_PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
_POLICY = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/ratchet-step-classes"


def class_checks(api: ApiServer, profile: Profile) -> Iterator[Finding]:
    """Yield findings about the classes of a profile; none if it names none.

    Args:
        api: The API server.
        profile: Names the classes.
    """
    runtime_classes = {profile.runtime_class, profile.cpu_runtime_class} - {""}
    for name in sorted(runtime_classes):
        cure = "install it with its runtime, or correct runtime_class in the profile"
        yield _presence(api, f"runtimeclass {name}", f"{_RUNTIME_CLASSES}/{name}", cure)
    priority_class = profile.priority_class
    if priority_class:
        cure = f"kubectl create priorityclass {priority_class} --value=100, or correct the profile"
        path = f"{_PRIORITY_CLASSES}/{priority_class}"
        yield _presence(api, f"priorityclass {priority_class}", path, cure)
    if runtime_classes or priority_class:
        cure = (
            "list the component step-classes in your overlay (Kubernetes 1.36), or have Argo set "
            "podSpecPatch and podPriorityClassName in its workflowDefaults"
        )
        yield _presence(api, "what gives steps their classes", _POLICY, cure)


def _presence(api: ApiServer, check: str, path: str, cure: str) -> Finding:
    status, _ = api.ask(path)
    match status:
        case 200:
            return Finding(check, "ok", "is there")
        case 404:
            return Finding(check, "failed", "is not in the cluster", cure)
    return Finding(check, "skipped", f"no permission to look ({status})")
