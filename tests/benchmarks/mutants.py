"""How many single-line faults the tests notice: `python -m tests.benchmarks.mutants`. Half an hour.

cosmic-ray makes the mutants of the modules in mutants.toml; a sample of them, drawn by the seed, is
tried in copies of the sources, two at a time, each against the tests of its module alone. A mutant is
killed if those tests fail or do not end. Those that survive are printed with their difference: some
change nothing that anybody could see, the others want a test.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_suffix(".toml")
COPIES = 2
"""Mutants tried at once."""
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".ratchet", "__pycache__", "node_modules"
)


class Mutant(NamedTuple):
    """One change of one place in a module."""

    module: str
    """Dotted name."""
    operator: str
    """What changes it, as cosmic-ray names it."""
    occurrence: int
    """Number of the place, counted from 0 over the places where the operator can work."""


def path_of(module: str) -> Path:
    """A module's file, relative to the root."""
    return Path(*module.split(".")).with_suffix(".py")


def cosmic_ray(name: str) -> Any:
    """A module of cosmic-ray, which has no types."""
    return importlib.import_module(f"cosmic_ray.{name}")


def mutants_of(module: str, operators: str, skipped_lines: str) -> Iterator[Mutant]:
    """All mutants of a module by operators whose names match a pattern, but those of lines that
    match the other."""
    trees, plugins = cosmic_ray("ast"), cosmic_ray("plugins")
    source = (ROOT / path_of(module)).read_text("utf-8")
    lines, nodes = source.splitlines(), list(trees.ast_nodes(trees.get_ast(source)))
    for name in sorted(plugins.operator_names()):
        if not re.fullmatch(f"core/({operators})", name):
            continue
        operator = plugins.get_operator(name)()
        places = (
            start for node in nodes for start, _ in operator.mutation_positions(node)
        )
        for occurrence, (line, _) in enumerate(places):
            if not re.search(skipped_lines, lines[line - 1]):
                yield Mutant(module, name, occurrence)


def mutated(mutant: Mutant) -> str:
    """The text of the module with the change."""
    operator = cosmic_ray("plugins").get_operator(mutant.operator)()
    source = (ROOT / path_of(mutant.module)).read_text("utf-8")
    text: str = cosmic_ray("mutating").mutate_code(source, operator, mutant.occurrence)
    return text


@contextmanager
def changed(copy: Path, mutant: Mutant) -> Iterator[None]:
    """The mutant in the place of its module, in a copy of the sources."""
    path = copy / path_of(mutant.module)
    source = path.read_text("utf-8")
    path.write_text(mutated(mutant), "utf-8")
    try:
        yield
    finally:
        path.write_text(source, "utf-8")


def passes(copy: Path, test: str, seconds: float | None = None) -> bool:
    """Whether the tests of one module pass in a copy of the sources within so many seconds; those
    that need an S3 server are left out."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not s3", str(path_of(test))]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    with (copy / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        # What a test started must not outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def difference(mutant: Mutant) -> str:
    """The changed lines, before and after."""
    before = (ROOT / path_of(mutant.module)).read_text("utf-8").splitlines()
    lines = difflib.unified_diff(before, mutated(mutant).splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


class Bench:
    """Copies of the sources in which mutants are tried, one in each at a time."""

    def __init__(self, folder: Path, modules: Mapping[str, Sequence[str]]) -> None:
        self._modules = modules
        self._copies = queue.SimpleQueue[Path]()
        for number in range(COPIES):
            self._copies.put(
                shutil.copytree(ROOT, folder / str(number), ignore=NOT_COPIED)
            )
        tests = sorted({test for of_module in modules.values() for test in of_module})
        self._seconds = {test: self._unchanged(test) for test in tests}

    def _unchanged(self, test: str) -> float:
        """Seconds that a test module takes. SystemExit if it fails without any change."""
        begun = time.monotonic()
        with self._copy() as copy:
            if not passes(copy, test):
                end = (copy / "output").read_text("utf-8")[-2000:]
                raise SystemExit(f"error: {test} fails without any change: {end}")
        return time.monotonic() - begun

    def survives(self, mutant: Mutant) -> bool:
        """Whether no test of its module notices a mutant. Test modules run one after the other, so
        what the first notices costs no more."""
        with self._copy() as copy, changed(copy, mutant):
            survived = all(
                passes(copy, test, 30 + 5 * self._seconds[test])
                for test in self._modules[mutant.module]
            )
        print(f"{'survived' if survived else 'killed'}: {mutant}", flush=True)
        return survived

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        copy = self._copies.get()
        try:
            yield copy
        finally:
            self._copies.put(copy)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="draws the sample")
    parser.add_argument(
        "--sample", type=int, help="how many mutants; default: mutants.toml"
    )
    parser.add_argument("--only", default="", help="only modules whose name holds this")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    config = tomllib.loads(CONFIG.read_text("utf-8"))
    modules = {
        name: tests for name, tests in config["modules"].items() if options.only in name
    }
    operators, skipped_lines = (
        "|".join(config["operators"]),
        "|".join(config["skipped_lines"]),
    )
    mutants = [
        mutant
        for name in modules
        for mutant in mutants_of(name, operators, skipped_lines)
    ]
    size = min(options.sample or config["sample"], len(mutants))
    sample = random.Random(options.seed).sample(mutants, size)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(COPIES) as pool:
        alive = list(pool.map(Bench(Path(folder), modules).survives, sample))
    for mutant, survived in zip(sample, alive, strict=True):
        if survived:
            print(f"\n{mutant.module}\n{difference(mutant)}")
    killed = 100 * (1 - sum(alive) / size)
    note = f"of {size} drawn from {len(mutants)} of {len(modules)} modules"
    print(f"house.mutants_killed = {killed:.4g} % ({note})")
    if not options.dry:
        command = "python -m tests.benchmarks.mutants"
        record("house.mutants_killed", killed, "%", "≥ 90", command, options.seed, note)


if __name__ == "__main__":
    main()
