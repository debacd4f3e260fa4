"""Tasks of the pipeline: named, uncached, not root, and placed as the profile says."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from components.cli.package.profiles import Profile, placed

if TYPE_CHECKING:
    from kfp.dsl import base_component

USER_ID = 10001
"""The numbered user of our images; a cluster's restricted Pod Security wants one that is not root."""


class Tasks:
    """Makes the pipeline's tasks for one compile profile, or for none."""

    def __init__(self, profile: Profile | None) -> None:
        self._profile = profile

    def __call__(self, component: base_component.BaseComponent, name: str, **arguments: Any) -> Any:
        """Return a task of a component under a name of its own.

        Names carry the round, because the UI looks artifacts up by task name over the whole run.
        KFP's cache is off: it checks no stored bytes, and our step keys do the re-use.
        """
        from kfp import kubernetes

        step = component.component_spec.name
        component = copy.deepcopy(component)
        component.component_spec.name = name
        task = component(**arguments).set_caching_options(False)
        kubernetes.set_security_context(task, run_as_user=USER_ID, run_as_non_root=True)
        if self._profile is None:
            return task
        return placed(task, "decide" if step == "pass-through" else step, self._profile)
