"""Compilations that tests wait for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from components.cli.package.compile import Compiled, compile_recipe
from components.cli.package.profiles import Profile
from components.contracts.recipe import Recipe
from pipeline import build


def compile_aside(recipe: Recipe, rounds: int, profile: Profile) -> Compiled:
    """Compile the pipeline with `compile_recipe`, in a thread of its own.

    kfp looks through the whole call stack for every task. Under pytest the stack is so deep that a
    compilation of 4 rounds took 10 s there, and takes 1 s here.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(compile_recipe, build, recipe, rounds, profile).result()
