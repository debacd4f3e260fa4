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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from components.cli.local.docker_runner import code_label  # noqa: E402

IMAGES = ROOT / "docker" / "images.toml"
WHEELS = ROOT / "docker" / "wheels"
REQUIREMENTS = ROOT / "docker" / "requirements"
DOCKER = shlex.split(os.environ.get("DOCKER") or "docker")
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
    """Return the standard output of the docker client; ends the program with what it said last if
    it fails."""
    done = subprocess.run(
        [*DOCKER, *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    if done.returncode:
        fail(arguments, done.returncode, done.stdout + done.stderr)
    return done.stdout


def docker_build(*arguments: str) -> None:
    """Run `docker build` and print a line for each step that begins; ends the program as `docker`
    does."""
    output: list[str] = []
    begun: set[str] = set()
    with subprocess.Popen(
        [*DOCKER, "build", "--progress=plain", *arguments],
        cwd=ROOT,
        text=True,
        errors="replace",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            output.append(line)
            step = re.match(r"#\d+ \[(\S+ +\d+/\d+)\] (\S+ .*)", line)
            if step and step[1] not in begun:
                begun.add(step[1])
                print(f"  [{' '.join(step[1].split())}] {shortened(step[2])}", flush=True)
    if process.returncode:
        fail(("build", *arguments), process.returncode, "".join(output))


def shortened(command: str) -> str:
    """Return an instruction of the Dockerfile without its mounts, at most 90 characters long."""
    text = " ".join(re.sub(r"--mount=\S+", "", command).split())
    return text if len(text) <= 90 else f"{text[:89]}…"


def fail(arguments: Sequence[str], status: int, output: str) -> NoReturn:
    """End the program with the last lines that the docker client printed."""
    print("\n".join(output.splitlines()[-60:]), file=sys.stderr)
    sys.exit(f"error: {shlex.join([*DOCKER, *arguments[:2]])} … ended with status {status}")


def fetch_cpu_wheel() -> bool:
    """Put torch's CPU wheel into docker/wheels if pip finds one, and return whether it did.

    pip looks where its settings say (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); the public index has no
    such wheel. Ends the program if pip fails for another reason.
    """
    entry = re.search(
        r"^torch==(\S+) \\\n(?:\s+--hash.*\n)+",
        (REQUIREMENTS / "torch.lock").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert entry, "torch.lock pins torch"
    wanted = WHEELS / "torch.txt"
    wanted.write_text(entry[0].replace(f"torch=={entry[1]}", f"torch=={entry[1]}+cpu"))
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"),
        *("--require-hashes", "--no-deps", "--only-binary=:all:"),
        *(f"--dest={WHEELS}", f"--requirement={wanted}"),
    ]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode == 0:
        print(f"torch: the CPU wheel {entry[1]}+cpu")
        return True
    if "No matching distribution" not in done.stderr:
        sys.exit(f"error: pip could not look for torch's CPU wheel: {done.stderr.strip()[-500:]}")
    print(
        f"torch: {entry[1]} of the public index, with NVIDIA's libraries: pip finds no CPU wheel"
        " (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS names where one is; the images are 2.5 GB smaller"
        " then)"
    )
    return False


def build(family: str, image: str, base: str, variant: str) -> None:
    """Build one image from the working tree, under its name."""
    target, locks = (f"{family}-vllm", "") if variant == "-vllm" else (family, variant)
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True
    ).stdout.strip()
    docker_build(
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


def check(image: str) -> int:
    """Return the size in MB, after the self-check in a container that has nothing."""
    print(docker("run", "--rm", *CONFINED, image).strip())
    return int(docker("image", "inspect", "--format={{.Size}}", image)) // 1_000_000


def torch_build(bill: dict[str, Any]) -> str:
    """Return what torch an image holds, by its bill of materials: a section of `largest_mb` in
    images.toml."""
    versions = [one["version"] for one in bill["components"] if one["name"] == "torch"]
    if not versions:
        return "without-torch"
    return "cpu-wheel" if versions[0].endswith("+cpu") else "index-wheel"


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


def repository(registry: str) -> str:
    """Return where images are pushed: the folder that the user named, or `ratchet` of a registry that
    was named alone."""
    registry = registry.rstrip("/")
    return registry if "/" in registry else f"{registry}/ratchet"


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
        fetch_cpu_wheel()
    output = ROOT / ".ratchet" / "images"
    output.mkdir(parents=True, exist_ok=True)
    for family in families:
        tag = known["families"][family]["tag"] + given.variant
        image = f"ratchet/{family}:{tag}"
        if not given.loaded:
            build(family, image, base, given.variant)
        size = check(image)
        bill = bill_of_materials(image)
        (output / f"{family}{given.variant}.cdx.json").write_text(
            json.dumps(bill, indent=1), encoding="utf-8"
        )
        torch = torch_build(bill)
        print(f"{image}: {size} MB, {len(bill['components'])} packages, torch: {torch}")
        largest = known["largest_mb"][torch].get(family)
        if not given.variant and size > largest:
            sys.exit(f"error: {image} has {size} MB, at most {largest} are agreed on ({torch})")
        if given.registry:
            name = f"{repository(given.registry)}/{family}"
            docker("tag", image, f"{name}:{tag}")
            section = f"families.{family}{SECTIONS[given.variant]}"
            record(section, image=name, tag=tag, digest=publish(f"{name}:{tag}"))


if __name__ == "__main__":
    main()
