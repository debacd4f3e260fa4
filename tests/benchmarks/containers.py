"""The demo in containers, and the images' sizes: `python -m tests.benchmarks.containers [--seed
N]`. Ten minutes; with `--sizes`, the sizes alone, seconds.

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
        command,
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.monotonic() - began
    print(
        f"{name}: {seconds:.0f} s, {len(json.loads(done.stdout)['executed'])} tasks",
        flush=True,
    )
    return seconds


def image_sizes(engine: docker.DockerClient) -> dict[str, tuple[float, str, str]]:
    """Return figure → size in MB, unit and bound, one a family of images, named by torch's build."""
    figures = {}
    for family in FAMILIES:
        image = engine.images.get(f"ratchet/{family}:dev")
        torch = torch_build(engine, image)
        limit = tomllib.loads(IMAGES.read_text())["largest_mb"][torch][family]
        name = f"image.{family}_{'cpu_wheel_' if torch == 'cpu-wheel' else ''}mb"
        figures[name] = image.attrs["Size"] / 1e6, "MB", f"≤ {limit}"
    return figures


def demo_seconds(engine: docker.DockerClient, seed: int) -> tuple[float, float]:
    """Return the seconds of the demo in containers, and of the same demo as processes.

    Raises:
        SystemExit: The receipts of the two differ.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        open_island(engine, Path(folder)) as island,
    ):
        confined = ("--runner", "docker", "--network", island.network, "--memory", "4g")
        inside = demo(island, Path(folder), "containers", seed, *confined)
        outside = demo(island, Path(folder), "processes", seed)
        if island.receipts("containers") != island.receipts("processes"):
            raise SystemExit(
                "error: the demo in containers has other receipts than the one outside"
            )
    return inside, outside


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", action="store_true", help="sizes alone, no demo")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    engine = docker.from_env()
    figures = image_sizes(engine)
    command = f"python -m tests.benchmarks.containers --seed {options.seed}"
    note = ""
    if options.sizes:
        command += " --sizes"
    else:
        inside, outside = demo_seconds(engine, options.seed)
        figures["containers.demo_seconds"] = inside, "s", "≤ 900"
        note = f"{outside:.0f} s as processes of this machine, equal receipts"
    for name, (value, unit, bound) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        if not options.dry:
            record(
                name,
                value,
                unit,
                bound,
                command,
                options.seed,
                note if unit == "s" else "",
            )


if __name__ == "__main__":
    main()
