"""Build, check and, with --registry, publish the images; `make images` calls it.

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
from typing import NoReturn, TypedDict

ROOT = Path(__file__).resolve().parents[1]
# A script that is started by its path finds nothing but its own folder.
sys.path.insert(0, str(ROOT))
from components.cli.local.docker_runner import code_label  # noqa: E402

IMAGES = ROOT / "docker" / "images.toml"
WHEELS = ROOT / "docker" / "wheels"
REQUIREMENTS = ROOT / "docker" / "requirements"
DOCKER = shlex.split(os.environ.get("DOCKER") or "docker")
SECTIONS = {"": "", "-cuda": ".gpu", "-vllm": ".vllm"}
"""Variant → ending of its section of images.toml, behind the family's name."""
# No less than a cluster takes away: Pod Security "restricted", and the policy for a read-only root
# of overlays/prod.
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


class Package(TypedDict, total=False):
    """A package in a bill of materials."""

    type: str
    name: str
    version: str
    purl: str
    licenses: list[dict[str, str]]


class Bill(TypedDict):
    """A bill of materials in CycloneDX 1.5, as far as it is filled here."""

    bomFormat: str
    specVersion: str
    version: int
    metadata: dict[str, dict[str, str]]
    components: list[Package]


def docker(*arguments: str) -> str:
    """Return the standard output of the docker client, or end the program if it fails."""
    result = subprocess.run(
        [*DOCKER, *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    if result.returncode:
        fail(arguments, result.returncode, result.stdout + result.stderr)
    return result.stdout


def docker_build(*arguments: str) -> None:
    """Run `docker build` and print a line for each step that begins, or end the program."""
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
            # BuildKit repeats the line of a step whenever it has something new to tell of it.
            if step and step[1] not in begun:
                begun.add(step[1])
                print(
                    f"  [{' '.join(step[1].split())}] {shortened(step[2])}", flush=True
                )
    if process.returncode:
        fail(("build", *arguments), process.returncode, "".join(output))


def shortened(command: str) -> str:
    """Return an instruction of the Dockerfile without its mounts, at most 90 characters long."""
    # Mounts of caches and secrets are half of a line, and tell nothing of what is done.
    text = " ".join(re.sub(r"--mount=\S+", "", command).split())
    return text if len(text) <= 90 else f"{text[:89]}…"


def fail(arguments: Sequence[str], status: int, output: str) -> NoReturn:
    """End the program with the last lines that the docker client printed."""
    last_lines = output.splitlines()[-60:]
    print("\n".join(last_lines), file=sys.stderr)
    command = shlex.join([*DOCKER, *arguments[:2]])
    sys.exit(f"error: {command} … ended with status {status}")


def fetch_cpu_wheel() -> bool:
    """Put torch's CPU wheel into docker/wheels. Return False if pip finds none.

    pip looks where its settings say (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); the public index has no
    such wheel. Ends the program if pip fails for another reason.
    """
    lock = (REQUIREMENTS / "torch.lock").read_text(encoding="utf-8")
    entry = re.search(r"^torch==(\S+) \\\n(?:\s+--hash.*\n)+", lock, re.MULTILINE)
    assert entry, "torch.lock pins torch"
    version = entry[1]
    # Asked for by its full version, so that pip finds the CPU wheel or nothing: the lock's version
    # is that of the index's wheel too.
    requirement = WHEELS / "torch.txt"
    requirement.write_text(
        entry[0].replace(f"torch=={version}", f"torch=={version}+cpu")
    )
    command = [
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--disable-pip-version-check",
            "--no-input",
        ),
        *("--require-hashes", "--no-deps", "--only-binary=:all:"),
        *(f"--dest={WHEELS}", f"--requirement={requirement}"),
    ]
    result = subprocess.run(command, text=True, capture_output=True)
    if result.returncode == 0:
        print(f"torch: the CPU wheel {version}+cpu")
        return True
    if "No matching distribution" not in result.stderr:
        reason = result.stderr.strip()[-500:]
        sys.exit(f"error: pip could not look for torch's CPU wheel: {reason}")
    print(
        f"torch: {version} of the public index, with NVIDIA's libraries: pip finds no CPU wheel"
        " (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS names where one is; the images are 2.5 GB smaller"
        " then)"
    )
    return False


def build(family: str, image: str, base: str, variant: str) -> None:
    """Build one image from the working tree, under its name."""
    # vLLM for CPUs is a target of its own, on the family's usual locks; a variant for GPUs is the
    # same target on other locks.
    is_cpu_vllm = variant == "-vllm"
    target = f"{family}-vllm" if is_cpu_vllm else family
    locks = "" if is_cpu_vllm else variant
    command = ["git", "rev-parse", "HEAD"]
    git = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    revision = git.stdout.strip() or "unknown"
    docker_build(
        *shlex.split(os.environ.get("BUILD_SECRETS", "")),
        "--file=docker/Dockerfile",
        f"--target={target}",
        f"--tag={image}",
        f"--build-arg=BASE_IMAGE={base}",
        f"--build-arg=VARIANT={locks}",
        f"--build-arg=REVISION={revision}",
        f"--build-arg=CODE={code_label()}",
        ".",
    )


def check(image: str) -> int:
    """Return the size in MB, after the self-check in a container that has nothing."""
    print(docker("run", "--rm", *CONFINED, image).strip())
    return int(docker("image", "inspect", "--format={{.Size}}", image)) // 1_000_000


def torch_build(bill: Bill) -> str:
    """Return the section of `largest_mb` in images.toml for the torch that an image holds."""
    packages = bill["components"]
    versions = [
        package["version"] for package in packages if package["name"] == "torch"
    ]
    if not versions:
        return "without-torch"
    return "cpu-wheel" if versions[0].endswith("+cpu") else "index-wheel"


def bill_of_materials(image: str) -> Bill:
    """Return the Python and Debian packages of an image, as they name themselves."""
    identity = docker("image", "inspect", "--format={{.Id}}", image).strip()
    subject = {"type": "container", "name": image, "version": identity}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": [*python_packages(image), *debian_packages(image)],
    }


def python_packages(image: str) -> list[Package]:
    """Return the Python packages of an image, with their licences where they name one."""
    script = (
        "import importlib.metadata, json\n"
        "print(json.dumps([[d.name, d.version, d.metadata.get('License-Expression') or '']"
        " for d in importlib.metadata.distributions()]))"
    )
    output = docker(
        "run", "--rm", *CONFINED, image, "/opt/venv/bin/python", "-c", script
    )
    packages: list[Package] = []
    for name, version, licence in sorted(json.loads(output)):
        purl = f"pkg:pypi/{name.lower()}@{version}"
        package: Package = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": purl,
        }
        if licence:
            package["licenses"] = [{"expression": licence}]
        packages.append(package)
    return packages


def debian_packages(image: str) -> list[Package]:
    """Return the Debian packages of an image."""
    line_format = "${Package} ${Version} ${Architecture}\\n"
    query = ["dpkg-query", "--show", f"--showformat={line_format}"]
    output = docker("run", "--rm", *CONFINED, image, *query)
    packages: list[Package] = []
    for line in sorted(output.splitlines()):
        name, version, architecture = line.split()
        # An epoch ("1:9.2") ends in a colon, which separates other parts of such a URL.
        escaped_version = version.replace(":", "%3A")
        purl = f"pkg:deb/debian/{name}@{escaped_version}?arch={architecture}"
        packages.append(
            {"type": "library", "name": name, "version": version, "purl": purl}
        )
    return packages


def repository(registry: str) -> str:
    """Return the folder that images are pushed to: by default `ratchet` of the registry."""
    # A registry alone (localhost:5000) takes any name; others want the folder of a project.
    registry = registry.rstrip("/")
    return registry if "/" in registry else f"{registry}/ratchet"


def publish(image: str) -> str:
    """Push an image and return the digest that the registry gave it."""
    docker("push", "--quiet", image)
    references = json.loads(
        docker("image", "inspect", "--format={{json .RepoDigests}}", image)
    )
    name, _, _ = image.rpartition(":")
    # An image that was pushed to several registries has a digest of each.
    for reference in references:
        repository_name, _, digest = str(reference).partition("@")
        if repository_name == name:
            return digest
    sys.exit(f"error: the registry told no digest of {image}")


def base_image(release: bool) -> str:
    """Return the image to build from: BASE_IMAGE, or the base that images.toml pins by its digest.

    Where that cannot be pulled, images that are not published are built from a stand-in on this
    machine, with a warning.
    """
    if chosen := os.environ.get("BASE_IMAGE", ""):
        return chosen
    base = tomllib.loads(IMAGES.read_text())["base"]
    pinned = f"{base['image']}@{base['digest']}"
    if has(pinned) or has(pinned, pull=True):
        return pinned
    # What is published has the pinned base, so that anybody can build the same again.
    if release:
        sys.exit(
            f"error: {pinned} cannot be pulled, and what is published is built from it; or set "
            "BASE_IMAGE"
        )
    for name in (f"{base['image']}:{base['tag']}", base["stand_in"]):
        if has(name):
            print(
                f"WARNING: {pinned} cannot be pulled; building from {name} of this machine instead",
                file=sys.stderr,
            )
            return str(name)
    sys.exit(
        f"error: {pinned} cannot be pulled, and this machine has no {base['stand_in']} either; set "
        "BASE_IMAGE"
    )


def has(image: str, *, pull: bool = False) -> bool:
    """Return True if the engine has an image or, with `pull`, gets it."""
    verb = ["pull", "--quiet"] if pull else ["image", "inspect"]
    result = subprocess.run([*DOCKER, *verb, image], capture_output=True)
    return result.returncode == 0


def record(section: str, **values: str) -> None:
    """Change values of one section of images.toml, which is added if it is not there."""
    # By hand, because a TOML writer would lose the comments of the file.
    title = f"[{section}]\n"
    text = IMAGES.read_text()
    if title not in text:
        text = f'{text}\n{title}image = ""\ntag = ""\ndigest = ""\n'
    head, _, tail = text.partition(title)
    body, gap, other_sections = tail.partition("\n[")
    for key, value in values.items():
        body = re.sub(
            rf'^{key} = ".*"$', f'{key} = "{value}"', body, flags=re.MULTILINE
        )
    IMAGES.write_text(head + title + body + gap + other_sections)


def options_of(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, with `families` filled in. Ends the program after wrong usage."""
    parser = argparse.ArgumentParser(prog="python docker/build.py", description=__doc__)
    parser.add_argument(
        "families", nargs="*", help="cpu, generate, train; by default all"
    )
    parser.add_argument(
        "--registry",
        default="",
        help="push there, and write names and digests into images.toml",
    )
    parser.add_argument(
        "--loaded",
        action="store_true",
        help="build nothing: images came here by `docker load`",
    )
    parser.add_argument(
        "--variant",
        default="",
        choices=list(SECTIONS),
        help="-cuda: for NVIDIA GPUs; -vllm: the image generate with vLLM for CPUs",
    )
    options = parser.parse_args(command_line)
    if options.variant == "-vllm":
        options.families = options.families or ["generate"]
        if options.families != ["generate"]:
            parser.error("--variant -vllm is of the family generate alone")
    return options


def deliver(family: str, options: argparse.Namespace, base: str) -> None:
    """Build one image, check it, write its bill of materials, and publish it where asked to."""
    families = tomllib.loads(IMAGES.read_text())["families"]
    tag = families[family]["tag"] + options.variant
    image = f"ratchet/{family}:{tag}"
    if not options.loaded:
        build(family, image, base, options.variant)
    size_mb = check(image)
    bill = bill_of_materials(image)
    write_bill(f"{family}{options.variant}", bill)
    torch = torch_build(bill)
    print(f"{image}: {size_mb} MB, {len(bill['components'])} packages, torch: {torch}")
    # Only the usual variant has a limit: a torch for GPUs alone is several times as large.
    if not options.variant:
        require_size(family, image, size_mb, torch)
    if options.registry:
        name = f"{repository(options.registry)}/{family}"
        docker("tag", image, f"{name}:{tag}")
        section = f"families.{family}{SECTIONS[options.variant]}"
        record(section, image=name, tag=tag, digest=publish(f"{name}:{tag}"))


def write_bill(name: str, bill: Bill) -> None:
    """Write a bill of materials beside those of the other images."""
    folder = ROOT / ".ratchet" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(bill, indent=1)
    (folder / f"{name}.cdx.json").write_text(text, encoding="utf-8")


def require_size(family: str, image: str, size_mb: int, torch: str) -> None:
    """End the program if an image is larger than images.toml allows for its build of torch."""
    largest_mb = tomllib.loads(IMAGES.read_text())["largest_mb"][torch].get(family)
    if largest_mb is None:
        sys.exit(
            f"error: {image} holds torch ({torch}), which images.toml has no size for"
        )
    if size_mb > largest_mb:
        sys.exit(
            f"error: {image} has {size_mb} MB, at most {largest_mb} are agreed on ({torch})"
        )


def main() -> None:
    """Run the command line."""
    options = options_of()
    images = tomllib.loads(IMAGES.read_text())
    base = "" if options.loaded else base_image(release=bool(options.registry))
    if not (options.variant == "-cuda" or options.loaded):
        fetch_cpu_wheel()
    for family in options.families or images["families"]:
        deliver(family, options, base)


if __name__ == "__main__":
    main()
