"""What `doctor` looks at in a profile and on this very machine: memory, GPUs, scratch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from components.cli.doctor.findings import Finding
from components.cli.package.profiles import Profile

_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def machine_checks(
    profile: Profile, step: str, devices: Path = Path("/dev"), scratch: Path = Path("/tmp")
) -> Iterator[Finding]:
    """Of this very pod or container, as a step of the profile would find it."""
    given = profile.resources(step)
    yield _shared_memory(devices / "shm", _bytes(given.shared_memory), step)
    cards = sorted(one.name for one in devices.glob("nvidia[0-9]*"))
    if profile.gpu == "amd.com/gpu":
        cards = sorted(one.name for one in (devices / "dri").glob("renderD*"))
    enough = len(cards) >= given.gpus
    yield Finding(
        "GPUs here",
        "ok" if enough else "failed",
        f"{len(cards)} of {given.gpus} that {step} gets",
        ""
        if enough
        else f"ask for {profile.gpu} in the pod's limits, and check the vendor's device plugin",
    )
    try:
        trial = scratch / "ratchet-doctor"
        trial.write_bytes(b"")
        trial.unlink()
        yield Finding("scratch here", "ok", f"{scratch} can be written")
    except OSError as error:
        yield Finding(
            "scratch here",
            "failed",
            f"{scratch} cannot be written ({error.strerror})",
            f"mount an emptyDir at {scratch}",
        )


def _shared_memory(folder: Path, wanted_bytes: int, step: str) -> Finding:
    try:
        status = os.statvfs(folder)
    except OSError:
        return Finding(
            "shared memory here",
            "failed",
            f"there is no {folder}",
            f"mount an emptyDir in memory at {folder}",
        )
    size = status.f_blocks * status.f_frsize
    if size < wanted_bytes:
        found = f"{folder} has {size // 2**20:,} MiB, {step} gets {wanted_bytes // 2**20:,}"
        cure = f"mount an emptyDir with `medium: Memory` at {folder} (shared_memory of a profile)"
        return Finding("shared memory here", "failed", found, cure)
    return Finding("shared memory here", "ok", f"{folder} has {size // 2**20:,} MiB")


def profile_checks(profile: Profile) -> Iterator[Finding]:
    """Whether what a step gets can hold together."""
    for step in ("generate", "train", "evaluate"):
        given = profile.resources(step)
        if _bytes(given.shared_memory) >= _bytes(given.memory):
            yield Finding(
                "shared memory",
                "failed",
                f"{step}: /dev/shm may take {given.shared_memory} of {given.memory}",
                "shared memory counts against the limit of memory: give the step more memory",
            )
            return
    yield Finding("shared memory", "ok", "of every step, fits into its memory")


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]
