"""Settings of a pipeline task for Kubernetes, as a compile profile has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.cli.package.profiles import Nodes, Profile, Resources
from components.runtime.quiet_module import quiet
from components.runtime.supervisor import supervised

if TYPE_CHECKING:
    from kfp.dsl.pipeline_task import PipelineTask

_KFP_EXECUTOR = "kfp.dsl.executor_main"
FIRST_PAUSE_SECONDS = 30
PAUSE_FACTOR = 2.0

# Each try's share of the retry window for a pod that waits to be scheduled.
WAIT_FOR_NODE_SECONDS = 3600


def place(task: PipelineTask, step: str, profile: Profile) -> None:
    """Give a task of the pipeline the image and all settings that the profile has for its step."""
    from kfp import kubernetes

    resources = profile.resources(step)
    task.set_container_image(profile.images[step])
    _set_resources(task, resources, profile)
    # KFP starts its own executor in a container, not the image's entry point: the supervisor can
    # only stand in the command.
    container = task.container_spec
    if container is None:
        raise TypeError(f"{step} is no container component")
    container.command = supervised(
        quiet(container.command, _KFP_EXECUTOR), resources.hours
    )
    # The time limit of one pod: each retry gets it anew.
    kubernetes.set_timeout(task, int(resources.hours * 3600))
    _mount_scratch(task, resources)
    # Optional: a key that the ConfigMap or Secret does not have leaves its variable out. Without
    # it, the pod would wait for ever.
    config_keys = {key: key for key in profile.config_keys}
    kubernetes.use_config_map_as_env(
        task, profile.config_map, config_keys, optional=True
    )
    for secret, keys in profile.secrets.items():
        kubernetes.use_secret_as_env(
            task, secret, {key: key for key in keys}, optional=True
        )
    if profile.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.pull_secrets))
    if profile.pull_policy:
        kubernetes.set_image_pull_policy(task, profile.pull_policy)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "ratchet")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", step)
    for key, value in profile.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, class_name in profile.class_annotations(step).items():
        kubernetes.add_pod_annotation(task, key, class_name)
    if step == "train" and profile.nodes:
        _describe_nodes(task, profile.nodes, profile.images["train"])


def retry_window_seconds(resources: Resources) -> int:
    """Return the seconds, from the first try's start, that Argo leaves to all tries."""
    # KFP calls this the longest pause. Argo takes it for the whole window and ends a running pod
    # when it is over: with 900 s, a healthy second try was killed 15 minutes after the first began.
    num_tries = resources.retries + 1
    pauses = 0.0
    for number in range(resources.retries):
        pauses += FIRST_PAUSE_SECONDS * PAUSE_FACTOR**number
    return int(num_tries * (3600 * resources.hours + WAIT_FOR_NODE_SECONDS) + pauses)


def _set_resources(task: PipelineTask, resources: Resources, profile: Profile) -> None:
    from kfp import kubernetes

    # No limit of CPU: under one, training was throttled in 66 % of the scheduler's periods.
    task.set_cpu_request(resources.cpu)
    # Limit and request are equal: when a node runs short of memory, pods that use more than they
    # asked for are evicted first.
    task.set_memory_request(resources.memory)
    task.set_memory_limit(resources.memory)
    if resources.retries:
        # The stock controller of KFP 2.17 tries again only after OnError, a lost pod: for failures
        # of the step itself there is the supervisor in its container.
        task.set_retry(
            resources.retries,
            backoff_duration=f"{FIRST_PAUSE_SECONDS}s",
            backoff_factor=PAUSE_FACTOR,
            backoff_max_duration=f"{retry_window_seconds(resources)}s",
        )
    if resources.gpus:
        # The number as text: KFP makes no limit of a pipeline's integer, and nothing of a type
        # without a number.
        task.set_accelerator_type(profile.gpu)
        task.set_accelerator_limit(str(resources.gpus))
    tolerations = profile.tolerations if resources.gpus else profile.cpu_tolerations
    for toleration in tolerations:
        kubernetes.add_toleration(
            task,
            toleration.key,
            toleration.operator,
            toleration.value or None,
            toleration.effect or None,
        )
    node_selector = (
        profile.node_selector if resources.gpus else profile.cpu_node_selector
    )
    for key, value in node_selector.items():
        kubernetes.add_node_selector(task, key, value)


def _mount_scratch(task: PipelineTask, resources: Resources) -> None:
    from kfp import kubernetes

    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=resources.scratch)
    # Without a mount, container engines give /dev/shm 64 MiB.
    kubernetes.empty_dir_mount(
        task,
        "shared-memory",
        "/dev/shm",
        medium="Memory",
        size_limit=resources.shared_memory,
    )


def _describe_nodes(task: PipelineTask, nodes: Nodes, image: str) -> None:
    """Set the variables that components/train/launch reads."""
    quantities = [f"{name}={quantity}" for name, quantity in nodes.resources.items()]
    resources = ",".join(quantities)
    task.set_env_variable("RATCHET_IMAGE", image)
    task.set_env_variable("RATCHET_TRAINING_RESOURCES", resources)
    if nodes.queue:
        task.set_env_variable("RATCHET_TRAINING_QUEUE", nodes.queue)
