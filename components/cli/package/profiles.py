"""Compile profiles: on which nodes the steps run, with what resources, images, time limits, secrets
and labels.

A profile is a YAML file, `manifests/profiles/<name>.yaml` or one of your own. All of it is constant
in the compiled pipeline: KFP routes no resource, retry, timeout or security setting from a
parameter into a guarded round.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import yaml
from pydantic import Field, ValidationError

from components.contracts.recipe import Recipe, Section
from components.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "manifests" / "profiles"
IMAGES_FILE = REPOSITORY / "docker" / "images.toml"
Step = Literal["prepare", "generate", "select", "train", "evaluate", "decide", "publish", "report"]
STEPS: tuple[str, ...] = get_args(Step)
STORE_SECRET: dict[str, tuple[str, ...]] = {
    "ratchet-store-credentials": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
}
RETRY_FIRST_SECONDS, RETRY_LONGEST_SECONDS = 30, 900

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
Cores = Annotated[str, Field(pattern=r"^([1-9][0-9]*|[1-9][0-9]*m|[0-9]+\.[0-9]+)$")]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Resources(Section):
    """What one step gets; a step takes from `default` what it does not say."""

    cpu: Cores = "1"
    """Cores asked for. There is no limit: threads above one are throttled to less than what a few
    would do."""
    memory: Quantity = "4Gi"
    """Asked for and limit; what is in /dev/shm counts."""
    scratch: Quantity = "10Gi"
    """Of the node's disk, mounted at /tmp: all that a step may write, should its root be read-only.
    """
    shared_memory: Quantity = "64Mi"
    """At /dev/shm."""
    hours: Annotated[float, Field(gt=0)] = 2
    """The pod is ended after them; with its retries a step may take that many times as long."""
    retries: Annotated[int, Field(ge=0, le=10)] = 3
    """With pauses that grow from 30 s to 15 min. Finished work is found again, a training goes on.
    """
    gpus: Annotated[int, Field(ge=0)] = 0


class Toleration(Section):
    """A taint of nodes that steps with a GPU put up with."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class Nodes(Section):
    """What the nodes of a training on many nodes get, each."""

    queue: str = ""
    """Queue of Kueue; empty: none."""
    resources: Annotated[dict[str, str], Field(min_length=1)]


class Profile(Section):
    """A compile profile."""

    name: str
    gpu: str = ""
    """Resource name of the GPUs (nvidia.com/gpu, amd.com/gpu); empty: none, and the images for
    CPUs."""
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = Field(default_factory=dict)
    nodes: Nodes | None = None
    """Given: training is on many nodes (recipe: train.num_nodes)."""
    default: Resources = Resources()
    steps: dict[Step, dict[str, Any]] = Field(default_factory=dict)
    """Step → what differs from `default`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of every step's pod, beside our own."""
    pull_secrets: tuple[str, ...] = ()
    config_map: str = "ratchet-store"
    config_keys: tuple[str, ...] = (
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "RATCHET_S3_REQUEST_CHECKSUM",
        "RATCHET_S3_RESPONSE_CHECKSUM",
        "HF_HUB_OFFLINE",
        "MLFLOW_TRACKING_URI",
    )
    """Keys of the ConfigMap that become variables of their name, where they are there."""
    secrets: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(STORE_SECRET))
    """Secret → keys that become variables of their name, where they are there (with a role there
    are none)."""
    images: dict[str, str] = Field(default_factory=dict)
    """Step → image; by default what docker/images.toml says."""

    def resources(self, step: str) -> Resources:
        """What a step gets."""
        return Resources.model_validate(
            {**self.default.model_dump(), **self.steps.get(cast(Step, step), {})}
        )

    @property
    def train_gpus(self) -> int:
        """GPUs of one node that trains."""
        return (
            int(self.nodes.resources.get(self.gpu, 0))
            if self.nodes
            else self.resources("train").gpus
        )


def load_profile(name: str, images_file: Path = IMAGES_FILE) -> Profile:
    """A profile by its name or the path of a YAML file, with the image of each step. UserError says
    what is wrong."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"--profile {name}: use {', '.join(profile_names())}, or the path of a .yaml file"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"profile {path}: cannot be read ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(document, dict):
        raise UserError(f"profile {path}: expected a mapping")
    try:
        profile = Profile.model_validate({"name": path.stem, **document})
        needs_gpu = [step for step in STEPS if profile.resources(step).gpus]
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise UserError(f"profile {path}: {said}") from None
    if needs_gpu and not profile.gpu:
        raise UserError(
            f"profile {path}: {needs_gpu[0]} asks for GPUs; say which by `gpu: nvidia.com/gpu`"
        )
    given = {**_images(images_file, gpu=bool(profile.gpu)), **profile.images}
    return profile.model_copy(update={"images": given})


def profile_names() -> list[str]:
    """The profiles of the house."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def check_fit(recipe: Recipe, profile: Profile) -> None:
    """UserError if the recipe's training is not made for this profile, before a cluster finds out."""
    train = recipe.train
    if train.num_nodes > 1 and profile.nodes is None:
        raise UserError(
            f"train.num_nodes is {train.num_nodes}, and profile {profile.name} trains on one node; take "
            "--profile multi-node or --set train.num_nodes=1"
        )
    if train.num_nodes == 1 and profile.nodes is not None:
        raise UserError(
            f"profile {profile.name} trains on many nodes; --set train.num_nodes=2 or more, or take gpu-8"
        )
    if profile.train_gpus and train.num_processes != profile.train_gpus:
        raise UserError(
            f"train.num_processes is {train.num_processes}, and profile {profile.name} gives training "
            f"{profile.train_gpus} GPUs a node; --set train.num_processes={profile.train_gpus} (one process a GPU)"
        )


def placed(task: Any, step: str, profile: Profile) -> Any:
    """Give a task of the pipeline what the profile says its step gets. Returns the task."""
    from kfp import kubernetes

    given = profile.resources(step)
    task.set_container_image(profile.images[step])
    task.set_cpu_request(given.cpu).set_memory_request(given.memory).set_memory_limit(given.memory)
    if given.retries:
        longest, first = f"{RETRY_LONGEST_SECONDS}s", f"{RETRY_FIRST_SECONDS}s"
        task.set_retry(
            given.retries, backoff_duration=first, backoff_factor=2.0, backoff_max_duration=longest
        )
    if given.gpus:
        # The number as text: KFP makes no limit of a pipeline's integer, and nothing of a type
        # without a number.
        task.set_accelerator_type(profile.gpu).set_accelerator_limit(str(given.gpus))
        for one in profile.tolerations:
            kubernetes.add_toleration(
                task, one.key, one.operator, one.value or None, one.effect or None
            )
        for key, value in profile.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
    kubernetes.set_timeout(task, int(given.hours * 3600))
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=given.scratch)
    kubernetes.empty_dir_mount(
        task, "shared-memory", "/dev/shm", medium="Memory", size_limit=given.shared_memory
    )
    kubernetes.use_config_map_as_env(
        task, profile.config_map, {key: key for key in profile.config_keys}, optional=True
    )
    for secret, keys in profile.secrets.items():
        kubernetes.use_secret_as_env(task, secret, {key: key for key in keys}, optional=True)
    if profile.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.pull_secrets))
    labels = {
        "app.kubernetes.io/part-of": "ratchet",
        "app.kubernetes.io/component": step,
        **profile.labels,
    }
    for key, value in labels.items():
        kubernetes.add_pod_label(task, key, value)
    if step == "train" and profile.nodes:
        _tell_of_nodes(task, profile.nodes, profile.images["train"])
    return task


def _tell_of_nodes(task: Any, nodes: Nodes, image: str) -> None:
    """What components/train/launch reads of its surroundings."""
    task.set_env_variable("RATCHET_IMAGE", image)
    resources = ",".join(f"{name}={quantity}" for name, quantity in nodes.resources.items())
    task.set_env_variable("RATCHET_TRAINING_RESOURCES", resources)
    if nodes.queue:
        task.set_env_variable("RATCHET_TRAINING_QUEUE", nodes.queue)


def _images(file: Path, *, gpu: bool) -> dict[str, str]:
    """Step → image, by digest where one is recorded. Raises UserError naming the file and the key."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    steps, families = document.get("steps", {}), document.get("families", {})
    return {step: _reference(file, families, str(steps.get(step, "")), step, gpu) for step in STEPS}


def _reference(file: Path, families: Any, family: str, step: str, gpu: bool) -> str:
    if family not in families:
        raise UserError(
            f"{file}: steps.{step} is {family!r}, and there is no [families.{family or '…'}]; add it"
        )
    where, entry = f"families.{family}", families[family]
    if gpu and "gpu" in entry:
        where, entry = f"{where}.gpu", entry["gpu"]
    image, tag, digest = (str(entry.get(key, "")) for key in ("image", "tag", "digest"))
    if not image or not (tag or digest):
        raise UserError(f"{file}: {where} needs `image` and a `tag` or a `digest`")
    if digest and not _DIGEST.fullmatch(digest):
        raise UserError(
            f"{file}: {where}.digest is {digest!r}; it must be sha256: and 64 hexadecimal digits"
        )
    return f"{image}@{digest}" if digest else f"{image}:{tag}"
