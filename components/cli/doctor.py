"""The `doctor` verb: everything a run needs of its surroundings, tried out before a GPU is touched.

Each check ends as `ok`, `warning` (a run may work), `failed` (it will not, or not safely) or
`skipped` (could not be looked at, and why), and says what to do. Nothing is left behind but one
small object of the store, always the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from components.cli.profiles import Profile
from components.common.errors import RatchetError
from components.train.nodes.cluster import Patience

Status = Literal["ok", "warning", "failed", "skipped"]
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    found: str
    cure: str = ""
    """What to do; empty where nothing need be done."""


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """A check whose expected failure is its finding. Messages end in what to do, behind a
    semicolon."""
    try:
        return look()
    except RatchetError as error:
        return _failed(check, error)


def _failed(check: str, error: RatchetError) -> Finding:
    found, _, cure = str(error).rpartition("; ")
    return Finding(check, "failed", found or cure, cure if found else "")


def exit_code(findings: list[Finding]) -> int:
    """1 if a check failed."""
    return int(any(one.status == "failed" for one in findings))


def as_document(findings: list[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    counts = {status: sum(one.status == status for one in findings) for status in _STYLES}
    return {"checks": [asdict(one) for one in findings], "exit_code": exit_code(findings), **counts}


def print_findings(console: Console, findings: list[Finding]) -> None:
    """One line a check, and what to do below it."""
    width = max((len(one.check) for one in findings), default=0)
    for one in findings:
        line = Text(f"{one.status:<8}", style=_STYLES[one.status])
        line.append(f" {one.check:<{width}}  ", style="bold")
        line.append(one.found, style="default")
        console.print(line, soft_wrap=True)
        if one.cure:
            console.print(
                Text(f"{'':<9}{'':<{width}}  → {one.cure}", style="default"), soft_wrap=True
            )
    failed = sum(one.status == "failed" for one in findings)
    console.print(
        Text(
            f"{failed} of {len(findings)} checks failed"
            if failed
            else f"{len(findings)} checks, none failed"
        )
    )


def all_checks(
    profile: Profile,
    *,
    store: str,
    endpoint: str,
    namespace: str,
    account: str,
    token_file: Path | None,
    here: str,
    environment: Mapping[str, str],
    clock: Callable[[], float],
) -> list[Finding]:
    """Every check there is something for; what is not looked at is a finding too."""
    from components.cli.doctor_images import image_checks
    from components.cli.doctor_store import store_checks

    found = list(profile_checks(profile))
    found += image_checks(profile.images, environment)
    if store:
        found += _collected("store", lambda: store_checks(store, environment, clock))
    else:
        found.append(
            Finding("store", "skipped", "none is given", "pass --store s3://bucket/prefix")
        )
    found += _collected(
        "kubernetes", lambda: _of_cluster(profile, namespace or "ratchet", account, environment)
    )
    found.append(
        guarded("pipelines", lambda: _of_pipelines(endpoint, namespace, token_file, environment))
    )
    if here:
        found += machine_checks(profile, here)
    return found


def _collected(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """All findings of a series of checks; a failure that ends it is the last one."""
    found: list[Finding] = []
    try:
        for one in look():
            found.append(one)
    except RatchetError as error:
        found.append(_failed(check, error))
    return found


def _of_cluster(
    profile: Profile, namespace: str, account: str, environment: Mapping[str, str]
) -> Iterator[Finding]:
    from components.cli.doctor_cluster import ApiServer, cluster_checks

    inside = bool(environment.get("KUBERNETES_SERVICE_HOST"))
    file = Path(environment.get("KUBECONFIG") or f"{environment.get('HOME', '')}/.kube/config")
    if not inside and not environment.get("KUBECONFIG") and not file.exists():
        yield Finding(
            "kubernetes",
            "skipped",
            "no cluster is configured",
            "set KUBECONFIG, or run doctor in a pod",
        )
        return
    api = ApiServer.from_environment(environment, Patience(connect_seconds=5, answer_seconds=15))
    yield from cluster_checks(api, namespace, profile, account, as_account=not inside)


def _of_pipelines(
    endpoint: str, namespace: str, token_file: Path | None, environment: Mapping[str, str]
) -> Finding:
    from components.cli import kfp_api

    if not (endpoint or environment.get("KF_PIPELINES_ENDPOINT")):
        return Finding(
            "pipelines",
            "skipped",
            "no API is given",
            "pass --endpoint https://… or set KF_PIPELINES_ENDPOINT",
        )
    access = kfp_api.access_from(environment, endpoint, namespace, token_file)
    api = kfp_api.Pipelines(
        access, kfp_api.Patience(connect_seconds=5, answer_seconds=15, give_up_seconds=5)
    )
    said = api.health()
    api.find_experiment("ratchet")  # whether the token may look
    return Finding(
        "pipelines", "ok", f"Kubeflow Pipelines {said.get('tag_name') or ''} at {access.endpoint}"
    )


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
