"""Parts of the pipeline: tasks as the profile places them, and the two branches of a round."""

from __future__ import annotations

import copy
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.pipeline_task import PipelineTask

from components.cli.package.placement import place
from components.cli.package.profiles import USER_ID, Profile
from components.decide.component import pass_through

STEP_OF_COMPONENT = {
    "pass-through": "decide",
    "first-champion": "decide",
    "select-unsharded": "select",
}
"""Component → the step whose image and resources it has, where it is not called like its step."""

JOB_ID = dsl.PIPELINE_JOB_ID_PLACEHOLDER
"""Id of the pipeline job, known when it runs."""
Component = BaseComponent
Channel = PipelineChannel
Outputs = dict[str, PipelineChannel]
"""Outputs of a task that is not carried out yet: name → channel to later tasks."""


HANDED_ON = ("go", "state")
"""What goes from round to round: whether to go on, and the URI of the state."""


class Tasks:
    """Makes the pipeline's tasks for one compile profile, or for none."""

    def __init__(self, profile: Profile | None) -> None:
        self._profile = profile

    def __call__(
        self, component: BaseComponent, name: str, **arguments: Any
    ) -> PipelineTask:
        """Return a task of a component under a name of its own, with its settings."""
        component_name = component.component_spec.name
        # Names carry the round, because the UI looks artifacts up by task name over the whole run.
        # A copy gets the name: of two tasks of one component, the SDK would give both the executor
        # of the first.
        component = copy.deepcopy(component)
        component.component_spec.name = name
        # KFP's cache checks no stored bytes; our step keys do the re-use.
        task = component(**arguments).set_caching_options(False)
        user = USER_ID if self._profile is None else self._profile.user
        kubernetes.set_security_context(task, run_as_user=user, run_as_non_root=True)
        if self._profile is not None:
            step = STEP_OF_COMPONENT.get(component_name, component_name)
            place(task, step, self._profile)
        return task

    def outputs(self, component: BaseComponent, name: str, **arguments: Any) -> Outputs:
        """Add a task; return its outputs."""
        outputs: Outputs = self(component, name, **arguments).outputs
        return outputs

    @staticmethod
    def carried_out(latest: Outputs) -> dsl.If:
        """Return the block of a round that is carried out if the round before it says so.

        `or_skip` follows the block: kfp.local takes a lone If on a task's named output for false,
        and the run still succeeds.

        Args:
            latest: `go` and `state`, as `or_skip` returns them.
        """
        return dsl.If(latest["go"] == True, name="improve")  # noqa: E712 — KFP overloads ==

    def or_skip(
        self, decided: Outputs, number: int, latest: Outputs, go: PipelineChannel | bool
    ) -> Outputs:
        """Add the branch that hands the state on where a round is not carried out.

        Args:
            decided: Outputs of the round's last task.
            number: Number of the round, its title in the UI.
            latest: What the round began from, as given to `carried_out`.
            go: Whether the round after it is carried out. Where the guard is the output of another
                round this must be that output, false here: as the operand of a guard alone, the
                SDK does not hand it to the round.

        Returns:
            `go` and `state` of whichever branch was carried out.
        """
        # A lone If that is false would stay "running" in the UI for ever.
        with dsl.Else(name="skip"):
            name = f"pass-through-r{number}"
            skipped = self.outputs(pass_through, name, state=latest["state"], go=go)
        # Parameters alone: kfp.local has no OneOf of artifacts.
        merged = {key: dsl.OneOf(decided[key], skipped[key]) for key in HANDED_ON}
        merged["state"].condition_branches_group.display_name = f"Round {number}"
        return merged
