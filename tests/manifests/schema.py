"""What the API server would refuse of an object: unknown fields, wrong types, missing ones. No
cluster is asked."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import (
    TrainerV1alpha1TrainingRuntime,
)
from kubernetes_validate.utils import schema_contents
from pydantic import ValidationError
from referencing import Registry, Resource

from tests.manifests import crds
from tests.manifests.pod_security import pod_specs
from tests.manifests.rendering import Json

OLDEST, NEWEST = "1.30", "1.37"
"""Releases of Kubernetes whose schemas an object must meet, both of them."""
SINCE = {"MutatingAdmissionPolicy": "1.36", "MutatingAdmissionPolicyBinding": "1.36"}
"""Kinds that the oldest does not know."""


@functools.cache
def schema_findings(document: str) -> tuple[str, ...]:
    """The faults of one object, given as JSON."""
    one = json.loads(document)
    if one["apiVersion"].startswith("trainer.kubeflow.org"):
        return tuple(_of_runtime(one))
    custom = crds.schema(one["apiVersion"], one["kind"])
    if custom is not None:
        errors = Draft202012Validator(custom, registry=_core_types(NEWEST)).iter_errors(
            one
        )
        return tuple(f"{error.json_path}: {error.message[:200]}" for error in errors)
    return tuple(_of_kubernetes(one))


def _of_kubernetes(one: Json) -> Iterator[str]:
    for release in (SINCE.get(one["kind"], OLDEST), NEWEST):
        validator = _validator(one["apiVersion"], one["kind"], release)
        if validator is None:
            yield f"{release} has no {one['kind']} of {one['apiVersion']}"
            continue
        error = best_match(validator.iter_errors(one))
        if error is not None:
            yield f"{release}: {error.json_path}: {error.message[:200]}"


@functools.cache
def _validator(
    api_version: str, kind: str, release: str
) -> Draft202012Validator | None:
    """Return what checks objects of a kind, or None where the release does not know the kind."""
    # The files are named by the first part of the group: rbac.authorization.k8s.io/v1 → rbac-v1.
    group, _, version = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], version)))
    try:
        schema = schema_contents(f"{_folder(release)}/{name}.json", release)
    except FileNotFoundError:
        return None
    return Draft202012Validator(schema, registry=_core_types(release))


def _of_runtime(one: Json) -> Iterator[str]:
    """The Trainer's typed models drop what they do not know: what comes back must be what went in.
    The pods are held against Kubernetes' own schema as well, whose types are stricter."""
    try:
        typed = TrainerV1alpha1TrainingRuntime.from_dict(one)
    except ValidationError as error:
        yield str(error.errors()[0])
        return
    if typed is None or typed.to_dict() != one:
        yield "the models of Kubeflow Trainer 2.3 drop or add a field"
    for spec in pod_specs(one):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod"},
            "spec": spec,
        }
        yield from schema_findings(json.dumps(pod))


@functools.cache
def _core_types(release: str) -> Registry[Json]:
    """The types of Kubernetes' own objects, which the schemas of kinds refer to."""
    contents = schema_contents(f"{_folder(release)}/_definitions.json", release)
    resource: Resource[Json] = Resource.from_contents(contents)
    return resource @ Registry()


def _folder(release: str) -> str:
    return f"kubernetes-json-schema/v{release}.0-local-strict"
