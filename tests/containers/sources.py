"""Sources that images are built of, in a folder where a test may change them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.pipeline.campaigns import PIPELINE


def copy_sources(folder: Path) -> None:
    """Copy the code and the set-up of images into a folder, without wheels."""
    for name in ("components", "docker"):
        shutil.copytree(
            PIPELINE.parent / name,
            folder / name,
            ignore=shutil.ignore_patterns("*.whl", "__pycache__"),
        )
