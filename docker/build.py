"""Builds, checks and, with --registry, publishes the images; `make images` calls it.

    python docker/build.py [--registry HOST/PATH] [--loaded] [--variant -cuda|-vllm] [FAMILY …]

DOCKER names the client, BUILD_SECRETS holds further arguments of `docker build` (`--secret …`),
BASE_IMAGE another base than images.toml has. Every image has to pass its self-check in a container
without network, capabilities or a writable root, and to stay below its size. Beside each one a bill
of materials is written: .ratchet/images/FAMILY.cdx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from components.cli.local.docker_runner import code_label  # noqa: E402

IMAGES = ROOT / "docker" / "images.toml"
WHEELS = ROOT / "docker" / "wheels"
REQUIREMENTS = ROOT / "docker" / "requirements"
DOCKER = shlex.split(os.environ.get("DOCKER") or "docker")
LARGEST_MB = {"cpu": 700, "generate": 1500, "train": 1500}
"""Of the images without a variant, uncompressed."""
SECTIONS = {"": "", "-cuda": ".gpu", "-vllm": ".vllm"}
"""Variant → what its section of images.toml has behind the family's name."""
CONFINED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--network=none",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=256",
    "--memory=4g",
    "--shm-size=1g",
)


def docker(*arguments: str) -> str:
    """Standard output of the docker client; ends the program with what it said last if it fails."""
    done = subprocess.run(
        [*DOCKER, *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    if done.returncode:
        print(done.stdout + "\n".join(done.stderr.splitlines()[-60:]), file=sys.stderr)
        sys.exit(
            f"error: {shlex.join([*DOCKER, *arguments[:2]])} … ended with status {done.returncode}"
        )
    return done.stdout


def fetch_wheels() -> None:
    """torch without CUDA is on no index that a build could know; this machine's pip found it for
    `make setup`."""
    pin = re.search(
        r"^torch==.*\\\n(?:\s+--hash.*\n)+", (REQUIREMENTS / "torch.lock").read_text(), re.MULTILINE
    )
    assert pin, "torch.lock pins torch"
    wanted = WHEELS / "torch.txt"
    wanted.write_text(pin[0])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--no-deps",
            "--only-binary=:all:",
            f"--dest={WHEELS}",
            f"--requirement={wanted}",
        ],
        check=True,
    )


def build(family: str, image: str, base: str, variant: str) -> None:
    """Build one image from the working tree, under its name."""
    target, locks = (f"{family}-vllm", "") if variant == "-vllm" else (family, variant)
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True
    ).stdout.strip()
    docker(
        "build",
        "--progress=plain",
        *shlex.split(os.environ.get("BUILD_SECRETS", "")),
        "--file=docker/Dockerfile",
        f"--target={target}",
        f"--tag={image}",
        f"--build-arg=BASE_IMAGE={base}",
        f"--build-arg=VARIANT={locks}",
        f"--build-arg=REVISION={revision or 'unknown'}",
        f"--build-arg=CODE={code_label()}",
        ".",
    )


def check(family: str, image: str, variant: str) -> int:
    """The size in MB, after the self-check in a container that has nothing."""
    print(docker("run", "--rm", *CONFINED, image).strip())
    size = int(docker("image", "inspect", "--format={{.Size}}", image)) // 1_000_000
    if not variant and size > LARGEST_MB[family]:
        sys.exit(f"error: {image} has {size} MB, at most {LARGEST_MB[family]} are agreed on")
    return size


def bill_of_materials(image: str) -> dict[str, Any]:
    """CycloneDX 1.5: the Python and Debian packages of an image, as they say themselves."""
    script = (
        "import importlib.metadata, json\n"
        "found = importlib.metadata.distributions()\n"
        "print(json.dumps([[one.name, one.version, one.metadata.get('License-Expression') or ''] for one in found]))"
    )
    inside = ["run", "--rm", *CONFINED, image]
    python = json.loads(docker(*inside, "/opt/venv/bin/python", "-c", script))
    debian = docker(
        *inside, "dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\\n"
    )
    components = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version}",
        }
        | ({"licenses": [{"expression": licence}]} if licence else {})
        for name, version, licence in sorted(map(tuple, python))
    ]
    for name, version, architecture in sorted(line.split() for line in debian.splitlines()):
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A')}?arch={architecture}"
        components.append({"type": "library", "name": name, "version": version, "purl": purl})
    identity = docker("image", "inspect", "--format={{.Id}}", image).strip()
    subject = {"type": "container", "name": image, "version": identity}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
    }


def publish(image: str) -> str:
    """Push an image; returns the digest that the registry gave it."""
    docker("push", "--quiet", image)
    digests = json.loads(docker("image", "inspect", "--format={{json .RepoDigests}}", image))
    name = image.rpartition(":")[0]
    found = [one.partition("@")[2] for one in digests if one.startswith(f"{name}@")]
    if not found:
        sys.exit(f"error: the registry told no digest of {image}")
    return str(found[0])


def base_image(release: bool) -> str:
    """What to build from: BASE_IMAGE, or the base that images.toml pins by its digest. Where that
    cannot be pulled, images that are not published are built from a stand-in on this machine, and
    that is said."""
    if chosen := os.environ.get("BASE_IMAGE", ""):
        return chosen
    base = tomllib.loads(IMAGES.read_text())["base"]
    pinned = f"{base['image']}@{base['digest']}"
    if has(pinned) or has(pinned, pull=True):
        return pinned
    if release:
        sys.exit(
            f"error: {pinned} cannot be pulled, and what is published is built from it; or set BASE_IMAGE"
        )
    for name in (f"{base['image']}:{base['tag']}", base["stand_in"]):
        if has(name):
            print(
                f"WARNING: {pinned} cannot be pulled; building from {name} of this machine instead",
                file=sys.stderr,
            )
            return str(name)
    sys.exit(
        f"error: {pinned} cannot be pulled, and this machine has no {base['stand_in']} either; set BASE_IMAGE"
    )


def has(image: str, *, pull: bool = False) -> bool:
    """Whether the engine has an image, or gets it."""
    command = ["pull", "--quiet"] if pull else ["image", "inspect"]
    return subprocess.run([*DOCKER, *command, image], capture_output=True).returncode == 0


def record(section: str, **values: str) -> None:
    """Change values of one section of images.toml, and nothing else of it; a section that is not
    there is added."""
    head, marker, rest = IMAGES.read_text().partition(f"[{section}]\n")
    if not marker:
        head, marker, rest = f"{head}\n", f"[{section}]\n", 'image = ""\ntag = ""\ndigest = ""\n'
    body, gap, others = rest.partition("\n[")
    for key, value in values.items():
        body = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', body, flags=re.MULTILINE)
    IMAGES.write_text(head + marker + body + gap + others)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python docker/build.py", description=__doc__)
    parser.add_argument("families", nargs="*", help="cpu, generate, train; by default all")
    parser.add_argument(
        "--registry", default="", help="push there, and write names and digests into images.toml"
    )
    parser.add_argument(
        "--loaded", action="store_true", help="build nothing: images came here by `docker load`"
    )
    parser.add_argument(
        "--variant",
        default="",
        choices=list(SECTIONS),
        help="-cuda: for NVIDIA GPUs; -vllm: the image generate with vLLM for CPUs",
    )
    given = parser.parse_args()
    known = tomllib.loads(IMAGES.read_text())
    families = given.families or (
        ["generate"] if given.variant == "-vllm" else list(known["families"])
    )
    if given.variant == "-vllm" and families != ["generate"]:
        parser.error("--variant -vllm is of the family generate alone")
    base = "" if given.loaded else base_image(release=bool(given.registry))
    if not (given.variant == "-cuda" or given.loaded):
        fetch_wheels()
    output = ROOT / ".ratchet" / "images"
    output.mkdir(parents=True, exist_ok=True)
    for family in families:
        tag = known["families"][family]["tag"] + given.variant
        image = f"ratchet/{family}:{tag}"
        if not given.loaded:
            build(family, image, base, given.variant)
        size = check(family, image, given.variant)
        bill = bill_of_materials(image)
        (output / f"{family}{given.variant}.cdx.json").write_text(
            json.dumps(bill, indent=1), encoding="utf-8"
        )
        print(f"{image}: {size} MB, {len(bill['components'])} packages")
        if given.registry:
            docker("tag", image, f"{given.registry}/{image}")
            section = f"families.{family}{SECTIONS[given.variant]}"
            digest = publish(f"{given.registry}/{image}")
            record(section, image=f"{given.registry}/ratchet/{family}", tag=tag, digest=digest)


if __name__ == "__main__":
    main()
