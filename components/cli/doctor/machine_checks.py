"""Checks of a profile, and of this very pod or container: shared memory, GPUs, scratch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from components.cli.doctor.findings import Finding
from components.cli.package.profiles import Profile

_MIB = 2**20
_UNITS = {"Mi": _MIB, "Gi": 2**30, "Ti": 2**40}


def machine_checks(
    profile: Profile,
    step: str,
    devices: Path = Path("/dev"),
    scratch: Path = Path("/tmp"),
) -> Iterator[Finding]:
    """Yield findings about this pod or container, as a step of the profile would find it.

    Args:
        profile: Says what the step gets.
        step: Name of the step.
        devices: Folder of device files.
        scratch: Folder that a step may write to.
    """
    resources = profile.resources(step)
    yield _check_shared_memory(devices / "shm", _bytes(resources.shared_memory), step)
    yield _check_gpus(devices, profile.gpu, resources.gpus, step)
    yield _check_scratch(scratch)


def _check_shared_memory(folder: Path, needed_bytes: int, step: str) -> Finding:
    check = "shared memory here"
    try:
        status = os.statvfs(folder)
    except OSError:
        cure = f"mount an emptyDir in memory at {folder}"
        return Finding(check, "failed", f"there is no {folder}", cure)
    # The size, not the free space: what this process sees in use ends before the step begins.
    size_bytes = status.f_blocks * status.f_frsize
    observation = f"{folder} has {size_bytes // _MIB:,} MiB"
    if size_bytes >= needed_bytes:
        return Finding(check, "ok", observation)
    return Finding(
        check,
        "failed",
        f"{observation}, {step} gets {needed_bytes // _MIB:,}",
        f"mount an emptyDir with `medium: Memory` at {folder} (shared_memory of a profile)",
    )


def _check_gpus(devices: Path, resource: str, needed: int, step: str) -> Finding:
    # NVIDIA's driver makes a file for each card, the kernel's own drivers one for each render node.
    pattern = "dri/renderD*" if resource == "amd.com/gpu" else "nvidia[0-9]*"
    cards = list(devices.glob(pattern))
    observation = f"{len(cards)} of {needed} that {step} gets"
    if len(cards) >= needed:
        return Finding("GPUs here", "ok", observation)
    cure = (
        f"ask for {resource} in the pod's limits, and check the vendor's device plugin"
    )
    return Finding("GPUs here", "failed", observation, cure)


def _check_scratch(folder: Path) -> Finding:
    trial_file = folder / "ratchet-doctor"
    try:
        trial_file.write_bytes(b"")
        trial_file.unlink()
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror})"
        return Finding(
            "scratch here", "failed", problem, f"mount an emptyDir at {folder}"
        )
    return Finding("scratch here", "ok", f"{folder} can be written")


def profile_checks(profile: Profile) -> Iterator[Finding]:
    """Yield the finding whether each step's memory holds its shared memory."""
    for step in ("generate", "train", "evaluate"):
        resources = profile.resources(step)
        # What lies in /dev/shm counts as the pod's memory: a full one would have the step killed.
        if _bytes(resources.shared_memory) >= _bytes(resources.memory):
            yield Finding(
                "shared memory",
                "failed",
                f"{step}: /dev/shm may take {resources.shared_memory} of {resources.memory}",
                "shared memory counts against the limit of memory: give the step more memory",
            )
            return
    yield Finding("shared memory", "ok", "of every step, fits into its memory")


def _bytes(quantity: str) -> int:
    """Return the bytes of a quantity of Kubernetes, as a profile may say it: 64Mi."""
    number = quantity[:-2]
    unit = quantity[-2:]
    return int(number) * _UNITS[unit]
