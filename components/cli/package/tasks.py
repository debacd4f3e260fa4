"""Parts of the pipeline: tasks as the profile places them, and outputs of a round's branches."""

# Without `from __future__ import annotations`: KFP takes the types of State as data.

import copy
from typing import Any, NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.pipeline_task import PipelineTask

from components.cli.package.placement import place
from components.cli.package.profiles import Profile

# The numbered user of our images. Pod Security `restricted` wants one that is not root.
USER_ID = 10001

Outputs = dict[str, PipelineChannel]
"""Outputs of a task that is not carried out yet: name → channel to later tasks."""


class State(NamedTuple):
    """Outputs of a round, and inputs of the next."""

    go: bool
    """False once `decide` has said stop."""
    state: str
    """URI of the state, a receipt in the store."""


class Tasks:
    """Makes the pipeline's tasks for one compile profile, or for none."""

    def __init__(self, profile: Profile | None) -> None:
        self._profile = profile

    def __call__(self, component: BaseComponent, name: str, **arguments: Any) -> PipelineTask:
        """Return a task of a component under a name of its own, with its settings."""
        step = component.component_spec.name
        # Names carry the round, because the UI looks artifacts up by task name over the whole run.
        # A copy gets the name: of two tasks of one component, the SDK would give both the executor
        # of the first.
        component = copy.deepcopy(component)
        component.component_spec.name = name
        # KFP's cache checks no stored bytes; our step keys do the re-use.
        task = component(**arguments).set_caching_options(False)
        kubernetes.set_security_context(task, run_as_user=USER_ID, run_as_non_root=True)
        if self._profile is not None:
            # `pass-through` belongs to decide's folder, image and resources.
            place(task, "decide" if step == "pass-through" else step, self._profile)
        return task


def merge_branches(decided: Outputs, skipped: Outputs) -> State:
    """Return the outputs of whichever branch of a round was carried out."""
    # Parameters alone: kfp.local has no OneOf of artifacts.
    outputs = {name: dsl.OneOf(decided[name], skipped[name]) for name in State._fields}
    return State(**outputs)
