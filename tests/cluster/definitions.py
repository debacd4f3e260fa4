"""Definitions of the custom resources in the manifests, as their projects publish them.

All of them are Go modules, which the client `go` fetches and checks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

FETCH_SECONDS = 300
PUBLISHED = {
    "github.com/kubeflow/trainer/v2@v2.3.0": (
        "manifests/base/crds/trainer.kubeflow.org_trainingruntimes.yaml",
        "manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml",
    ),
    "sigs.k8s.io/kueue@v0.17.0": (
        "config/components/crd/bases/kueue.x-k8s.io_resourceflavors.yaml",
        "config/components/crd/bases/kueue.x-k8s.io_clusterqueues.yaml",
        "config/components/crd/bases/kueue.x-k8s.io_localqueues.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "github.com/kserve/kserve@v0.15.0": (
        "config/crd/full/serving.kserve.io_inferenceservices.yaml",
    ),
}
"""Module → files with the definitions that the manifests use."""


def published_definitions(folder: Path) -> Iterator[Path]:
    """Yield the files of all definitions.

    Args:
        folder: An empty folder to call `go` in.

    Raises:
        RuntimeError: There is no `go`, or it cannot fetch a module.
    """
    if shutil.which("go") is None:
        raise RuntimeError(
            "there is no `go` to fetch the definitions of custom resources with"
        )
    (folder / "go.mod").write_text("module definitions\n")
    for module, files in PUBLISHED.items():
        run = subprocess.run(
            ["go", "mod", "download", "-json", module],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=FETCH_SECONDS,
        )
        document = json.loads(run.stdout or "{}")
        if run.returncode or "Dir" not in document:
            raise RuntimeError(f"{module}: {document.get('Error') or run.stderr}")
        for name in files:
            yield Path(document["Dir"]) / name
