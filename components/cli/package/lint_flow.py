"""Rules about data and control flow: guards, merges of branches, loops and placeholders.

The intermediate representation is KFP's PipelineSpec. A guarded task (`dsl.If`) has a
`triggerPolicy.condition`; a merge (`dsl.OneOf`) is an output with `valueFromOneof`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from components.cli.json_documents import Json, nested
from components.cli.package.package_file import Package

# One comparison of an input with a constant, or its negation. A quote within the constant breaks
# the expression that the backend evaluates.
_CONDITION = re.compile(
    r"!?\(?inputs\.parameter_values\['(?P<input>[^']+)'\] == "
    r"(?P<value>true|false|-?[\d.]+|'[^']*')\)?"
)
_PLACEHOLDER = re.compile(r"\{\{\$\.[^}]*\}\}")

# PIPELINE_ROOT is never resolved on a cluster; kfp.local crashes on the job's resource name and
# times.
_UNUSABLE_PLACEHOLDER = re.compile(
    r"\{\{\$\.(pipeline_root|pipeline_job_resource_name|pipeline_job_\w*time\w*|\w+_time_utc)"
)


def guards(package: Package) -> Iterator[str]:
    """Yield faults of conditions: their form, their operand, their missing other branch."""
    for name, task, siblings in package.tasks():
        condition = _condition(task)
        if condition is None:
            continue
        match = _CONDITION.fullmatch(condition)
        if match is None:
            yield (
                f"{name}: `{condition}` is not one comparison with a constant without quotes in it"
            )
            continue
        operand = _parameter_sources(task).get(match["input"], {})
        # kfp.local takes a lone If on a task's named output for false, and the run still succeeds.
        if "componentInputParameter" not in operand:
            yield f"{name} is guarded by a task's output; hand it to a sub-pipeline as its input"
        other_conditions = [
            _condition(sibling) for key, sibling in siblings.items() if key != name
        ]
        if _negated(condition) not in other_conditions:
            yield f"{name} has no other branch; a lone If that is false stays running for ever"


def _condition(task: Json) -> str | None:
    condition: str | None = nested(task, "triggerPolicy").get("condition")
    return condition


def _negated(condition: str) -> str:
    if condition.startswith("!("):
        return condition[2:-1]
    return f"!({condition})"


def _parameter_sources(task: Json) -> Json:
    """Return a task's parameters: name → the place its value comes from."""
    sources: Json = nested(task, "inputs", "parameters")
    return sources


def merges(package: Package) -> Iterator[str]:
    """Yield faults of OneOf.

    It must merge parameters alone, take from all branches, take each from a container of its own,
    and be read by a task.
    """
    for component_name, component in package.components.items():
        outputs = nested(component, "dag", "outputs")
        for output_name, output in nested(outputs, "artifacts").items():
            num_sources = len(output.get("artifactSelectors", ()))
            if num_sources > 1 or "valueFromOneof" in output:
                yield f"{component_name}.{output_name} merges artifacts; kfp.local cannot"
        for output_name, output in nested(outputs, "parameters").items():
            selectors = nested(output, "valueFromOneof").get("parameterSelectors")
            if selectors is not None:
                tasks = component["dag"]["tasks"]
                yield from _merge_faults(
                    package, component_name, output_name, selectors, tasks
                )


def _merge_faults(
    package: Package,
    component_name: str,
    output_name: str,
    selectors: list[Json],
    tasks: Json,
) -> Iterator[str]:
    merge = f"{component_name}.{output_name}"
    branch_names = [selector["producerSubtask"] for selector in selectors]
    if set(branch_names) != set(tasks):
        yield f"{merge} does not take from every branch"
    for selector, branch_name in zip(selectors, branch_names, strict=True):
        # The backend waits for each branch's DAG to be COMPLETE. Only the launcher of a container
        # writes that state, so a branch must end in a container task.
        branch = tasks.get(branch_name)
        producer = (
            _producer(package, branch, selector["outputParameterKey"])
            if branch
            else None
        )
        if producer is None or package.container(producer) is None:
            yield f"{merge}: branch {branch_name} ends in no container of its own"
    # As the operand of another If alone, the output is not passed on by the SDK.
    if not _has_reader(package, component_name, output_name):
        yield f"{merge} is read by no task but a guard, if at all; it dangles on the backend"


def _producer(package: Package, task: Json, key: str) -> Json | None:
    """Return the task that makes an output of a task, on whatever level; None if none does."""
    dag = package.component(task).get("dag")
    if dag is None:
        return task
    output = nested(dag, "outputs", "parameters", key)
    source = output.get("valueFromParameter")
    if not source:
        return None
    subtask = dag["tasks"][source["producerSubtask"]]
    return _producer(package, subtask, source["outputParameterKey"])


def _has_reader(package: Package, component_name: str, key: str) -> bool:
    """Return whether a task that is no guard, or an output, takes this output of a component."""
    for _, dag in package.levels():
        tasks = dag["tasks"]
        producers = set()
        for name, task in tasks.items():
            if task["componentRef"]["name"] == component_name:
                producers.add(name)
        for output in nested(dag, "outputs", "parameters").values():
            source = nested(output, "valueFromParameter")
            if (
                source.get("producerSubtask") in producers
                and source["outputParameterKey"] == key
            ):
                return True
        for task in tasks.values():
            if _condition(task) is None and _reads_any(task, producers, key):
                return True
    return False


def _reads_any(task: Json, producers: set[str], key: str) -> bool:
    sources = [
        nested(source, "taskOutputParameter")
        for source in _parameter_sources(task).values()
    ]
    return any(
        source.get("producerTask") in producers
        and source.get("outputParameterKey") == key
        for source in sources
    )


def loops(package: Package) -> Iterator[str]:
    """Yield faults of ParallelFor that only kfp.local shows."""
    for name, task, _ in package.tasks():
        if "parameterIterator" not in task and "artifactIterator" not in task:
            continue
        if "artifactIterator" in task:
            yield f"{name} loops over artifacts; kfp.local cannot"
        # kfp.local replaces every upstream output that the loop's body uses by the loop's item.
        for key, source in _parameter_sources(task).items():
            if "taskOutputParameter" in source:
                yield (
                    f"{name} uses the output {key} of another task; hand it to a sub-pipeline as "
                    "its input"
                )


def placeholders(package: Package) -> Iterator[str]:
    """Yield placeholders that the cluster or kfp.local does not resolve."""
    for name, task, _ in package.tasks():
        for key, source in _parameter_sources(task).items():
            value = nested(source, "runtimeValue").get("constant")
            if not isinstance(value, str) or not _PLACEHOLDER.search(value):
                continue
            if _UNUSABLE_PLACEHOLDER.search(value):
                yield f"{name}.{key}: {value} is not known everywhere"
            elif not _PLACEHOLDER.fullmatch(value):
                # The backend resolves a placeholder only where it is the whole argument.
                yield f"{name}.{key}: a placeholder within other text stays as it is"
    for name, container in package.containers():
        for variable in container.get("env", ()):
            if "{{$" in str(variable.get("value", "")):
                variable_name = variable["name"]
                yield f"{name}: variable {variable_name} holds a placeholder, which stays as it is"
