"""Parts of the pipeline: tasks as the profile places them, and the two branches of a round."""

# Without `from __future__ import annotations`: KFP takes the types of State as data.

import copy
from typing import Any, NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.pipeline_task import PipelineTask

from components.cli.package.placement import place
from components.cli.package.profiles import Profile
from components.decide.component import pass_through

# The numbered user of our images. Pod Security `restricted` wants one that is not root.
USER_ID = 10001

OF_DECIDE = ("pass-through", "first-champion")
"""Components of decide's folder, which have its image and resources."""

JOB_ID = dsl.PIPELINE_JOB_ID_PLACEHOLDER
"""Id of the pipeline job, known when it runs."""
Component = BaseComponent
Channel = PipelineChannel
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
            place(task, "decide" if step in OF_DECIDE else step, self._profile)
        return task

    def outputs(self, component: BaseComponent, name: str, **arguments: Any) -> Outputs:
        """Add a task; return its outputs."""
        outputs: Outputs = self(component, name, **arguments).outputs
        return outputs

    def group(self, component: BaseComponent, title: str, **arguments: Any) -> Outputs:
        """Add a sub-pipeline, under its title in the UI; return its outputs."""
        group_task = component(**arguments).set_display_name(title).set_caching_options(False)
        outputs: Outputs = group_task.outputs
        return outputs

    @staticmethod
    def carried_out(go: bool, name: str) -> dsl.If:
        """Return the block of a round that is carried out if `go` is true.

        `go` is an input of the sub-pipeline: kfp.local takes an If on another task's named output
        for false, and the run still succeeds.
        """
        return dsl.If(go == True, name=name)  # noqa: E712 — KFP overloads ==

    def or_skip(self, finished: Outputs, name: str, state: str, go: bool) -> State:
        """Add the branch that hands the state on where a round is not carried out.

        It follows the block of `carried_out`.

        Args:
            finished: Outputs of the round's last task.
            name: `r1`, in the names of the branch and of its task.
            state: State that the round would begin from.
            go: Whether the round after it is carried out.

        Returns:
            The outputs of whichever branch was carried out.
        """
        # A lone If that is false would stay "running" in the UI for ever.
        with dsl.Else(name=f"skip-{name}"):
            skipped = self.outputs(pass_through, f"pass-through-{name}", state=state, go=go)
        # Parameters alone: kfp.local has no OneOf of artifacts.
        outputs = {field: dsl.OneOf(finished[field], skipped[field]) for field in State._fields}
        return State(**outputs)
