"""The TrainJob of a training on many nodes, from the typed models of Kubeflow Trainer v2.

`kubeflow_trainer_api` may be imported here and in `components.cli` alone, on first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.canonical import digest_of
from components.errors import UserError
from components.storage.keys import split_receipt_uri
from components.train.launch.cluster_api import GROUP, VERSION, Json

STEP_KEY = "ratchet.dev/step-key"
"""Annotation with the key of the step that the job belongs to."""
MANAGER = "ratchet.dev/train"
"""Our key among the runtime patches of a job; queues and other controllers have theirs."""
RUNTIME = "ratchet-deepspeed"
REPLICATED_JOB = "node"
"""The Trainer's name of its own job in a runtime."""
CONTAINER = "node"
"""The Trainer's name of the container that trains."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class TrainJobSpec:
    """One training on many nodes. Holds names and addresses, never the value of a secret."""

    step_key: str
    run_id: str
    task: str
    """The task's name in the graph (`train-r2`)."""
    state_uri: str
    mix_uri: str
    num_nodes: int
    num_processes_per_node: int
    image: str
    namespace: str
    runtime: str = RUNTIME
    """Name of the TrainingRuntime, in the same namespace."""
    environment: tuple[str, ...] = ()
    """Names of variables that the pods take from `secret`, each from the key of its name. The
    store's own variables come with the runtime."""
    secret: str = ""
    """Name of a Secret in the namespace."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Resource → quantity for each node (`nvidia.com/gpu`: `8`); empty: those of the runtime."""
    queue: str = ""
    """Name of the Kueue queue to wait in; empty: none."""


def spec_from(
    environment: Mapping[str, str],
    *,
    step_key: str,
    run_id: str,
    task: str,
    state_uri: str,
    mix_uri: str,
    num_nodes: int,
    num_processes_per_node: int,
    namespace_file: Path = NAMESPACE_FILE,
) -> TrainJobSpec:
    """Return the job of this step, completed from environment variables.

    Raises UserError naming the variable to set.

    RATCHET_IMAGE: image of the nodes. RATCHET_NAMESPACE: namespace of the job, this pod's by
    default. Optional: RATCHET_TRAINING_RUNTIME, RATCHET_TRAINING_QUEUE, RATCHET_TRAINING_RESOURCES
    (`cpu=8,memory=64Gi,nvidia.com/gpu=8`), RATCHET_TRAINING_SECRET and RATCHET_TRAINING_ENVIRONMENT
    (`HF_TOKEN,MLFLOW_TRACKING_URI`).
    """
    image = environment.get("RATCHET_IMAGE")
    if not image:
        raise UserError(
            "train.num_nodes > 1 needs to know the image of the nodes: set RATCHET_IMAGE to the "
            "image of this step"
        )
    names = tuple(
        filter(None, environment.get("RATCHET_TRAINING_ENVIRONMENT", "").split(","))
    )
    secret = environment.get("RATCHET_TRAINING_SECRET", "")
    if names and not secret:
        raise UserError(
            "RATCHET_TRAINING_ENVIRONMENT is set: RATCHET_TRAINING_SECRET must name the Secret "
            "they are in"
        )
    return TrainJobSpec(
        step_key=step_key,
        run_id=run_id,
        task=task,
        state_uri=state_uri,
        mix_uri=mix_uri,
        num_nodes=num_nodes,
        num_processes_per_node=num_processes_per_node,
        image=image,
        namespace=environment.get("RATCHET_NAMESPACE") or _namespace(namespace_file),
        runtime=environment.get("RATCHET_TRAINING_RUNTIME") or RUNTIME,
        environment=names,
        secret=secret,
        resources=_resources(environment.get("RATCHET_TRAINING_RESOURCES", "")),
        queue=environment.get("RATCHET_TRAINING_QUEUE", ""),
    )


def job_name(spec: TrainJobSpec) -> str:
    """Return the job's name, the same for the same work in the same store."""
    # 32 characters that begin with a letter: the Trainer makes host names of it
    # (`<name>-node-0-<index>`), which may have 63.
    # The store is part of it: two stores may hold the same work, each needs its own receipt.
    store_root, _, _ = split_receipt_uri(spec.state_uri)
    return "ratchet-" + digest_of([store_root, spec.step_key])[:24]


def pod_selector(name: str) -> str:
    """Return the selector of the labels by which JobSet marks the pods of a TrainJob."""
    job_set = f"jobset.sigs.k8s.io/jobset-name={name}"
    replicated_job = f"jobset.sigs.k8s.io/replicatedjob-name={REPLICATED_JOB}"
    return f"{job_set},{replicated_job}"


def manifest(spec: TrainJobSpec) -> Json:
    """Return the TrainJob as JSON, through the typed models, which check each field's type."""
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import (
        TrainerV1alpha1TrainJob,
    )

    document = _untyped_manifest(spec)
    typed = TrainerV1alpha1TrainJob.from_dict(document)
    checked: Json = typed.to_dict() if typed else {}
    # The models silently drop a field that they do not know: a mistake of this file.
    assert checked == document, (
        f"the models of Kubeflow Trainer drop a field: {document} became {checked}"
    )
    return checked


def _untyped_manifest(spec: TrainJobSpec) -> Json:
    labels = {"app.kubernetes.io/part-of": "ratchet", "ratchet.dev/task": spec.task}
    annotations = {STEP_KEY: spec.step_key, "ratchet.dev/run-id": spec.run_id}
    # On the pods too, where people look for the task that a pod belongs to.
    marks = {"labels": labels, "annotations": annotations}
    pods = {
        "name": REPLICATED_JOB,
        "template": {"spec": {"template": {"metadata": marks}}},
    }
    queue = {"kueue.x-k8s.io/queue-name": spec.queue} if spec.queue else {}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": job_name(spec),
            "namespace": spec.namespace,
            "labels": {**labels, **queue},
            "annotations": annotations,
        },
        "spec": {
            "runtimeRef": {
                "apiGroup": GROUP,
                "kind": "TrainingRuntime",
                "name": spec.runtime,
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {
                        "template": {"spec": {"replicatedJobs": [pods]}}
                    },
                }
            ],
            "trainer": _trainer(spec),
        },
    }


def _trainer(spec: TrainJobSpec) -> Json:
    trainer: Json = {
        "image": spec.image,
        "command": ["torchrun"],
        # The Trainer's torch policy sets nodes, processes and addresses as PET_* variables.
        "args": [
            "-m",
            "components.train",
            "--state",
            spec.state_uri,
            "--mix",
            spec.mix_uri,
        ],
        "numNodes": spec.num_nodes,
        "numProcPerNode": spec.num_processes_per_node,
    }
    if spec.environment:
        trainer["env"] = [
            {
                "name": name,
                # By reference: a value would be in the TrainJob, for all to read. Optional, for a
                # missing key must not keep pods from starting.
                "valueFrom": {
                    "secretKeyRef": {"name": spec.secret, "key": name, "optional": True}
                },
            }
            for name in spec.environment
        ]
    if spec.resources:
        # No limit of cores, as for steps: under one, training was throttled in 66 % of the
        # scheduler's periods. What has both must be equal: GPUs, and memory against evictions.
        limits = {
            name: quantity for name, quantity in spec.resources.items() if name != "cpu"
        }
        trainer["resourcesPerNode"] = {"requests": dict(spec.resources)}
        if limits:
            trainer["resourcesPerNode"]["limits"] = limits
    return trainer


def _namespace(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(
            "train.num_nodes > 1 needs to know its namespace: this is no pod with a service "
            f"account ({file} cannot be read); set RATCHET_NAMESPACE"
        ) from error


def _resources(text: str) -> dict[str, str]:
    """Return `cpu=8,memory=64Gi` as a mapping, or raise UserError."""
    resources = {}
    for item in filter(None, text.split(",")):
        name, marker, quantity = (piece.strip() for piece in item.partition("="))
        if not (name and marker and quantity):
            raise UserError(
                f"RATCHET_TRAINING_RESOURCES: {item!r} is not <resource>=<quantity> "
                "(cpu=8,memory=64Gi)"
            )
        resources[name] = quantity
    return resources
