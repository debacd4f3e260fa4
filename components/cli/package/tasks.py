"""Tasks of the pipeline: named, uncached, not root, and placed as the profile says."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from components.cli.package.placement import place
from components.cli.package.profiles import Profile

if TYPE_CHECKING:
    from kfp.dsl import base_component
    from kfp.dsl.pipeline_task import PipelineTask

# The numbered user of our images. Pod Security `restricted` wants one that is not root.
USER_ID = 10001


class Tasks:
    """Makes the pipeline's tasks for one compile profile, or for none."""

    def __init__(self, profile: Profile | None) -> None:
        self._profile = profile

    def __call__(
        self, component: base_component.BaseComponent, name: str, **arguments: Any
    ) -> PipelineTask:
        """Return a task of a component under a name of its own, with its settings."""
        from kfp import kubernetes

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
