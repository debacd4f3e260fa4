"""The collection that a cluster starts each day: the command of its manifest, with what an image has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.storage.store import open_store
from tests.conftest import S3Server, context_in
from tests.manifests.pod_security import pod_specs
from tests.manifests.rendering import MANIFESTS, ROOT, composed, of_kind, render_text
from tests.unit.collected import OwnRun

pytestmark = [pytest.mark.process, pytest.mark.s3]

PACKAGES_OF_THE_COMMAND_LINE = ("typer", "rich", "kubernetes")


def collector(*components: str) -> dict[str, Any]:
    """Return the container of the CronJob."""
    (job,) = of_kind(composed("gc", *components), "CronJob")
    ((container,),) = (spec["containers"] for spec in pod_specs(job))
    return dict(container)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a folder with the code of an image, where packages of the command line are missing."""
    folder = tmp_path / "image"
    shutil.copytree(
        ROOT / "components",
        folder / "components",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.rmtree(folder / "components" / "cli")
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for allowed in (line[1:] for line in lines if line.startswith("!components/cli")):
        target = folder / allowed
        target.parent.mkdir(exist_ok=True)
        if (ROOT / allowed).is_dir():
            shutil.copytree(ROOT / allowed, target)
        else:
            shutil.copy(ROOT / allowed, target)
    for left_out in (line for line in lines if line.startswith("components/cli/")):
        (folder / left_out).unlink()
    for name in PACKAGES_OF_THE_COMMAND_LINE:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name}')\n")
    return folder


def collect(
    image: Path, variables: dict[str, str], options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run what the manifest runs, with its variables of a value and these."""
    container = collector()
    program, *arguments = container["args"]
    assert program == "/opt/venv/bin/python"
    named = {one["name"]: one["value"] for one in container["env"]}
    cache = str(image.parent / "cache")
    return subprocess.run(
        [sys.executable, *arguments, *options],
        cwd=image,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(image),
            **named,
            "RATCHET_CACHE": cache,
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_of_the_manifest_collects_a_store_by_its_variables(
    image: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    variables = {**s3_server.environment, "RATCHET_STORE": s3_server.new_uri()}
    context = context_in(
        tmp_path / "here", open_store(variables["RATCHET_STORE"], s3_server.environment)
    )
    OwnRun(context, "old")
    OwnRun(context, "last")
    done = collect(image, variables, ["--keep-runs", "1"])
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^condemned: .*; to be deleted in 168 hours$", done.stdout, re.MULTILINE
    )
    assert "one of the last 1 runs" in done.stdout
    assert next(context.store.list("gc/"), None) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "holds no run: set RATCHET_STORE"),
        (("--grace-hours", "0.5"), "--grace-hours 0.5: at least 1"),
        (("--keep-runs", "0"), "--keep-runs 0: at least 1"),
    ],
)
def test_a_wrong_prefix_or_setting_fails_for_good_and_writes_nothing(
    image: Path, s3_server: S3Server, options: tuple[str, ...], said: str
) -> None:
    uri = s3_server.new_uri()
    done = collect(image, {**s3_server.environment, "RATCHET_STORE": uri}, options)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(open_store(uri, s3_server.environment).list("")) == []


def test_what_does_not_pass_is_not_tried_again() -> None:
    """The statuses of wrong input and of damage; 75 is tried again."""
    (job,) = of_kind(composed("gc"), "CronJob")
    (rule, _) = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert rule["onExitCodes"]["containerName"] == collector()["name"]


def test_the_keys_of_the_store_are_not_optional_where_they_come_from_a_secret() -> None:
    assert collector()["envFrom"][1]["secretRef"]["optional"] is True
    assert (
        collector("static-credentials")["envFrom"][1]["secretRef"]["optional"] is False
    )


def test_the_overlay_of_the_page_names_store_and_image(tmp_path: Path) -> None:
    text = (MANIFESTS / "README.md").read_text()
    [block] = [
        one for one in text.split("```") if "components/gc" in one and "images:" in one
    ]
    kustomization = yaml.safe_load(block.removeprefix("yaml"))
    folder = tmp_path.resolve()
    manifests = Path(os.path.relpath(MANIFESTS, folder))
    for kind in ("resources", "components"):
        kustomization[kind] = [
            str(manifests / path.removeprefix("../../")) for path in kustomization[kind]
        ]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = tuple(yaml.safe_load_all(render_text(folder)))
    (job,) = of_kind(objects, "CronJob")
    ((container,),) = (spec["containers"] for spec in pod_specs(job))
    assert container["image"].startswith("registry.example/team/cpu@sha256:")
    assert container["env"][0] == {
        "name": "RATCHET_STORE",
        "value": "s3://ratchet/mine",
    }
