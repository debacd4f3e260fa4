"""Compile profiles: resources, images, nodes, time limits, secrets and labels of the steps.

A profile is a YAML file, `manifests/profiles/<name>.yaml` or one of your own. All of it is constant
in the compiled pipeline: KFP routes no resource, retry, timeout or security setting from a
parameter into a guarded round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import yaml
from pydantic import Field, JsonValue, ValidationError

from components.cli.needed_variables import require
from components.cli.package.images import image_of_each_step
from components.cli.source_tree import IMAGES_FILE, PROFILES_FOLDER
from components.contracts.recipe import Recipe, Section
from components.contracts.strict_yaml import load_yaml
from components.errors import UserError

# The numbered user of our images. Pod Security `restricted` wants one that is not root.
USER_ID = 10001

Step = Literal[
    "prepare", "generate", "select", "train", "evaluate", "decide", "publish", "report"
]
"""The one list of the steps, in the order of a run."""
STEPS: tuple[Step, ...] = get_args(Step)

RUNTIME_CLASS = "ratchet.dev/runtime-class"
PRIORITY_CLASS = "ratchet.dev/priority-class"
"""Annotations of a step's pod, which manifests/components/step-classes reads."""

# manifests/ makes this Secret. With a cloud role there are no keys, and the variables are left out.
_STORE_SECRET: dict[str, tuple[str, ...]] = {
    "ratchet-store-credentials": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    )
}

# Kubernetes knows more units (M, Ki, 1e3); these are what `doctor` compares.
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
AnyQuantity = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?$")
]
ClassName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)
]
Cores = Annotated[str, Field(pattern=r"^([1-9][0-9]*|[1-9][0-9]*m|[0-9]+\.[0-9]+)$")]


class Resources(Section):
    """Resources of one step; a step takes from `default` what it does not say."""

    cpu: Cores = "1"
    """Cores asked for. There is no limit: threads above one are throttled to less than what a few
    would do."""
    memory: Quantity = "4Gi"
    """Asked for and limit; what is in /dev/shm counts."""
    scratch: Quantity = "10Gi"
    """Space on the node's disk, mounted at /tmp: all that a step may write, should its root be
    read-only."""
    shared_memory: Quantity = "64Mi"
    """Size of /dev/shm."""
    hours: Annotated[float, Field(gt=0)] = 2
    """The pod is ended after them; with its retries a step may take that many times as long.
    Within them, a step that fails for a passing reason is tried again in its container."""
    retries: Annotated[int, Field(ge=0, le=10)] = 3
    """Tries after a lost pod, with pauses that double from 30 s. Finished work is found again, a
    training goes on."""
    gpus: Annotated[int, Field(ge=0)] = 0


class Toleration(Section):
    """A taint of nodes that steps put up with."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class Nodes(Section):
    """Resources of each node of a training on many nodes."""

    queue: str = ""
    """Queue of Kueue; empty: none."""
    resources: Annotated[dict[str, AnyQuantity], Field(min_length=1)]


class Profile(Section):
    """A compile profile."""

    name: str
    gpu: str = ""
    """Resource name of the GPUs (nvidia.com/gpu, amd.com/gpu); empty: none, and the images for
    CPUs."""
    tolerations: tuple[Toleration, ...] = ()
    """Of steps with a GPU."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes of steps with a GPU."""
    cpu_tolerations: tuple[Toleration, ...] = ()
    """Of steps without a GPU."""
    cpu_node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes of steps without a GPU."""
    runtime_class: ClassName = ""
    """RuntimeClass of steps with a GPU, such as `nvidia` where that is not the nodes' default. KFP
    has no setting for it: the component `step-classes` of the manifests gives it to the pods."""
    cpu_runtime_class: ClassName = ""
    """RuntimeClass of steps without a GPU."""
    priority_class: ClassName = ""
    """PriorityClass of the steps' pods, by the same component."""
    nodes: Nodes | None = None
    """Present: training is on many nodes (recipe: train.num_nodes)."""
    default: Resources = Resources()
    steps: dict[Step, dict[str, JsonValue]] = Field(default_factory=dict)
    """Step → fields of Resources that differ from `default`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of every step's pod, beside our own."""
    pull_secrets: tuple[str, ...] = ()
    pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Empty: as Kubernetes has it, Always for the tag `latest` alone."""
    user: Annotated[int, Field(ge=1)] | None = USER_ID
    """User id of the steps' processes; None: the cluster gives one, as OpenShift does."""
    config_map: str = "ratchet-store"
    config_keys: tuple[str, ...] = (
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "RATCHET_S3_REQUEST_CHECKSUM",
        "RATCHET_S3_RESPONSE_CHECKSUM",
        "HF_HUB_OFFLINE",
        "MLFLOW_TRACKING_URI",
        "MODEL_REGISTRY_URL",
        "PROMETHEUS_PUSHGATEWAY_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "RATCHET_LOG_FORMAT",
        "OPENAI_BASE_URL",
        "RATCHET_JUDGE_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    )
    """Keys of the ConfigMap that become variables of their name, as far as it has them."""
    secrets: dict[str, tuple[str, ...]] = Field(
        default_factory=lambda: dict(_STORE_SECRET)
    )
    """Secret → keys that become variables of their name, as far as it has them."""
    images: dict[str, str] = Field(default_factory=dict)
    """Step → image; by default the one in docker/images.toml."""

    def resources(self, step: str) -> Resources:
        """Return the resources of a step. Raises ValidationError for those a profile gets wrong."""
        differing = self.steps.get(cast(Step, step), {})
        return Resources.model_validate({**self.default.model_dump(), **differing})

    def class_annotations(self, step: str) -> dict[str, str]:
        """Return the annotations by which the component `step-classes` knows a step's classes."""
        has_gpu = self.resources(step).gpus > 0
        runtime_class = self.runtime_class if has_gpu else self.cpu_runtime_class
        classes = {RUNTIME_CLASS: runtime_class, PRIORITY_CLASS: self.priority_class}
        return {annotation: name for annotation, name in classes.items() if name}

    @property
    def train_gpus(self) -> int:
        """GPUs of one node that trains."""
        if self.nodes is None:
            return self.resources("train").gpus
        return int(self.nodes.resources.get(self.gpu, 0))


def load_profile(name: str, images_file: Path = IMAGES_FILE) -> Profile:
    """Return a profile, with the image of each step.

    Args:
        name: One of `profile_names()`, or the path of a YAML file.
        images_file: Step → image, for those that the profile does not name.

    Raises:
        UserError: There is no such profile, or it is wrong.
    """
    # Names of ours have no ending; a path always has one, so neither can hide the other.
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else PROFILES_FOLDER / f"{name}.yaml"
    document = _read_document(name, path)
    try:
        profile = Profile.model_validate({"name": path.stem, **document})
        # The steps' resources are checked only here: `steps` holds the fields that differ.
        steps_with_gpus = [step for step in STEPS if profile.resources(step).gpus]
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            faults.append(f"{key}: {fault['msg']}")
        raise UserError(f"profile {path}: {'; '.join(faults)}") from None
    if steps_with_gpus and not profile.gpu:
        raise UserError(
            f"profile {path}: {steps_with_gpus[0]} asks for GPUs; say which by "
            "`gpu: nvidia.com/gpu`"
        )
    images = image_of_each_step(images_file, STEPS, gpu=bool(profile.gpu))
    return profile.model_copy(update={"images": {**images, **profile.images}})


def _read_document(name: str, path: Path) -> dict[str, object]:
    try:
        document = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "there is no such file; " if path.name == Path(name).name else ""
        raise UserError(
            f"--profile {name}: {problem}use {', '.join(profile_names())}, or the path of a .yaml file"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"profile {path}: cannot be read ({reason})") from None
    if not isinstance(document, dict):
        raise UserError(f"profile {path}: expected a mapping")
    return document


def profile_names() -> list[str]:
    """Return the names of the profiles in manifests/profiles."""
    return sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml"))


def check_fit(recipe: Recipe, profile: Profile) -> None:
    """Raise UserError if the recipe is not made for this profile's nodes, GPUs and variables."""
    # A cluster would find out only once the training begins, after hours of a campaign.
    train = recipe.train
    if train.num_nodes > 1 and profile.nodes is None:
        raise UserError(
            f"train.num_nodes is {train.num_nodes}, and profile {profile.name} trains on one node; "
            "take --profile multi-node or --set train.num_nodes=1"
        )
    if train.num_nodes == 1 and profile.nodes is not None:
        raise UserError(
            f"profile {profile.name} trains on many nodes; --set train.num_nodes=2 or more, or "
            "take gpu-8"
        )
    if profile.train_gpus and train.num_processes != profile.train_gpus:
        raise UserError(
            f"train.num_processes is {train.num_processes}, and profile {profile.name} gives "
            f"training {profile.train_gpus} GPUs a node; --set "
            f"train.num_processes={profile.train_gpus} (one process a GPU)"
        )
    sampling_gpus = profile.resources("generate").gpus
    shared_by = recipe.generate.vllm.tensor_parallel_size or 1
    if sampling_gpus and shared_by > sampling_gpus:
        raise UserError(
            f"generate.vllm.tensor_parallel_size is {shared_by}, and profile {profile.name} gives "
            f"generate {sampling_gpus} GPUs; lower it, or raise steps.generate.gpus in a profile of "
            "your own"
        )
    secret_keys = (key for keys in profile.secrets.values() for key in keys)
    require(
        recipe,
        (*profile.config_keys, *secret_keys),
        f"profile {profile.name} passes none to the steps: put {{meaning}} into a Secret, and "
        "`secrets: {{ratchet-keys: [{variable}]}}` beside the one of the store into a profile of "
        "your own",
    )
