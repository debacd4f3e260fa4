"""Publishing images: a registry gives them digests, images.toml gets them, and what is compiled
names them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from components.cli.doctor.image_checks import image_checks
from components.cli.package.profiles import load_profile
from tests.containers.sources import copy_sources
from tests.doubles.image_registry import ImageRegistry


def test_a_published_image_is_recorded_by_its_digest_and_found_by_it(
    engine: Any, tmp_path: Path
) -> None:
    copy_sources(tmp_path)
    registry = ImageRegistry()
    command = [
        sys.executable,
        "docker/build.py",
        "--loaded",
        f"--registry={registry.host}/team",
        "cpu",
    ]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        images = tomllib.loads((tmp_path / "docker" / "images.toml").read_text())
        cpu = images["families"]["cpu"]
        assert cpu["image"] == f"{registry.host}/team/cpu"
        assert f"team/cpu@{cpu['digest']}" in registry.manifests
        assert images["families"]["train"]["digest"] == "", (
            "the others are as they were"
        )
        compiled = load_profile("cpu", tmp_path / "docker" / "images.toml").images[
            "decide"
        ]
        assert compiled == f"{cpu['image']}@{cpu['digest']}"
        assert [one.status for one in image_checks({"decide": compiled}, {})] == ["ok"]
    finally:
        registry.close()
        for image in engine.images.list(
            filters={"reference": f"{registry.host}/team/cpu"}
        ):
            for tag in image.tags:
                if tag.startswith(registry.host):
                    engine.images.remove(tag)
    bill = json.loads((tmp_path / ".ratchet" / "images" / "cpu.cdx.json").read_text())
    assert {"numpy", "scipy", "libc6"} <= {one["name"] for one in bill["components"]}
