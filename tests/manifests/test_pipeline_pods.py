"""The pods that KFP makes of the compiled pipeline are let into a namespace that enforces
*restricted*."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import yaml
from kfp import compiler

from components.contracts.recipe_file import load_recipe
from pipeline import build
from tests.manifests.kfp_pods import driver_pod, step_pods
from tests.manifests.pod_security import violations
from tests.manifests.rendering import ROOT, Json


@functools.cache
def compiled_pods() -> tuple[tuple[str, Json], ...]:
    """(executor, pod) of every step of a pipeline of two rounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            build(load_recipe(ROOT / "recipes" / "demo.yaml"), 2), str(path)
        )
        return tuple(step_pods(path.read_text()))


def test_every_step_of_the_pipeline_makes_a_pod() -> None:
    names = {name.removeprefix("exec-").split("-r")[0] for name, _ in compiled_pods()}
    assert names >= {
        "prepare",
        "generate",
        "select",
        "train",
        "evaluate",
        "decide",
        "publish",
        "report",
        "pass-through",
    }


def test_the_driver_of_a_step_meets_restricted() -> None:
    assert violations(driver_pod()) == []


def test_every_step_of_the_pipeline_meets_restricted() -> None:
    assert {
        name: found for name, pod in compiled_pods() if (found := violations(pod))
    } == {}


def test_a_step_that_says_run_as_non_root_meets_restricted_and_one_that_says_root_does_not() -> (
    None
):
    scratch = [{"volumeName": "tmp", "mountPath": "/tmp"}]
    good = {
        "securityContext": {"runAsUser": "10001", "runAsNonRoot": True},
        "emptyDirMounts": scratch,
    }
    bad = {"securityContext": {"runAsUser": "0", "runAsNonRoot": True}}
    assert _violations(good) == []
    assert _violations(bad) == [("run as non-root user", "main")]


def _violations(settings: Json) -> list[tuple[str, str]]:
    """Of a pipeline with one step that has these Kubernetes settings."""
    pipeline = {
        "deploymentSpec": {"executors": {"exec-a": {"container": {"image": "a:1"}}}}
    }
    platform = {
        "platforms": {
            "kubernetes": {"deploymentSpec": {"executors": {"exec-a": settings}}}
        }
    }
    ((_, pod),) = step_pods(yaml.safe_dump_all([pipeline, platform]))
    return violations(pod)
