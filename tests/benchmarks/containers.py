"""The demo in containers, and the images' sizes: `python -m tests.benchmarks.containers [--seed
N]`. Ten minutes.

Needs a Docker engine and the images (`make images`). The demo runs by `run --runner docker`, each
task in a container without rights, against a real S3 server on a network that leads nowhere else;
it has to end with the very receipts of the demo that runs as processes of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import docker
from tests.benchmarks.figures import record
from tests.containers.island import BUCKET, FAMILIES, Island, open_island
from tests.containers.test_in_containers import IMAGES, torch_build

ROOT = Path(__file__).resolve().parents[2]


def demo(island: Island, folder: Path, name: str, seed: int, *arguments: str) -> float:
    """Seconds of the whole command. Raises CalledProcessError if the demo did not reach its goal."""
    command = [
        sys.executable,
        str(ROOT / "pipeline.py"),
        "run",
        str(ROOT / "recipes" / "demo.yaml"),
        "--json",
        "--store",
        f"s3://{BUCKET}/{name}",
        "--set",
        f"seed={seed}",
        *arguments,
    ]
    environment = {**os.environ, **island.environment}
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.monotonic() - began
    print(f"{name}: {seconds:.0f} s, {len(json.loads(done.stdout)['executed'])} tasks", flush=True)
    return seconds


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    engine = docker.from_env()
    figures = {}
    for family in FAMILIES:
        image = engine.images.get(f"ratchet/{family}:dev")
        torch = torch_build(engine, image)
        limit = tomllib.loads(IMAGES.read_text())["largest_mb"][torch][family]
        name = f"image.{family}_{'cpu_wheel_' if torch == 'cpu-wheel' else ''}mb"
        figures[name] = image.attrs["Size"] / 1e6, "MB", f"≤ {limit}"
    with tempfile.TemporaryDirectory() as folder, open_island(engine, Path(folder)) as island:
        confined = ("--runner", "docker", "--network", island.network, "--memory", "4g")
        seconds = demo(island, Path(folder), "containers", given.seed, *confined)
        figures["containers.demo_seconds"] = seconds, "s", "≤ 900"
        outside = demo(island, Path(folder), "processes", given.seed)
        if island.receipts("containers") != island.receipts("processes"):
            raise SystemExit(
                "error: the demo in containers has other receipts than the one outside"
            )
    for name, (value, unit, bound) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        if not given.dry:
            command = f"python -m tests.benchmarks.containers --seed {given.seed}"
            note = (
                f"{outside:.0f} s as processes of this machine, equal receipts"
                if unit == "s"
                else ""
            )
            record(name, value, unit, bound, command, given.seed, note)


if __name__ == "__main__":
    main()
