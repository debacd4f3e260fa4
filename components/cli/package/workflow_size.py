"""How many nodes and pods a run of a compiled pipeline has in Argo's Workflow.

The rules are those of KFP 2.17's compiler (backend/src/v2/compiler/argocompiler) and of its stock
controller, whose `templateDefaults` put a Retry node above the node of each template. A run of 25
steps on a real cluster had 288 nodes and 81 pods, and these rules count the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from components.cli.json_documents import Json, nested
from components.cli.package.package_file import Package

# Argo keeps the nodes of a Workflow above 1 MiB compressed, and that object must be smaller: at
# 0.7 kB a node (measured) and 0.4 MB of package at most, 850 nodes fill it.
MAX_NODES = 800

# Retry in Kubeflow's UI writes the Workflow as it is, and etcd takes 1.5 MiB: 5.2 kB a node
# (measured) and 0.2 MB of package.
MAX_NODES_TO_RETRY = 260

_TEMPLATE = 2
"""Nodes of a template: its own, and the Retry above it."""


@dataclass(frozen=True)
class WorkflowSize:
    """What a run costs Kubernetes."""

    nodes: int
    pods: int

    def __add__(self, other: WorkflowSize) -> WorkflowSize:
        return WorkflowSize(self.nodes + other.nodes, self.pods + other.pods)

    def times(self, count: int) -> WorkflowSize:
        """Return the size of so many of these."""
        return WorkflowSize(count * self.nodes, count * self.pods)


_POD = WorkflowSize(_TEMPLATE, 1)
"""A driver, or a step's own pod."""
_DAG = WorkflowSize(_TEMPLATE, 0)
_NOTHING_DONE = WorkflowSize(1, 0)
"""A branch that is not taken, or the group of a loop's iterations."""


def workflow_size(package: Package) -> WorkflowSize:
    """Return the size of a run that carries out every round."""
    # The entry point is a template of its own, above the driver of the root.
    root = nested(package.spec, "root")
    return _DAG + _POD + _DAG + _tasks(package, root)


def _tasks(package: Package, component: Json) -> WorkflowSize:
    size = WorkflowSize(0, 0)
    for task in nested(component, "dag", "tasks").values():
        size += _task(package, task)
    return size


def _task(package: Package, task: Json) -> WorkflowSize:
    if nested(task, "triggerPolicy").get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
        # An exit task runs in a template that is a hook.
        return _DAG + _once(package, task)
    if "parameterIterator" not in task:
        return _once(package, task)
    items = nested(task, "parameterIterator", "items").get("raw", "[]")
    iteration = _DAG + _once(package, task)
    return _DAG + _POD + _NOTHING_DONE + iteration.times(len(json.loads(items)))


def _once(package: Package, task: Json) -> WorkflowSize:
    if package.container(task) is not None:
        # The executor's pod lies in a DAG of its own, which KFP skips for a cached step.
        return _POD + _DAG + _POD
    condition = str(nested(task, "triggerPolicy").get("condition") or "")
    if condition.startswith("!("):
        return _POD + _NOTHING_DONE
    return _POD + _DAG + _tasks(package, package.component(task))
