"""A launcher of trainings on many nodes, in haste, for the tests of its parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.runtime.progress import Progress
from components.train.launch.cluster_api import Cluster, LaunchPatience
from components.train.launch.launcher import follow_train_job
from components.train.launch.trainjob import TrainJobSpec, job_name, manifest
from tests.doubles.kubernetes_api import KubernetesApi, stored

TOKEN = "a-token-that-no-message-may-show"
SPEC = TrainJobSpec(
    step_key="0123456789abcdef0123456789abcdef",
    run_id="Run 7/é",
    task="train-r2",
    state_uri="s3://bucket/prefix/steps/decide/aa11.json",
    mix_uri="s3://bucket/prefix/steps/select/bb22.json",
    num_nodes=2,
    num_processes_per_node=8,
    image="registry.example/ratchet/train@sha256:00",
    namespace="ml",
    environment=("HF_TOKEN",),
    secret="trackers",
    resources={"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "8"},
    queue="gpus",
)
NAME = job_name(SPEC)
HASTE = LaunchPatience(
    poll_seconds=0.01,
    look_seconds=0.0,
    connect_seconds=2.0,
    answer_seconds=2.0,
    first_pause_seconds=0.01,
    longest_pause_seconds=0.04,
    give_up_seconds=10.0,
    removal_seconds=10.0,
)


class Launcher:
    """The launcher of one process."""

    def __init__(self, api: KubernetesApi, folder: Path) -> None:
        self.api, self.folder, self.spec, self.patience = api, folder, SPEC, HASTE
        self.log = folder / "progress.jsonl"

    def run(self, endpoint: str = "", token: str = TOKEN, **options: Any) -> None:
        file = self.api.kubeconfig(self.folder / "kubeconfig", endpoint, token)
        cluster = Cluster.from_environment({"KUBECONFIG": str(file)}, self.patience)
        follow_train_job(
            self.spec, cluster, Progress(file=self.log, task=self.spec.task), **options
        )

    def notes(self) -> str:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return "\n".join(json.loads(line)["text"] for line in lines)


def nothing() -> None:
    """What happens between two looks at a job that just runs."""


def keep(
    api: KubernetesApi, *conditions: Callable[[], None], spec: TrainJobSpec = SPEC
) -> str:
    """Put a job there that somebody else created, and return its uid."""
    job = stored(manifest(spec))
    api.jobs[NAME] = job
    for condition in conditions:
        condition()
    return str(job["metadata"]["uid"])


def methods(api: KubernetesApi) -> list[str]:
    return [method for method, path in api.requests if "trainjobs" in path]
