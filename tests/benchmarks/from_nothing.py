"""A newcomer's first quarter of an hour: `python -m tests.benchmarks.from_nothing [--tests]`.

A container of Debian with its own Python gets the packages that the README names, a copy of this
checkout, and `make demo`; with `--tests`, `make test` too (twenty minutes more). Nothing is cached in
it. What pip may look for is the public index, or, where PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS leads
to torch's CPU wheel, that wheel: then the figures of the CPU wheel are recorded instead.

Needs a Docker engine (DOCKER names the client) and a base image that has Debian's package lists
(BASE_IMAGE, by default python:3.11-slim). SSL_CERT_FILE is handed in where it is set.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

from tests.benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[2]
DOCKER = shlex.split(os.environ.get("DOCKER") or "docker")
BASE_IMAGE = os.environ.get("BASE_IMAGE") or "python:3.11-slim"
PACKAGES = "git make gcc libc6-dev python3 python3-dev python3-venv"
"""As the README says for Debian 12; tests/unit/test_environment.py compares."""
CERTIFICATES = "/usr/local/share/host-certificates.crt"


def container() -> list[str]:
    """Return the command that starts the newcomer's container, which then waits."""
    command = [*DOCKER, "run", "--detach", "--rm", "--init", "--shm-size=1g"]
    if certificates := os.environ.get("SSL_CERT_FILE"):
        command.append(f"--volume={certificates}:{CERTIFICATES}:ro")
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            command.append(f"--env={name}={CERTIFICATES}")
    if links := os.environ.get("PIP_FIND_LINKS"):
        command += [f"--volume={links}:/wheels:ro", "--env=PIP_FIND_LINKS=/wheels"]
    if "PIP_EXTRA_INDEX_URL" in os.environ:
        command.append("--env=PIP_EXTRA_INDEX_URL")
    return [*command, BASE_IMAGE, "sleep", "infinity"]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", action="store_true", help="`make test` as well")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    name = subprocess.run(
        container(), check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        figures = measure(name, with_tests=options.tests)
    finally:
        subprocess.run([*DOCKER, "kill", name], check=True, capture_output=True)
    command = "python -m tests.benchmarks.from_nothing" + (
        " --tests" if options.tests else ""
    )
    for figure, (value, unit, bound, note) in figures.items():
        print(f"{figure} = {value:.4g} {unit} ({note})")
        if not options.dry:
            record(figure, value, unit, bound, command, 0, note)


def measure(name: str, *, with_tests: bool) -> dict[str, tuple[float, str, str, str]]:
    """Return figure → (value, unit, bound, note), from a container that waits."""
    execute(
        name,
        f"apt-get -qq update && apt-get -qq install -y --no-install-recommends {PACKAGES}",
    )
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    archive = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"],
        cwd=ROOT,
        input=files,
        check=True,
        capture_output=True,
    ).stdout
    unpack = [
        *DOCKER,
        "exec",
        "--interactive",
        name,
        "sh",
        "-c",
        "mkdir /ratchet && tar -xC /ratchet",
    ]
    subprocess.run(unpack, input=archive, check=True)
    began = time.monotonic()
    output = execute(name, "cd /ratchet && make demo")
    seconds = time.monotonic() - began
    set_up = re.search(r"set up in (\d+) s: ([\d.]+) GB, torch (\S+)", output)
    if not set_up:
        raise SystemExit("error: the set-up did not say what it did")
    way = "cpu_wheel" if set_up[3].endswith("+cpu") else "public_index"
    downloaded = (
        sum(float(one) for one in re.findall(r"(\d+) MB downloaded", output)) / 1000
    )
    note = f"torch {set_up[3]}; {downloaded:.1f} GB downloaded"
    figures = {
        f"setup.{way}_seconds": (float(set_up[1]), "s", "measured", note),
        f"setup.{way}_gb": (float(set_up[2]), "GB", "measured", note),
        "demo.from_nothing_seconds": (seconds, "s", "measured", note),
    }
    if with_tests:
        began = time.monotonic()
        output = execute(name, "cd /ratchet && make test")
        summary = output.strip().splitlines()[-1].strip("= ")
        figures["tests.from_nothing_seconds"] = (
            time.monotonic() - began,
            "s",
            "measured",
            summary,
        )
    return figures


def execute(name: str, command: str) -> str:
    """Run a shell command in the container and return its output, which is shown as it comes."""
    output: list[str] = []
    with subprocess.Popen(
        [*DOCKER, "exec", name, "sh", "-c", f"{command} 2>&1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            output.append(line)
    if process.returncode:
        raise SystemExit(f"error: {command!r} ended with status {process.returncode}")
    return "".join(output)


if __name__ == "__main__":
    main()
