"""What a profile promises of the nodes is in the compiled package, whatever form it is written in."""

from __future__ import annotations

import copy
import functools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cli.doctor.quantities import amount
from components.cli.local.campaign_process import executed_tasks
from components.cli.local.task_server import TaskServer
from components.cli.package.compile import Compiled, write_package
from components.cli.package.lint import MAX_BYTES, findings
from components.cli.package.package_file import Package
from components.cli.package.profiles import (
    PRIORITY_CLASS,
    RUNTIME_CLASS,
    STEPS,
    load_profile,
    profile_names,
)
from components.contracts.recipe_file import load_recipe
from components.errors import UserError
from pipeline import build
from tests.manifests.kfp_pods import step_pods
from tests.manifests.pod_security import violations
from tests.pipeline.campaigns import Place, call, recipe, round_tasks, write_data
from tests.pipeline.compiling import (
    ROOT,
    TEST_IMAGES,
    compile_aside,
    container,
    recipe_for,
)

GOLDEN = ROOT / "tests" / "golden"
PROFILES = ("cpu", "gpu-1", "gpu-8", "multi-node", "small")
GPU_STEPS = ("generate", "train", "evaluate")
LOADER, DUMPER = (
    getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    getattr(yaml, "CSafeDumper", yaml.SafeDumper),
)


@functools.cache
def compiled(profile: str, rounds: int = 4) -> Compiled:
    return compile_aside(
        recipe_for(profile), rounds, load_profile(profile, TEST_IMAGES)
    )


def settings(package: Package, task: str) -> dict[str, Any]:
    found: dict[str, Any] = package.settings[f"exec-{task}"]
    return found


def test_the_profiles_of_the_house_are_these() -> None:
    assert profile_names() == sorted(PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_compiles_small_and_sound(profile: str) -> None:
    made = compiled(profile)
    assert findings(made.package) == []
    assert len(made.package.text.encode()) < MAX_BYTES


@pytest.mark.parametrize("profile", PROFILES)
def test_the_package_of_a_profile_is_as_agreed(profile: str) -> None:
    """One round, without what changes for other reasons: the code in the shells and the recipe."""
    package = compiled(profile, 1).package
    document = copy.deepcopy([package.spec, package.platform])
    for executor in document[0]["deploymentSpec"]["executors"].values():
        executor["container"].update(command=["…"], args=["…"])
    document[0]["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"] = (
        "…"
    )
    text = yaml.dump_all(document, Dumper=DUMPER, sort_keys=True, allow_unicode=True)
    path = GOLDEN / f"ir-{profile}.yaml"
    if os.environ.get("RATCHET_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "if that is meant: `make golden`"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_of_every_profile_meets_restricted(profile: str) -> None:
    pods = dict(step_pods(compiled(profile).package.text))
    assert len(pods) == 9 + 6 * 4
    assert {
        name: found for name, pod in pods.items() if (found := violations(pod))
    } == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_gpus_go_to_the_steps_that_compute_with_the_model_and_to_no_other(
    profile: str,
) -> None:
    package, wanted = compiled(profile).package, load_profile(profile)
    for name, executor in package.executors.items():
        step = name.removeprefix("exec-").removesuffix("-base").split("-r")[0]
        gpu = executor["container"]["resources"].get("accelerator", {})
        count = wanted.resources(
            "decide" if step in ("pass-through", "first-champion") else step
        ).gpus
        assert gpu.get("resourceCount", "0") == str(count), name
        assert (gpu.get("resourceType") == "nvidia.com/gpu") == bool(count)
        assert bool(package.settings[name].get("tolerations")) == bool(count)
        assert count == 0 or step in GPU_STEPS


OF_A_CLUSTER = """
gpu: nvidia.com/gpu
tolerations: [{key: nvidia.com/gpu, effect: NoSchedule}]
node_selector: {pool: gpus}
cpu_tolerations: [{key: batch, effect: NoSchedule}]
cpu_node_selector: {pool: batch}
pull_policy: IfNotPresent
user: null
steps: {train: {gpus: 1}}
"""


def test_nodes_user_and_pull_policy_are_the_profiles(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OF_A_CLUSTER)
    package = compile_aside(
        recipe_for("cpu"), 1, load_profile(str(file), TEST_IMAGES)
    ).package
    assert findings(package) == []
    for name in package.executors:
        pod = package.settings[name]
        pool, taint = (
            ("gpus", "nvidia.com/gpu")
            if name.startswith("exec-train")
            else ("batch", "batch")
        )
        assert pod["nodeSelector"]["labels"] == {"pool": pool}, name
        assert [one["key"] for one in pod["tolerations"]] == [taint], name
        assert pod["imagePullPolicy"] == "IfNotPresent"
        # The cluster gives the user; the kubelet refuses root.
        assert pod["securityContext"] == {"runAsNonRoot": True}


OF_CLASSES = """
gpu: nvidia.com/gpu
runtime_class: nvidia
cpu_runtime_class: gvisor
priority_class: batch
steps: {train: {gpus: 1}}
"""


def test_classes_of_a_profile_are_annotations_that_the_manifests_read(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OF_CLASSES)
    package = compile_aside(
        recipe_for("cpu"), 1, load_profile(str(file), TEST_IMAGES)
    ).package
    assert findings(package) == []
    for name in package.executors:
        runtime_class = "nvidia" if name.startswith("exec-train") else "gvisor"
        annotations = package.settings[name]["podMetadata"]["annotations"]
        assert annotations == {
            "ratchet.dev/runtime-class": runtime_class,
            "ratchet.dev/priority-class": "batch",
        }
    policy = ROOT / "manifests" / "components" / "step-classes" / "policy.yaml"
    assert all(
        annotation in policy.read_text()
        for annotation in (RUNTIME_CLASS, PRIORITY_CLASS)
    )


def test_a_step_knows_its_store_by_names_of_objects_and_holds_no_value() -> None:
    package = compiled("cpu").package
    for name in package.executors:
        given = package.settings[name]
        assert [one["secretName"] for one in given["secretAsEnv"]] == [
            "ratchet-store-credentials"
        ]
        assert [one["configMapName"] for one in given["configMapAsEnv"]] == [
            "ratchet-store"
        ]
        keys = [one["envVar"] for one in given["configMapAsEnv"][0]["keyToEnv"]]
        assert {
            "AWS_ENDPOINT_URL_S3",
            "AWS_REGION",
            "RATCHET_S3_REQUEST_CHECKSUM",
            "HF_HUB_OFFLINE",
        } <= set(keys)
        assert "env" not in package.executors[name]["container"]


def test_names_of_secret_and_config_map_are_those_of_the_manifests() -> None:
    base = (ROOT / "manifests" / "base" / "store.yaml").read_text()
    runtime = (ROOT / "manifests" / "base" / "training-runtime.yaml").read_text()
    profile = load_profile("cpu")
    assert f"name: {profile.config_map}" in base
    assert all(f"name: {secret}" in runtime for secret in profile.secrets)
    in_base = yaml.safe_load(base)["data"]
    assert set(in_base) <= set(profile.config_keys)


def test_a_training_on_many_nodes_is_told_its_image_queue_and_resources() -> None:
    package = compiled("multi-node").package
    told = {one["name"]: one["value"] for one in container(package, "train-r2")["env"]}
    assert told == {
        "RATCHET_IMAGE": "ratchet/train:dev",
        "RATCHET_TRAINING_QUEUE": "ratchet",
        "RATCHET_TRAINING_RESOURCES": "cpu=32,memory=200Gi,nvidia.com/gpu=8",
    }
    assert "accelerator" not in container(package, "train-r2")["resources"]
    assert "env" not in container(package, "generate-r2")
    queue = yaml.safe_load_all(
        (ROOT / "manifests" / "components" / "kueue" / "queue.yaml").read_text()
    )
    assert told["RATCHET_TRAINING_QUEUE"] in [
        one["metadata"]["name"] for one in queue if one["kind"] == "LocalQueue"
    ]


def test_everything_of_a_profile_reaches_the_pods(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("""
gpu: amd.com/gpu
tolerations: [{key: dedicated, operator: Equal, value: ml, effect: NoExecute}]
node_selector: {zone: a}
default: {memory: 3Gi, retries: 0}
steps: {train: {gpus: 2, cpu: 500m, scratch: 7Gi, shared_memory: 2Gi, hours: 0.5, retries: 5}}
labels: {team: language}
pull_secrets: [registry-key]
secrets: {my-keys: [HF_TOKEN]}
config_map: my-store
images: {train: "registry.example/train:9"}
""")
    mine = load_recipe(ROOT / "recipes" / "demo.yaml", ("train.num_processes=2",))
    with pytest.raises(UserError, match=r"patience: .*is not tried again"):
        compile_aside(mine, 1, load_profile(str(tmp_path / "mine.yaml"), TEST_IMAGES))
    text = (tmp_path / "mine.yaml").read_text().replace("retries: 0", "retries: 1")
    (tmp_path / "mine.yaml").write_text(text)
    package = compile_aside(
        mine, 1, load_profile(str(tmp_path / "mine.yaml"), TEST_IMAGES)
    ).package
    train, given = container(package, "train-r1"), settings(package, "train-r1")
    assert train["image"] == "registry.example/train:9"
    assert train["resources"]["resourceCpuRequest"] == "500m"
    assert train["resources"]["resourceMemoryLimit"] == "3Gi"
    assert train["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
    toleration = {
        "key": "dedicated",
        "operator": "Equal",
        "value": "ml",
        "effect": "NoExecute",
    }
    assert given["tolerations"] == [toleration]
    assert given["nodeSelector"] == {"labels": {"zone": "a"}}
    assert {one["mountPath"]: one["sizeLimit"] for one in given["emptyDirMounts"]} == {
        "/tmp": "7Gi",
        "/dev/shm": "2Gi",
    }
    assert given["activeDeadlineSeconds"] == "1800"
    assert given["podMetadata"]["labels"]["team"] == "language"
    assert given["imagePullSecret"][0]["secretName"] == "registry-key"
    assert given["secretAsEnv"][0]["secretName"] == "my-keys"
    assert given["configMapAsEnv"][0]["configMapName"] == "my-store"
    retries = {
        name: task["retryPolicy"]
        for name, task, _ in package.tasks()
        if package.container(task)
    }
    assert retries["train-r1"]["maxRetryCount"] == 5
    assert retries["decide-r1"] == {
        "maxRetryCount": 1,
        "backoffDuration": "30s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": f"{2 * (2 * 3600 + 3600) + 30}s",
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_every_step_is_supervised_within_its_hours(profile: str) -> None:
    loaded = load_profile(profile, TEST_IMAGES)
    num_nodes = 2 if loaded.nodes else 1
    settings = (
        f"train.num_nodes={num_nodes}",
        f"train.num_processes={max(1, loaded.train_gpus)}",
    )
    demo = load_recipe(ROOT / "recipes" / "demo.yaml", settings)
    package = compile_aside(demo, 1, loaded).package
    for name in (
        "prepare",
        "generate-r1",
        "select-r1",
        "train-r1",
        "evaluate-r1",
        "decide-r1",
    ):
        step = name.partition("-")[0]
        hours = f"{loaded.resources(step).hours:g}"
        command = container(package, name)["command"]
        supervisor = [
            "python3",
            "-m",
            "components.runtime.supervisor",
            "--hours",
            hours,
            "--",
        ]
        assert command[:6] == supervisor
        assert command[6:8] == ["sh", "-ec"]


@pytest.mark.parametrize("profile", PROFILES)
def test_no_step_takes_more_than_the_manifests_give_the_namespace(profile: str) -> None:
    base = yaml.safe_load_all((ROOT / "manifests" / "base" / "limits.yaml").read_text())
    hard = next(one["spec"]["hard"] for one in base if one["kind"] == "ResourceQuota")
    component = (
        ROOT / "manifests" / "components" / "nvidia-gpu" / "kustomization.yaml"
    ).read_text()
    [gpus] = [
        one["value"]
        for one in yaml.safe_load(yaml.safe_load(component)["patches"][0]["patch"])
    ]
    wanted = load_profile(profile, TEST_IMAGES)
    for step in STEPS:
        given = wanted.resources(step)
        assert amount(given.cpu) <= amount(hard["requests.cpu"]), step
        assert int(given.memory.removesuffix("Gi")) <= int(
            hard["requests.memory"].removesuffix("Gi")
        ), step
        assert given.gpus <= int(gpus), step
    assert wanted.train_gpus <= int(gpus)


def test_gitops_gets_the_same_pipeline_as_objects_with_names_of_their_own(
    tmp_path: Path,
) -> None:
    demo, profile, file = (
        recipe_for("cpu"),
        load_profile("cpu", TEST_IMAGES),
        tmp_path / "deep" / "objects.yaml",
    )
    made = write_package(build, demo, 1, profile, file, "kubernetes", "ratchet")
    pipeline, version = yaml.load_all(file.read_text(), Loader=LOADER)
    assert (pipeline["kind"], pipeline["metadata"]) == (
        "Pipeline",
        {"name": "ratchet-demo", "namespace": "ratchet"},
    )
    assert version["metadata"] == {
        "name": f"ratchet-demo-{made.version}",
        "namespace": "ratchet",
    }
    assert version["spec"]["pipelineName"] == "ratchet-demo"
    assert version["spec"]["pipelineSpec"] == made.package.spec
    assert version["spec"]["platformSpec"] == made.package.platform
    assert compile_aside(demo, 0, profile).version != made.version
    assert compile_aside(demo, 1, profile).version == made.version


LOCALLY = """
import sys
from pathlib import Path
from kfp import local
from components.cli.package.profiles import load_profile
from components.cli.local.campaign_process import task_processes
from components.contracts.recipe_file import load_recipe
from pipeline import build

with task_processes():
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="kfp", raise_on_error=True)
    recipe = load_recipe(Path("recipe.yaml"), ("decide.goal.threshold=0.0", "train.first.steps=2"))
    build(recipe, 1, load_profile("multi-node"))(store=sys.argv[1])
"""


def test_kfp_local_carries_out_the_very_pipeline_that_is_compiled_for_a_cluster(
    tmp_path: Path, server: TaskServer
) -> None:
    place = Place(tmp_path, recipe(tmp_path))
    write_data(tmp_path)
    command = [sys.executable, "-c", LOCALLY, place.uri]
    place.command("run")  # writes recipe.yaml
    environment = {**place.environment, "PYTHONPATH": str(ROOT)}
    done = call(command, tmp_path, environment, 400.0, server)
    assert done.returncode == 0, done.stderr[-2000:]
    base = ["prepare", "evaluate-base", "first-champion"]
    expected = [*base, *round_tasks(0), "pass-through-r1", "publish", "report"]
    assert executed_tasks(done.stdout + done.stderr) == expected
    assert len(list((place.store / "steps" / "publish").glob("*.json"))) == 1
