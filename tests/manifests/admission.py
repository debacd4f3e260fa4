"""The admission policies, held against pods: their expressions are evaluated as the API server
would."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import cel

from components.cli.package.profiles import PRIORITY_CLASS, RUNTIME_CLASS
from tests.manifests.kfp_pods import LABELS, driver_pod
from tests.manifests.pod_security import pod_specs
from tests.manifests.rendering import Json, named, of_kind

PATCH = re.compile(r"JSONPatch\{(.*?)\}", re.DOTALL)
KEY = re.compile(r"\b(op|path|value):")
READ_ONLY = {"name": "main", "securityContext": {"readOnlyRootFilesystem": True}}
WRITABLE = {"name": "main", "securityContext": {"readOnlyRootFilesystem": False}}
SILENT = {"name": "main"}
ON_CREATION = {
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "operations": ["CREATE"],
    "resources": ["pods"],
    "scope": "*",
}
ON_DEBUGGING = {
    **ON_CREATION,
    "operations": ["UPDATE"],
    "resources": ["pods/ephemeralcontainers"],
}


def admission_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """Wrong verdicts of the policies among these objects, and policies that nothing binds to our
    namespace."""
    ours = {
        label
        for one in of_kind(objects, "Namespace")
        for label in one["metadata"]["labels"].items()
    }
    for policy in of_kind(
        objects, "ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"
    ):
        validating = policy["kind"] == "ValidatingAdmissionPolicy"
        bindings = of_kind(objects, f"{policy['kind']}Binding")
        if not any(_binds(one, policy, ours) for one in bindings):
            yield f"admission: {named(policy)} is not in force in the namespace"
        if policy["spec"].get("failurePolicy") != "Fail":
            yield f"admission: {named(policy)} lets pass what it cannot check"
        for rule in (ON_CREATION, ON_DEBUGGING) if validating else (ON_CREATION,):
            if rule not in policy["spec"]["matchConstraints"]["resourceRules"]:
                yield f"admission: {named(policy)} does not look at {rule['resources']}"
        for text in (
            _validating(policy, objects)
            if validating
            else MUTATING[named(policy)](policy)
        ):
            yield f"admission: {named(policy)} {text}"


def _binds(binding: Json, policy: Json, ours: set[tuple[str, str]]) -> bool:
    spec = binding["spec"]
    labels = spec["matchResources"]["namespaceSelector"]["matchLabels"]
    denies = spec.get("validationActions", ["Deny"]) == ["Deny"]
    return (
        spec["policyName"] == policy["metadata"]["name"]
        and set(labels.items()) <= ours
        and denies
    )


def _validating(policy: Json, objects: tuple[Json, ...]) -> Iterator[str]:
    for verdict, what, pod in (
        (True, "a pod that writes nothing", _pod(containers=[READ_ONLY])),
        (False, "a pod that may write", _pod(containers=[WRITABLE])),
        (False, "a pod that says nothing", _pod(containers=[SILENT])),
        (
            False,
            "a second container that may write",
            _pod(containers=[READ_ONLY, WRITABLE]),
        ),
        (
            False,
            "an init container that may write",
            _pod(containers=[READ_ONLY], initContainers=[WRITABLE]),
        ),
        (
            False,
            "a debugging container",
            _pod(containers=[READ_ONLY], ephemeralContainers=[SILENT]),
        ),
        (True, "a step of a pipeline run", _pod(LABELS, containers=[SILENT])),
        *(
            (True, named(one), {"metadata": {}, "spec": spec})
            for one in objects
            for spec in pod_specs(one)
        ),
    ):
        if _admits(policy["spec"], pod) is not verdict:
            yield f"{'refuses' if verdict else 'admits'} {what}"


def _read_only_steps(policy: Json) -> Iterator[str]:
    step = {**SILENT, "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    for verdict, what, pod in (
        (True, "a step with a /tmp", _pod(LABELS, containers=[{"name": "wait"}, step])),
        (False, "a step without a /tmp", _pod(LABELS, containers=[SILENT])),
        (False, "KFP's driver", {"metadata": {"labels": LABELS}, "spec": driver_pod()}),
        (False, "a pod of no run", _pod(containers=[step])),
    ):
        if _matches(policy["spec"], pod) is not verdict:
            yield f"{'does not change' if verdict else 'changes'} {what}"
    text = "".join(
        one["applyConfiguration"]["expression"] for one in policy["spec"]["mutations"]
    )
    if 'name: "main"' not in text or "readOnlyRootFilesystem: true" not in text:
        yield "does not make the step's root read-only"


def _step_classes(policy: Json) -> Iterator[str]:
    both = {RUNTIME_CLASS: "nvidia", PRIORITY_CLASS: "steps"}
    as_admitted = {"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}
    wanted = {"runtimeClassName": "nvidia", "priorityClassName": "steps"}
    for what, labels, marks, spec, expected in (
        ("a step with both classes", LABELS, both, as_admitted, wanted),
        ("a step that has them", LABELS, both, wanted, wanted),
        (
            "a step of another class",
            LABELS,
            {PRIORITY_CLASS: "steps"},
            {**as_admitted, "priorityClassName": "default"},
            {"priorityClassName": "steps"},
        ),
        (
            "a step with a runtime class alone",
            LABELS,
            {RUNTIME_CLASS: "nvidia"},
            as_admitted,
            {**as_admitted, "runtimeClassName": "nvidia"},
        ),
        ("a step without classes", LABELS, {"other": "x"}, as_admitted, as_admitted),
        ("a pod of no run", {"app": "x"}, both, as_admitted, as_admitted),
    ):
        metadata = {"labels": labels, "annotations": marks}
        if (
            _patched(policy["spec"], {"metadata": metadata, "spec": dict(spec)})
            != expected
        ):
            yield f"gives {what} other classes"


MUTATING: dict[str, Callable[[Json], Iterator[str]]] = {
    "MutatingAdmissionPolicy/ratchet-read-only-root-steps": _read_only_steps,
    "MutatingAdmissionPolicy/ratchet-step-classes": _step_classes,
}


def _patched(spec: Json, pod: Json) -> Json:
    """The spec of a pod after the JSON patches of a policy."""
    patched: Json = dict(pod["spec"])
    if not _matches(spec, pod):
        return patched
    for mutation in spec["mutations"]:
        # The evaluator knows no types of the API server: a patch is a mapping to it.
        expression = PATCH.sub(
            lambda match: "{" + KEY.sub(r'"\1":', match[1]) + "}",
            mutation["jsonPatch"]["expression"],
        )
        for operation in cel.evaluate(expression, {"object": pod}):
            field = operation["path"].removeprefix("/spec/")
            if operation["op"] == "remove":
                del patched[field]
            else:
                patched[field] = operation["value"]
    return patched


def _pod(labels: dict[str, str] | None = None, **spec: object) -> Json:
    return {"metadata": {"labels": labels} if labels else {}, "spec": spec}


def _matches(spec: Json, pod: Json) -> bool:
    return all(
        cel.evaluate(one["expression"], {"object": pod})
        for one in spec.get("matchConditions") or ()
    )


def _admits(spec: Json, pod: Json) -> bool:
    if not _matches(spec, pod):
        return True
    variables = {
        one["name"]: cel.evaluate(one["expression"], {"object": pod})
        for one in spec.get("variables") or ()
    }
    return all(
        cel.evaluate(one["expression"], {"object": pod, "variables": variables})
        for one in spec["validations"]
    )
