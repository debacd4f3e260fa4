"""Rules for a compiled pipeline: faults that Kubeflow Pipelines 2.17 compiles without a word.

A package that breaks one is carried out wrongly, or not at all, on a cluster or by kfp.local.
`findings` reads the compiled YAML, not our source, so it holds for any package that `submit` is
given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

from components.cli.json_documents import nested
from components.cli.package.lint_flow import guards, loops, merges, placeholders
from components.cli.package.lint_pods import pods, resources, retries, shells
from components.cli.package.package_file import Package
from components.cli.package.secret_values import looks_secret
from components.cli.package.workflow_size import MAX_NODES, workflow_size

MAX_BYTES = 400_000

# KFP passes parameters through its database and pod arguments; larger values belong into the store.
MAX_PARAMETER_BYTES = 100_000


def findings(package: Package) -> list[str]:
    """Return every fault as `rule: fault, task`; empty for a sound package."""
    faults = []
    for rule, check in RULES.items():
        faults += [f"{rule}: {fault}" for fault in check(package)]
    return faults


def _size(package: Package) -> Iterator[str]:
    size = len(package.text.encode())
    if size > MAX_BYTES:
        yield f"{size:,} bytes, {MAX_BYTES:,} are allowed"


def _workflow(package: Package) -> Iterator[str]:
    nodes = workflow_size(package).nodes
    if nodes > MAX_NODES:
        yield (
            f"a run has {nodes} nodes, and a Workflow holds {MAX_NODES}: unroll fewer rounds "
            "(--rounds) and go on by resume_from, or sample in fewer shards (generate.shards)"
        )


def _caching(package: Package) -> Iterator[str]:
    # KFP's cache key is inputs, image name and command: a changed object is not noticed.
    for name, task, _ in package.tasks():
        if nested(task, "cachingOptions").get("enableCache"):
            yield f"{name} may be answered from KFP's cache, which checks no stored bytes"


def _unique_names(package: Package) -> Iterator[str]:
    with_container = [
        name for name, task, _ in package.tasks() if package.container(task)
    ]
    for name, count in Counter(with_container).items():
        if count > 1:
            yield f"{count} tasks are called {name}; the UI looks artifacts up by name"


def _parameters(package: Package) -> Iterator[str]:
    for name, definition in package.parameters.items():
        if definition.get("isOptional") and "defaultValue" not in definition:
            yield f"{name} is optional without a default; kfp.local fails on it"
        default = json.dumps(definition.get("defaultValue", ""))
        size = len(default.encode())
        if size > MAX_PARAMETER_BYTES:
            yield f"{name}: default of {size:,} bytes, {MAX_PARAMETER_BYTES:,} are allowed"


def _importers(package: Package) -> Iterator[str]:
    for name, executor in package.executors.items():
        uri = nested(executor, "importer", "artifactUri")
        if "runtimeParameter" in uri:
            yield f"{name} imports an address that is known only at run time; the backend fails"


def _secrets(package: Package) -> Iterator[str]:
    # A package may name a Secret; a value in it is shown to everybody who may see the run.
    for name, definition in package.parameters.items():
        if looks_secret(name, definition.get("defaultValue")):
            yield f"the default of parameter {name} looks like a secret"
    for name, task, _ in package.tasks():
        for key, source in nested(task, "inputs", "parameters").items():
            if looks_secret(key, nested(source, "runtimeValue").get("constant")):
                yield f"argument {key} of {name} looks like a secret"
    for name, container in package.containers():
        for variable in container.get("env", ()):
            if looks_secret(str(variable["name"]), variable.get("value")):
                yield (
                    f"variable {variable['name']} of {name} looks like a secret; take it from a "
                    "Secret by its name"
                )


RULES: dict[str, Callable[[Package], Iterator[str]]] = {
    "size": _size,
    "workflow": _workflow,
    "cache": _caching,
    "names": _unique_names,
    "guards": guards,
    "merges": merges,
    "loops": loops,
    "placeholders": placeholders,
    "parameters": _parameters,
    "importers": _importers,
    "shells": shells,
    "resources": resources,
    "patience": retries,
    "pods": pods,
    "secrets": _secrets,
}
"""Name of a rule → the faults of a package by it."""
