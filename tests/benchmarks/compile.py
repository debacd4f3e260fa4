"""How long a compilation takes, and how large its package and run are: `python -m tests.benchmarks.compile`.
Two minutes.

The largest of all profiles, at four rounds, by the real command from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components.cli.package.profiles import profile_names
from tests.benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 4
PROCESSES = 20
"""Compilations of one recipe, each with a hash seed of its own."""
TRAINING = {
    "gpu-8": ["train.num_processes=8"],
    "multi-node": ["train.num_processes=8", "train.num_nodes=2"],
}
"""What these profiles ask of a recipe."""


def compile_once(profile: str, folder: Path, hash_seed: int = 0) -> tuple[float, int]:
    """Return (seconds, bytes of the package)."""
    output = folder / f"{profile}.yaml"
    changes = [
        word for change in TRAINING.get(profile, []) for word in ("--set", change)
    ]
    command = [
        sys.executable,
        str(ROOT / "pipeline.py"),
        "compile",
        str(ROOT / "recipes" / "demo.yaml"),
        "-o",
        str(output),
        "--profile",
        profile,
        "--rounds",
        str(ROUNDS),
        *changes,
    ]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.monotonic() - began, output.stat().st_size


def workflow_nodes(folder: Path, shards: int) -> tuple[int, int]:
    """Return (nodes, pods) of the demo's run of ROUNDS rounds, sampled in so many shards."""
    command = [sys.executable, str(ROOT / "pipeline.py"), "compile", "--json"]
    command += [str(ROOT / "recipes" / "demo.yaml"), "-o", str(folder / "nodes.yaml")]
    command += ["--rounds", str(ROUNDS), "--set", f"generate.shards={shards}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    document = json.loads(done.stdout)
    return document["workflow_nodes"], document["pods"]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    parser.add_argument(
        "--untimed",
        action="store_true",
        help="record no seconds: the machine has other work",
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = {
            profile: compile_once(profile, Path(folder)) for profile in profile_names()
        }
        packages = []
        for hash_seed in range(PROCESSES):
            compile_once("cpu", Path(folder), hash_seed)
            packages.append((Path(folder) / "cpu.yaml").read_bytes())
        nodes, pods = workflow_nodes(Path(folder), shards=1)
        nodes_of_two_shards, _ = workflow_nodes(Path(folder), shards=2)
    alike = sum(package == packages[0] for package in packages)
    for profile, (seconds, size) in measured.items():
        print(f"{profile}: {seconds:.2f} s, {size:,} bytes")
    figures = {
        "compile.seconds": (
            max(seconds for seconds, _ in measured.values()),
            "s",
            "≤ 10",
        ),
        "compile.ir_kb": (
            max(size for _, size in measured.values()) / 1000,
            "kB",
            "≤ 400",
        ),
        "cluster.workflow_nodes": (nodes, "nodes", "≤ 200"),
        "compile.deterministic": (alike, f"of {PROCESSES} processes", f"≥ {PROCESSES}"),
    }
    notes = {
        "cluster.workflow_nodes": f"of {ROUNDS} rounds, counted by KFP's rules; {pods} pods; "
        f"{nodes_of_two_shards} nodes with two shards"
    }
    if given.untimed:
        del figures["compile.seconds"]
    for name, (value, unit, bound) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        if not given.dry:
            command = "python -m tests.benchmarks.compile"
            record(name, value, unit, bound, command, given.seed, notes.get(name, ""))


if __name__ == "__main__":
    main()
