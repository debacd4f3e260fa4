"""The TrainJob and its runtime, field by field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.train.launch.cluster_api import Cluster
from components.train.launch.trainjob import job_name, manifest, spec_from
from tests.unit.launcher import NAME, SPEC

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "manifests" / "base" / "training-runtime.yaml"
WORK: dict[str, Any] = {
    "step_key": SPEC.step_key,
    "run_id": SPEC.run_id,
    "task": SPEC.task,
    "state_uri": SPEC.state_uri,
    "mix_uri": SPEC.mix_uri,
    "num_nodes": 2,
    "num_processes_per_node": 8,
}


def test_the_trainjob_is_as_meant_after_a_round_trip_through_yaml() -> None:
    meant = yaml.safe_load(f"""
        apiVersion: trainer.kubeflow.org/v1alpha1
        kind: TrainJob
        metadata:
          name: {NAME}
          namespace: ml
          labels:
            app.kubernetes.io/part-of: ratchet
            ratchet.dev/task: train-r2
            kueue.x-k8s.io/queue-name: gpus
          annotations: {{ratchet.dev/step-key: {SPEC.step_key}, ratchet.dev/run-id: Run 7/é}}
        spec:
          runtimeRef: {{apiGroup: trainer.kubeflow.org, kind: TrainingRuntime, name: ratchet-deepspeed}}
          runtimePatches:
            - manager: ratchet.dev/train
              trainingRuntimeSpec:
                template:
                  spec:
                    replicatedJobs:
                      - name: node
                        template:
                          spec:
                            template:
                              metadata:
                                labels: {{app.kubernetes.io/part-of: ratchet, ratchet.dev/task: train-r2}}
                                annotations: {{ratchet.dev/step-key: {SPEC.step_key}, ratchet.dev/run-id: Run 7/é}}
          trainer:
            image: registry.example/ratchet/train@sha256:00
            command: [torchrun]
            args: [-m, components.train, --state, {SPEC.state_uri}, --mix, {SPEC.mix_uri}]
            numNodes: 2
            numProcPerNode: 8
            env: [{{name: HF_TOKEN, valueFrom: {{secretKeyRef: {{name: trackers, key: HF_TOKEN, optional: true}}}}}}]
            resourcesPerNode:
              limits: {{memory: 64Gi, nvidia.com/gpu: "8"}}
              requests: {{cpu: "8", memory: 64Gi, nvidia.com/gpu: "8"}}
    """)
    made = yaml.safe_load(yaml.safe_dump(manifest(SPEC)))
    assert leaves(made) == leaves(meant)
    typed = train_job_model().from_dict(made)
    assert typed is not None
    assert leaves(typed.to_dict()) == leaves(meant)


def test_cores_have_a_request_and_no_limit() -> None:
    trainer = manifest(replace(SPEC, resources={"cpu": "8"}))["spec"]["trainer"]
    assert trainer["resourcesPerNode"] == {"requests": {"cpu": "8"}}


def test_what_the_models_would_drop_does_not_compare_equal() -> None:
    made = manifest(SPEC)
    made["spec"]["podTemplateOverrides"] = [{"targetJobs": [{"name": "node"}]}]
    typed = train_job_model().from_dict(made)
    assert typed is not None
    assert set(leaves(made)) - set(leaves(typed.to_dict())) == {
        "spec.podTemplateOverrides.0.targetJobs.0.name"
    }


def test_the_runtime_is_a_training_runtime_of_which_the_models_drop_nothing() -> None:
    from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import (
        TrainerV1alpha1TrainingRuntime,
    )

    written = yaml.safe_load(RUNTIME.read_text())
    typed = TrainerV1alpha1TrainingRuntime.from_dict(written)
    assert typed is not None
    assert leaves(typed.to_dict()) == leaves(written)
    assert (
        written["metadata"]["name"]
        == spec_from({"RATCHET_IMAGE": "i", "RATCHET_NAMESPACE": "n"}, **WORK).runtime
    )
    assert "namespace" not in written["metadata"]
    assert written["spec"]["mlPolicy"] == {"numNodes": 1, "torch": {}}
    job_set = written["spec"]["template"]["spec"]
    assert job_set["failurePolicy"]["maxRestarts"] > 0
    [replicated] = job_set["replicatedJobs"]
    assert replicated["name"] == "node"
    assert (
        replicated["template"]["metadata"]["labels"][
            "trainer.kubeflow.org/trainjob-ancestor-step"
        ]
        == "trainer"
    )


def test_the_nodes_run_under_the_restricted_pod_security_standard() -> None:
    [replicated] = yaml.safe_load(RUNTIME.read_text())["spec"]["template"]["spec"][
        "replicatedJobs"
    ]
    pod_spec = replicated["template"]["spec"]["template"]["spec"]
    assert pod_spec["serviceAccountName"] == "ratchet-train"
    assert pod_spec["securityContext"]["runAsNonRoot"] is True
    assert pod_spec["securityContext"]["runAsUser"] == 10001
    assert pod_spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod_spec["containers"]
    assert container["name"] == "node"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {
        mounted[volume["name"]]: volume["emptyDir"] for volume in pod_spec["volumes"]
    }
    assert volumes == {"/tmp": {}, "/dev/shm": {"medium": "Memory"}}
    assert container["envFrom"][0] == {"configMapRef": {"name": "ratchet-store"}}
    # The Trainer refuses a job whose runtime sets what its torch policy sets.
    of_trainer = {"NNODES", "NPROC_PER_NODE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    names = {variable["name"].removeprefix("PET_") for variable in container["env"]}
    assert not names & of_trainer


def test_torchrun_has_the_patience_that_the_runtime_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.run import config_from_args, parse_args

    [replicated] = yaml.safe_load(RUNTIME.read_text())["spec"]["template"]["spec"][
        "replicatedJobs"
    ]
    pod_spec = replicated["template"]["spec"]["template"]["spec"]
    for variable in pod_spec["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    # As the Trainer's torch policy sets them.
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_NODE_RANK", "1")
    config, _, _ = config_from_args(parse_args(["-m", "components.train"]))
    assert (config.min_nodes, config.rdzv_configs["rank"]) == (2, 1)
    # Another node may wait for room that long: torchrun's own 15 minutes end the nodes that run.
    assert int(config.rdzv_configs["timeout"]) == 24 * 3600
    # A rank saves a checkpoint after SIGTERM, before the kubelet ends the pod.
    assert 90 <= config.shutdown_timeout < pod_spec["terminationGracePeriodSeconds"]


def test_the_name_is_the_same_for_the_same_work_and_fits_into_a_host_name() -> None:
    assert (
        job_name(
            replace(
                SPEC,
                run_id="another",
                image="newer",
                state_uri="s3://bucket/prefix/steps/decide/cc.json",
            )
        )
        == NAME
    )
    assert job_name(replace(SPEC, step_key="f" * 32)) != NAME
    assert (
        job_name(replace(SPEC, state_uri="s3://other/prefix/steps/decide/aa11.json"))
        != NAME
    )
    assert re.fullmatch(r"ratchet-[a-z0-9]+", NAME)
    assert len(f"{NAME}-node-0-9999-abcde") <= 63


def test_the_spec_comes_from_the_pod(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("ml\n")
    surroundings = {
        "RATCHET_IMAGE": SPEC.image,
        "RATCHET_TRAINING_RESOURCES": "cpu=8, memory=64Gi, nvidia.com/gpu=8",
        "RATCHET_TRAINING_SECRET": "trackers",
        "RATCHET_TRAINING_ENVIRONMENT": "HF_TOKEN",
        "HF_TOKEN": "hf_secret",
        "RATCHET_TRAINING_QUEUE": "gpus",
    }
    spec = spec_from(surroundings, **WORK, namespace_file=tmp_path / "namespace")
    assert spec == SPEC
    assert "hf_secret" not in json.dumps(manifest(spec))
    assert (
        spec_from(
            {**surroundings, "RATCHET_TRAINING_RUNTIME": "own"},
            **WORK,
            namespace_file=tmp_path / "namespace",
        ).runtime
        == "own"
    )


@pytest.mark.parametrize(
    ("surroundings", "named"),
    [
        ({"RATCHET_IMAGE": ""}, "RATCHET_IMAGE"),
        ({"RATCHET_NAMESPACE": ""}, "RATCHET_NAMESPACE"),
        ({"RATCHET_TRAINING_RESOURCES": "8"}, "RATCHET_TRAINING_RESOURCES"),
        ({"RATCHET_TRAINING_ENVIRONMENT": "A"}, "RATCHET_TRAINING_SECRET"),
    ],
)
def test_what_the_pod_does_not_say_is_asked_for_by_name(
    surroundings: dict[str, str], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=named):
        spec_from(
            {"RATCHET_IMAGE": "i", "RATCHET_NAMESPACE": "n", **surroundings},
            **WORK,
            namespace_file=tmp_path / "none",
        )


def test_without_any_cluster_the_message_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"KUBECONFIG.*train\.num_nodes to 1"):
        Cluster.from_environment({"KUBECONFIG": str(tmp_path / "none")})


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Path → value of every leaf of a JSON tree; an empty object is a leaf."""
    if not isinstance(tree, dict | list) or not tree:
        return {path.lstrip("."): tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        name: leaf
        for key, value in pairs
        for name, leaf in leaves(value, f"{path}.{key}").items()
    }


def train_job_model() -> Any:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import (
        TrainerV1alpha1TrainJob,
    )

    return TrainerV1alpha1TrainJob
