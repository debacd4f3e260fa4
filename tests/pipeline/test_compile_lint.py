"""Every rule that a compiled pipeline must keep to is broken once, and the check names it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cli.package.lint import RULES, findings
from components.cli.package.package_file import Package, read_package
from components.cli.package.profiles import load_profile
from components.cli.package.secret_values import looks_secret
from components.contracts.recipe_file import load_recipe
from components.errors import UserError
from tests.pipeline.compiling import compile_aside

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@functools.cache
def good() -> Package:
    profile = load_profile("gpu-1", ROOT / "tests" / "pipeline" / "images.toml")
    return compile_aside(
        load_recipe(ROOT / "recipes" / "demo.yaml"), 1, profile
    ).package


class Broken:
    """A copy of the good package to do harm to."""

    def __init__(self) -> None:
        documents: list[Json] = copy.deepcopy([good().spec, good().platform])
        self.spec, platform = documents
        self.documents = documents
        self.components: Json = self.spec["components"]
        self.root: Json = self.spec["root"]["dag"]["tasks"]
        self.settings: Json = platform["platforms"]["kubernetes"]["deploymentSpec"][
            "executors"
        ]
        executors = self.spec["deploymentSpec"]["executors"]
        self.containers: Json = {
            name: one["container"] for name, one in executors.items()
        }
        self.executors: Json = executors

    def task(self, name: str) -> Json:
        for one in self.components.values():
            if name in one.get("dag", {}).get("tasks", {}):
                found: Json = one["dag"]["tasks"][name]
                return found
        raise KeyError(name)

    def level(self, task: str) -> Json:
        """The tasks beside a task, and itself."""
        return next(
            one["dag"]["tasks"]
            for one in self.components.values()
            if task in one.get("dag", {}).get("tasks", {})
        )

    def findings(self) -> list[str]:
        return findings(Package(yaml.dump_all(self.documents, Dumper=DUMPER)))


def argument(task: Json, name: str, value: Any) -> None:
    task["inputs"]["parameters"][name] = {"runtimeValue": {"constant": value}}


def guard(one: Broken, condition: str) -> None:
    one.task("condition-8")["triggerPolicy"]["condition"] = condition


def operand(one: Broken, task: str) -> str:
    """The input that a guard compares."""
    return str(one.task(task)["triggerPolicy"]["condition"]).split("'")[1]


def merge(one: Broken) -> Json:
    name = next(
        name
        for name in sorted(one.components)
        if name.startswith("comp-condition-branches")
    )
    found: Json = one.components[name]["dag"]["outputs"]
    return found


def selectors(one: Broken) -> list[Json]:
    found: list[Json] = next(iter(merge(one)["parameters"].values()))["valueFromOneof"][
        "parameterSelectors"
    ]
    return found


def drop_task(one: Broken, name: str) -> None:
    del one.level(name)[name]


def _many_tasks(one: Broken) -> None:
    tasks = one.level("publish")
    for number in range(120):
        tasks[f"publish-{number}"] = copy.deepcopy(tasks["publish"])


def _many_shards(one: Broken) -> None:
    items = one.task("for-loop-7")["parameterIterator"]["items"]
    items["raw"] = str(list(range(60)))


def _twins(one: Broken) -> None:
    one.level("decide-r0")["decide-r1"] = copy.deepcopy(one.task("decide-r1"))


def _parameter(one: Broken, name: str, **definition: Any) -> None:
    one.spec["root"]["inputDefinitions"]["parameters"][name] = {
        "parameterType": "STRING",
        **definition,
    }


def _from_a_task(one: Broken, task: str, key: str) -> None:
    source = {"taskOutputParameter": {"producerTask": "x", "outputParameterKey": "y"}}
    one.task(task)["inputs"]["parameters"][key] = source


def _a_branch_of_tasks_alone(one: Broken) -> None:
    """`pass_through` becomes a sub-pipeline without a container."""
    one.components["comp-pass-through-r0"] = {
        "dag": {"tasks": {}, "outputs": {"parameters": {}}}
    }


def _read_by_a_guard_alone(one: Broken) -> None:
    readers = one.task("condition-branches-5")["inputs"]["parameters"]
    for name in [name for name in readers if name.endswith("oneof-1")]:
        del readers[name]


def _importer(one: Broken) -> None:
    one.executors["exec-publish"] = {
        "importer": {"artifactUri": {"runtimeParameter": "uri"}}
    }
    del one.settings["exec-publish"]


def mount(one: Broken, path: str) -> Json:
    found: Json = next(
        m
        for m in one.settings["exec-train-r1"]["emptyDirMounts"]
        if m["mountPath"] == path
    )
    return found


def _no_gpu_number(one: Broken) -> None:
    del one.containers["exec-train-r1"]["resources"]["accelerator"]["resourceCount"]


def _gpu_from_a_parameter(one: Broken) -> None:
    one.containers["exec-train-r1"]["resources"]["accelerator"]["resourceCount"] = (
        "{{$.inputs.parameters['gpus']}}"
    )


MUTANTS: dict[str, tuple[str, Callable[[Broken], Any]]] = {
    "too large": ("size", lambda one: one.spec.update(note="x" * 400_000)),
    "too many tasks": ("workflow", _many_tasks),
    "too many shards": ("workflow", _many_shards),
    "a cached task": (
        "cache",
        lambda one: one.task("decide-r1").update(cachingOptions={"enableCache": True}),
    ),
    "two tasks of one name": ("names", _twins),
    "a guard on a task's output": (
        "guards",
        lambda one: _from_a_task(one, "condition-8", operand(one, "condition-8")),
    ),
    "an If without an Else": ("guards", lambda one: drop_task(one, "condition-9")),
    "a quote in a comparison": (
        "guards",
        lambda one: guard(
            one, "inputs.parameter_values['pipelinechannel--go'] == 'it's'"
        ),
    ),
    "two comparisons": (
        "guards",
        lambda one: guard(one, "inputs.parameter_values['a'] == true && b == false"),
    ),
    "merged artifacts": (
        "merges",
        lambda one: merge(one).update(
            artifacts={"a": {"artifactSelectors": [{"a": 1}, {"b": 2}]}}
        ),
    ),
    "a branch that is left out": ("merges", lambda one: selectors(one).pop()),
    "a branch without a container": ("merges", _a_branch_of_tasks_alone),
    "a merge that only a guard reads": ("merges", _read_by_a_guard_alone),
    "an output used in a loop": (
        "loops",
        lambda one: _from_a_task(one, "for-loop-7", "pipelinechannel--state"),
    ),
    "a loop over artifacts": (
        "loops",
        lambda one: one.task("for-loop-7").update(artifactIterator={}),
    ),
    "a placeholder within text": (
        "placeholders",
        lambda one: argument(
            one.root["report"], "job_id", "run-{{$.pipeline_job_uuid}}"
        ),
    ),
    "the placeholder of the pipeline root": (
        "placeholders",
        lambda one: argument(one.root["report"], "job_id", "{{$.pipeline_root}}"),
    ),
    "the placeholder of a time": (
        "placeholders",
        lambda one: argument(
            one.root["report"], "job_id", "{{$.pipeline_job_create_time_utc}}"
        ),
    ),
    "the placeholder of the resource name": (
        "placeholders",
        lambda one: argument(
            one.root["report"], "job_id", "{{$.pipeline_job_resource_name}}"
        ),
    ),
    "a placeholder in a variable": (
        "placeholders",
        lambda one: one.containers["exec-train-r1"].update(
            env=[{"name": "A", "value": "{{$.pipeline_job_uuid}}"}]
        ),
    ),
    "optional without a default": (
        "parameters",
        lambda one: _parameter(one, "limit", isOptional=True),
    ),
    "a default that is too large": (
        "parameters",
        lambda one: _parameter(one, "text", defaultValue="x" * 100_001),
    ),
    "an importer of a computed address": ("importers", _importer),
    "pip at run time": (
        "shells",
        lambda one: one.containers["exec-train-r1"]["command"].insert(
            0, "pip install kfp;"
        ),
    ),
    "a container component": (
        "shells",
        lambda one: one.containers["exec-train-r1"].update(command=["sh"], args=[]),
    ),
    "the image latest": (
        "shells",
        lambda one: one.containers["exec-train-r1"].update(
            image="a.example:5000/b:latest"
        ),
    ),
    "an image without a tag": (
        "shells",
        lambda one: one.containers["exec-train-r1"].update(image="a.example:5000/b"),
    ),
    "an image from a parameter": (
        "shells",
        lambda one: one.containers["exec-train-r1"].update(
            image="{{$.inputs.parameters['image']}}"
        ),
    ),
    "no memory limit": (
        "resources",
        lambda one: one.containers["exec-train-r1"]["resources"].pop(
            "resourceMemoryLimit"
        ),
    ),
    "no resources": (
        "resources",
        lambda one: one.containers["exec-train-r1"].pop("resources"),
    ),
    "GPUs without a number": ("resources", _no_gpu_number),
    "GPUs from a parameter": ("resources", _gpu_from_a_parameter),
    "no retry": ("patience", lambda one: one.task("train-r1").pop("retryPolicy")),
    "a retry at once": (
        "patience",
        lambda one: one.task("train-r1")["retryPolicy"].update(backoffDuration="0s"),
    ),
    "tries that Argo cuts short": (
        "patience",
        lambda one: one.task("train-r1")["retryPolicy"].update(
            backoffMaxDuration="900s"
        ),
    ),
    "a retried sub-pipeline": (
        "patience",
        lambda one: one.task("condition-branches-5").update(
            retryPolicy={"maxRetryCount": 1}
        ),
    ),
    "no time limit": (
        "patience",
        lambda one: one.settings["exec-train-r1"].pop("activeDeadlineSeconds"),
    ),
    "root": (
        "pods",
        lambda one: one.settings["exec-train-r1"]["securityContext"].update(
            runAsUser="0"
        ),
    ),
    "perhaps root": (
        "pods",
        lambda one: one.settings["exec-train-r1"]["securityContext"].pop(
            "runAsNonRoot"
        ),
    ),
    "no /tmp": ("pods", lambda one: mount(one, "/tmp").update(mountPath="/scratch")),
    "shared memory on disk": ("pods", lambda one: mount(one, "/dev/shm").pop("medium")),
    "a scratch without end": ("pods", lambda one: mount(one, "/tmp").pop("sizeLimit")),
    "a shared volume": (
        "pods",
        lambda one: one.settings["exec-train-r1"].update(
            pvcMount=[{"mountPath": "/data"}]
        ),
    ),
    "no labels": ("pods", lambda one: one.settings["exec-train-r1"].pop("podMetadata")),
    "no settings at all": ("pods", lambda one: one.settings.pop("exec-train-r1")),
    "a secret as a default": (
        "secrets",
        lambda one: _parameter(one, "hf_token", defaultValue="abc"),
    ),
    "a key within the recipe": (
        "secrets",
        lambda one: one.spec["root"]["inputDefinitions"]["parameters"]["recipe"][
            "defaultValue"
        ].update(note="AKIA" + "A" * 16),
    ),
    "a secret as an argument": (
        "secrets",
        lambda one: argument(one.root["report"], "password", "abc"),
    ),
    "a secret as a variable": (
        "secrets",
        lambda one: one.containers["exec-train-r1"].update(
            env=[{"name": "HF_TOKEN", "value": "abc"}]
        ),
    ),
}


def test_the_good_package_breaks_no_rule() -> None:
    assert Broken().findings() == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_package_that_breaks_a_rule_is_caught(name: str) -> None:
    rule, harm = MUTANTS[name]
    broken = Broken()
    harm(broken)
    assert rule in {found.partition(":")[0] for found in broken.findings()}


def test_every_rule_is_broken_by_a_mutant() -> None:
    assert {rule for rule, _ in MUTANTS.values()} == set(RULES)


@pytest.mark.parametrize("text", ["", "a: [", "name: demo", "- 1\n"])
def test_what_is_no_package_is_refused_with_the_files_name(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=r"p\.yaml"):
        read_package(tmp_path / "p.yaml")


SECRET = [
    ("hf_token", "anything"),
    ("store.secret", "x"),
    ("AWS_SECRET_ACCESS_KEY", "x"),
    ("db-password", "x"),
    ("note", "AKIAIOSFODNN7EXAMPLE"),
    ("note", "hf_" + "a" * 30),
    ("note", "ghp_" + "a" * 36),
    ("note", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
    ("uri", "https://user:pass@host/path"),
    ("note", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"),
    ("recipe", {"a": [{"api_key": "x"}]}),
    ("recipe", '{"a": {"token": "x"}}'),
]
HARMLESS = [
    ("store_secret_name", "ratchet-store-credentials"),
    ("token_secret", ""),
    ("tokens", 5000),
    ("seed", 0),
    ("store", "s3://bucket/prefix"),
    ("max_new_tokens", "64"),
    ("recipe", {"tokenizer": "byte"}),
    ("note", "the key to success"),
    ("text", "[not json"),
]


@pytest.mark.parametrize(("name", "value"), SECRET)
def test_a_value_that_looks_like_a_secret_is_seen(name: str, value: Any) -> None:
    assert looks_secret(name, value)


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_an_ordinary_value_is_let_through(name: str, value: Any) -> None:
    assert not looks_secret(name, value)
