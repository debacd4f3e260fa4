"""What a compiled pipeline must not contain: what Kubeflow Pipelines 2.17 compiles without a word
and then carries out wrongly, or not at all, on a cluster or by kfp.local.

`findings` reads the compiled YAML, not our source, so it holds for any package that `submit` is
given.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.canonical import digest_of
from components.cli.package.secret_values import looks_secret
from components.errors import UserError

Json = dict[str, Any]
MAX_BYTES = 400_000
MAX_TASKS = 60
"""A run of 56 tasks was a workflow object of 1.95 MiB; a cluster stores 2 MiB."""
MAX_PARAMETER_BYTES = 100_000
_NO_PLACEHOLDERS = re.compile(
    r"\{\{\$\.(pipeline_root|pipeline_job_resource_name|pipeline_job_\w*time\w*|\w+_time_utc)"
)
_PLACEHOLDER = re.compile(r"\{\{\$\.[^}]*\}\}")
_CONDITION = re.compile(
    r"!?\(?inputs\.parameter_values\['(?P<input>[^']+)'\] == (?P<value>true|false|-?[\d.]+|'[^']*')\)?"
)
_LOCAL_EXECUTOR = "kfp.dsl.executor_main"


class Package:
    """A compiled pipeline, taken apart."""

    def __init__(self, text: str) -> None:
        """Raises UserError if the text is no compiled pipeline."""
        try:
            documents = list(
                yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            )
        except yaml.YAMLError as error:
            raise UserError(f"not YAML ({' '.join(str(error).split())[:200]})") from None
        if (
            not documents
            or not isinstance(documents[0], dict)
            or "pipelineInfo" not in documents[0]
        ):
            raise UserError(
                "not a compiled pipeline; make one by `python pipeline.py compile RECIPE -o FILE`"
            )
        self.text, self.spec = text, documents[0]
        platform = documents[1] if len(documents) > 1 and documents[1] else {}
        self.platform: Json = platform
        self.components: Json = self.spec.get("components", {})
        self.executors: Json = self.spec.get("deploymentSpec", {}).get("executors", {})
        kubernetes = platform.get("platforms", {}).get("kubernetes", {})
        self.settings: Json = kubernetes.get("deploymentSpec", {}).get("executors", {})

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the package says; comments and the order of keys do not count."""
        return digest_of([self.spec, self.platform])

    @property
    def name(self) -> str:
        """Name of the pipeline."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def parameters(self) -> Json:
        """The pipeline's own parameters: name → definition."""
        found: Json = self.spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        return found

    def levels(self) -> Iterator[tuple[str, Json]]:
        """(name, tasks) of the root and of every component that has tasks."""
        for name, one in (("root", self.spec.get("root", {})), *self.components.items()):
            if "dag" in one:
                yield name, one["dag"].get("tasks", {})

    def tasks(self) -> Iterator[tuple[str, Json, Json]]:
        """(name, task, its siblings and itself) on all levels."""
        for _, tasks in self.levels():
            for name, task in tasks.items():
                yield name, task, tasks

    def component(self, task: Json) -> Json:
        """What a task is made of."""
        found: Json = self.components.get(task["componentRef"]["name"], {})
        return found

    def container(self, task: Json) -> Json | None:
        """The container that a task runs; None for one that is made of tasks."""
        label = self.component(task).get("executorLabel")
        found: Json | None = self.executors.get(label, {}).get("container") if label else None
        return found


def read_package(path: Path) -> Package:
    """A compiled pipeline from a file. Raises UserError."""
    try:
        return Package(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def findings(package: Package) -> list[str]:
    """Everything that is wrong, each as `rule: what, where`; empty for a sound package."""
    return [f"{rule}: {what}" for rule, check in RULES.items() for what in check(package)]


def _small(package: Package) -> Iterator[str]:
    if (size := len(package.text.encode())) > MAX_BYTES:
        yield f"{size:,} bytes, {MAX_BYTES:,} are allowed"


def _few_tasks(package: Package) -> Iterator[str]:
    if (count := sum(1 for _ in package.tasks())) > MAX_TASKS:
        yield f"{count} tasks; more than {MAX_TASKS} cannot be retried: unroll fewer rounds, and go on by resume_from"


def _uncached(package: Package) -> Iterator[str]:
    for name, task, _ in package.tasks():
        if task.get("cachingOptions", {}).get("enableCache"):
            yield f"{name} may be answered from KFP's cache, which checks no stored bytes"


def _own_names(package: Package) -> Iterator[str]:
    counts = Counter(
        name for name, task, _ in package.tasks() if package.container(task) is not None
    )
    for name, count in counts.items():
        if count > 1:
            yield f"{count} tasks are called {name}; the UI looks artifacts up by name"


def _guards(package: Package) -> Iterator[str]:
    """Conditions, their operands and their other halves."""
    for name, task, siblings in package.tasks():
        condition = task.get("triggerPolicy", {}).get("condition")
        if condition is None:
            continue
        match = _CONDITION.fullmatch(condition)
        if match is None:
            yield f"{name}: `{condition}` is not one comparison with a constant without quotes in it"
            continue
        source = task.get("inputs", {}).get("parameters", {}).get(match["input"], {})
        if "componentInputParameter" not in source:
            yield f"{name} is guarded by a task's output; hand it to a sub-pipeline as its input"
        others = [
            one.get("triggerPolicy", {}).get("condition")
            for key, one in siblings.items()
            if key != name
        ]
        negation = condition[2:-1] if condition.startswith("!(") else f"!({condition})"
        if negation not in others:
            yield f"{name} has no other branch; a lone If that is false stays running for ever"


def _merges(package: Package) -> Iterator[str]:
    """OneOf: parameters alone, of all branches, each from an uncached container; and somebody reads
    it."""
    for level, component in package.components.items():
        outputs = component.get("dag", {}).get("outputs", {})
        for name, output in outputs.get("artifacts", {}).items():
            if len(output.get("artifactSelectors", ())) > 1 or "valueFromOneof" in output:
                yield f"{level}.{name} merges artifacts; kfp.local cannot"
        for name, output in outputs.get("parameters", {}).items():
            selectors = output.get("valueFromOneof", {}).get("parameterSelectors")
            if selectors is None:
                continue
            tasks = component["dag"]["tasks"]
            if {one["producerSubtask"] for one in selectors} != set(tasks):
                yield f"{level}.{name} does not take from every branch"
            for one in selectors:
                branch = tasks.get(one["producerSubtask"])
                producer = _producer(package, branch, one["outputParameterKey"]) if branch else None
                if producer is None or package.container(producer) is None:
                    yield f"{level}.{name}: branch {one['producerSubtask']} ends in no container of its own"
            if not any(_readers(package, level, name)):
                yield f"{level}.{name} is read by no task but a guard, if at all; it dangles on the backend"


def _readers(package: Package, component: str, key: str) -> Iterator[bool]:
    """True for everything that takes an output of a component, save guards."""
    for dag in (
        one["dag"] for one in (package.spec["root"], *package.components.values()) if "dag" in one
    ):
        makers = {
            name for name, task in dag["tasks"].items() if task["componentRef"]["name"] == component
        }
        for one in dag.get("outputs", {}).get("parameters", {}).values():
            source = one.get("valueFromParameter", {})
            yield (
                source.get("producerSubtask") in makers and source.get("outputParameterKey") == key
            )
        for task in (
            one for one in dag["tasks"].values() if "condition" not in one.get("triggerPolicy", {})
        ):
            for given in task.get("inputs", {}).get("parameters", {}).values():
                source = given.get("taskOutputParameter", {})
                yield (
                    source.get("producerTask") in makers and source.get("outputParameterKey") == key
                )


def _producer(package: Package, task: Json, key: str) -> Json | None:
    """The task that really makes an output of a task."""
    dag = package.component(task).get("dag")
    if dag is None:
        return task
    source = dag.get("outputs", {}).get("parameters", {}).get(key, {}).get("valueFromParameter")
    return (
        _producer(package, dag["tasks"][source["producerSubtask"]], source["outputParameterKey"])
        if source
        else None
    )


def _loops(package: Package) -> Iterator[str]:
    """kfp.local replaces every upstream output that a loop's body uses by the loop's item."""
    for name, task, _ in package.tasks():
        if "parameterIterator" not in task and "artifactIterator" not in task:
            continue
        if "artifactIterator" in task:
            yield f"{name} loops over artifacts; kfp.local cannot"
        for key, source in task.get("inputs", {}).get("parameters", {}).items():
            if "taskOutputParameter" in source:
                yield f"{name} uses the output {key} of another task; hand it to a sub-pipeline as its input"


def _placeholders(package: Package) -> Iterator[str]:
    """Only as a whole argument, and only those that both the cluster and kfp.local know."""
    for name, task, _ in package.tasks():
        for key, source in task.get("inputs", {}).get("parameters", {}).items():
            value = source.get("runtimeValue", {}).get("constant")
            if isinstance(value, str) and _PLACEHOLDER.search(value):
                if _NO_PLACEHOLDERS.search(value):
                    yield f"{name}.{key}: {value} is not known everywhere"
                elif not _PLACEHOLDER.fullmatch(value):
                    yield f"{name}.{key}: a placeholder within other text stays as it is"
    for name, executor in package.executors.items():
        for one in executor.get("container", {}).get("env", ()):
            if "{{$" in str(one.get("value", "")):
                yield f"{name}: variable {one['name']} holds a placeholder, which stays as it is"


def _parameters(package: Package) -> Iterator[str]:
    for name, definition in package.parameters.items():
        if definition.get("isOptional") and "defaultValue" not in definition:
            yield f"{name} is optional without a default; kfp.local fails on it"
        size = len(json.dumps(definition.get("defaultValue", "")).encode())
        if size > MAX_PARAMETER_BYTES:
            yield f"{name}: default of {size:,} bytes, {MAX_PARAMETER_BYTES:,} are allowed"


def _importers(package: Package) -> Iterator[str]:
    for name, executor in package.executors.items():
        if "runtimeParameter" in executor.get("importer", {}).get("artifactUri", {}):
            yield f"{name} imports an address that is known only at run time; the backend fails"


def _shells(package: Package) -> Iterator[str]:
    """Thin Python components over our own images: nothing is installed as they start."""
    for name, executor in package.executors.items():
        container = executor.get("container")
        if container is None:
            continue
        command = " ".join(map(str, (*container.get("command", ()), *container.get("args", ()))))
        if "pip install" in command:
            yield f"{name} installs packages as it starts"
        if _LOCAL_EXECUTOR not in command:
            yield f"{name} is no Python component; its artifacts vanish under kfp.local"
        image = str(container.get("image", ""))
        _, _, last = image.rpartition("/")
        if "{{$" in image or (
            "@sha256:" not in image and (":" not in last or image.endswith(":latest"))
        ):
            yield f"{name}: image {image} is not one certain image; give a digest or a tag"


def _resources(package: Package) -> Iterator[str]:
    """All constant: settings fed by a parameter are not routed into a guarded round."""
    for name, executor in package.executors.items():
        given = executor.get("container", {}).get("resources", {})
        if "{{$" in str(given):
            yield f"{name}: resources from a parameter do not reach a guarded round"
        if not {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(given):
            yield f"{name} says not what processor and memory it needs"
        gpu = given.get("accelerator")
        if gpu is not None and (
            not str(gpu.get("resourceCount", "")).isdigit() or not gpu.get("resourceType")
        ):
            yield f"{name}: GPUs need a type and a number that is a constant"


def _patience(package: Package) -> Iterator[str]:
    for name, task, _ in package.tasks():
        policy = task.get("retryPolicy")
        if package.container(task) is None:
            if policy is not None:
                yield f"{name}: kfp.local ignores retries of a sub-pipeline"
        elif policy is None:
            yield f"{name} is not tried again when its node is lost"
        elif float(str(policy.get("backoffDuration", "0s")).rstrip("s")) <= 0:
            yield f"{name} is tried again without a pause"
    for name in package.executors:
        if int(package.settings.get(name, {}).get("activeDeadlineSeconds", 0)) <= 0:
            yield f"{name} may run for ever"


def _pods(package: Package) -> Iterator[str]:
    """Users, volumes and marks of the pods."""
    for name in package.executors:
        given = package.settings.get(name, {})
        user = given.get("securityContext", {})
        if user.get("runAsNonRoot") is not True or int(user.get("runAsUser", 0)) == 0:
            yield f"{name} may run as root"
        mounts = {one["mountPath"]: one for one in given.get("emptyDirMounts", ())}
        if "/tmp" not in mounts:
            yield f"{name} has nowhere to write when its root is read-only: no emptyDir at /tmp"
        if mounts.get("/dev/shm", {}).get("medium") != "Memory":
            yield f"{name} has 64 MiB of shared memory at most: no emptyDir in memory at /dev/shm"
        if any(not one.get("sizeLimit") for one in mounts.values()):
            yield f"{name}: an emptyDir without a size may fill the node"
        if given.get("pvcMount"):
            yield f"{name} shares a volume; data goes through the store"
        if not given.get("podMetadata", {}).get("labels"):
            yield f"{name} has no labels"


def _secrets(package: Package) -> Iterator[str]:
    """Names of secrets may be in a package, values never."""
    for name, definition in package.parameters.items():
        if looks_secret(name, definition.get("defaultValue")):
            yield f"the default of parameter {name} looks like a secret"
    for name, task, _ in package.tasks():
        for key, source in task.get("inputs", {}).get("parameters", {}).items():
            if looks_secret(key, source.get("runtimeValue", {}).get("constant")):
                yield f"argument {key} of {name} looks like a secret"
    for name, executor in package.executors.items():
        for one in executor.get("container", {}).get("env", ()):
            if looks_secret(str(one["name"]), one.get("value")):
                yield f"variable {one['name']} of {name} looks like a secret; take it from a Secret by its name"


RULES = {
    "size": _small,
    "tasks": _few_tasks,
    "cache": _uncached,
    "names": _own_names,
    "guards": _guards,
    "merges": _merges,
    "loops": _loops,
    "placeholders": _placeholders,
    "parameters": _parameters,
    "importers": _importers,
    "shells": _shells,
    "resources": _resources,
    "patience": _patience,
    "pods": _pods,
    "secrets": _secrets,
}
"""Rule → what breaks it."""
