"""Compilations that tests wait for, and recipes that fit a profile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.cli.package.compile import Compiled, compile_recipe
from components.cli.package.package_file import Package
from components.cli.package.profiles import Profile
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import load_recipe
from pipeline import build

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {
    "gpu-8": ("train.num_processes=8",),
    "multi-node": ("train.num_processes=8", "train.num_nodes=2"),
}
TEST_IMAGES = ROOT / "tests" / "pipeline" / "images.toml"


def compile_aside(recipe: Recipe, rounds: int, profile: Profile) -> Compiled:
    """Compile the pipeline with `compile_recipe`, in a thread of its own.

    kfp looks through the whole call stack for every task. Under pytest the stack is so deep that a
    compilation of 4 rounds took 10 s there, and takes 1 s here.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(compile_recipe, build, recipe, rounds, profile).result()


def recipe_for(profile: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "demo.yaml", TRAINING.get(profile, ()))


def container(package: Package, task: str) -> dict[str, Any]:
    found: dict[str, Any] = package.executors[f"exec-{task}"]["container"]
    return found
