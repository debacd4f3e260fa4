"""Files and folders of the source tree: the checkout, or the copy inside the installed package."""

from __future__ import annotations

from pathlib import Path

SOURCE_TREE = Path(__file__).resolve().parents[2]
PIPELINE_FILE = SOURCE_TREE / "pipeline.py"
RECIPES_FOLDER = SOURCE_TREE / "recipes"
PROFILES_FOLDER = SOURCE_TREE / "manifests" / "profiles"
IMAGES_FILE = SOURCE_TREE / "docker" / "images.toml"
