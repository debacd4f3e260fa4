"""Tasks as containers on this machine, confined as they are on a cluster: kfp.local's DockerRunner.

Read-only root, no capabilities, no new privileges, never root, limits on memory and processes, and
of this machine nothing but the run's folder of pointer artifacts. What a step may know of the
environment is listed in PASSED_ON.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.canonical import digest_of
from components.errors import UserError
from components.runtime.code_digest import code_digest

IMAGES_FILE = Path(__file__).resolve().parents[3] / "docker" / "images.toml"
RUN_LABEL, CODE_LABEL = "ratchet.run", "ratchet.code"
UID = 10001
"""Of the steps where the command itself runs as root; else they are the user who calls, who can
then read and delete what they write."""
MAX_PROCESSES = 512
STOP_SECONDS = 8
"""For a step to save its work; below the patience that the `run` verb has with all of it."""
PASSED_ON = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "RATCHET_S3_REQUEST_CHECKSUM",
    "RATCHET_S3_RESPONSE_CHECKSUM",
    "RATCHET_PROGRESS",
    "RATCHET_SIDE_BY_SIDE",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
)


@dataclass(frozen=True)
class Containers:
    """What the `run` verb was told about them."""

    memory: str = "8g"
    """Limit of one container; what it writes to /tmp counts."""
    network: str = ""
    """Docker network; empty: this machine's own where the store is on it, else the bridge. One made
    with `docker network create --internal` that has the store in it leads nowhere else."""


def check_engine(store: str, containers: Containers, environment: Mapping[str, str]) -> None:
    """Raise UserError, before anything runs, if there is no engine or no such network, an image is
    missing or was built from other code, or the store cannot be reached from inside a container."""
    from requests.exceptions import RequestException

    import docker

    if not store.startswith("s3://"):
        raise UserError(
            f"--runner docker: the store {store} is a folder, which containers do not see; use s3://…"
        )
    if not environment.get("AWS_ACCESS_KEY_ID"):
        raise UserError(
            "--runner docker: containers see no profile files; set AWS_ACCESS_KEY_ID and its secret"
        )
    if not re.fullmatch(r"[1-9][0-9]*[kmg]", containers.memory):
        raise UserError(f"--memory {containers.memory}: a whole number and k, m or g, as in 8g")
    try:
        client = docker.from_env()
        client.ping()
        networks = [network.name for network in client.networks.list()]
    except (docker.errors.DockerException, RequestException) as error:
        raise UserError(
            f"--runner docker: no Docker engine answers ({error}); start it or set DOCKER_HOST"
        ) from None
    if containers.network and containers.network not in networks:
        raise UserError(
            f"--network {containers.network}: the engine knows {', '.join(sorted(networks))}"
        )
    code = code_label()
    for family in tomllib.loads(IMAGES_FILE.read_text(encoding="utf-8"))["families"]:
        name = f"ratchet/{family}:dev"
        try:
            labels = client.images.get(name).labels
        except docker.errors.ImageNotFound:
            raise UserError(
                f"--runner docker: there is no image {name}; `make images` builds it"
            ) from None
        if labels.get(CODE_LABEL) != code:
            raise UserError(
                f"--runner docker: image {name} was built from other code than is here; `make images`"
            )
    client.close()


def code_label() -> str:
    """Digest of all steps' code: what an image must have been built from for its receipts to be
    those of this tree."""
    steps = sorted(
        path.parent.name for path in Path(__file__).resolve().parents[2].glob("*/step.py")
    )
    return digest_of({step: code_digest(step) for step in steps})


def settings(run_id: str, containers: Containers, environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `docker run`, as kfp's DockerRunner takes them."""
    user = f"{UID}:{UID}" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"
    return {
        "read_only": True,
        "tmpfs": {"/tmp": f"size={containers.memory},mode=1777"},
        "user": user,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": MAX_PROCESSES,
        "mem_limit": containers.memory,
        "memswap_limit": containers.memory,
        "network_mode": containers.network or _network_of_store(environment),
        "labels": {RUN_LABEL: run_id},
        "environment": {name: environment[name] for name in PASSED_ON if environment.get(name)},
    }


def _network_of_store(environment: Mapping[str, str]) -> str:
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    host = urlsplit(endpoint).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return "host" if here else "bridge"


def use_containers(
    run_id: str, containers: Containers, environment: Mapping[str, str], folder: Path
) -> Any:
    """The runner to give to `kfp.local.init`; `folder`, where tasks write their pointers, becomes
    the steps' own."""
    from kfp import local
    from kfp.local import docker_task_handler

    stop_containers(run_id)  # of a run that was killed
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        os.chown(folder, UID, UID)
    # kfp's own takes a container that was removed before it asked for its exit status for a
    # success.
    docker_task_handler.run_docker_container = run_container
    return local.DockerRunner(**settings(run_id, containers, environment))


def run_container(
    client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any
) -> int:
    """Carry out one task: exit status of its container, whose output goes to standard output. A
    container that was killed is told from one that failed by a line that says why."""
    import docker

    container = client.containers.create(image, command, volumes=volumes, **arguments)
    try:
        container.start()
        for piece in container.logs(stream=True, follow=True):
            sys.stdout.write(piece.decode(errors="replace"))
            sys.stdout.flush()
        status = int(container.wait()["StatusCode"])
        container.reload()
        state = container.attrs["State"]
    except docker.errors.NotFound:
        status, state = 137, {}
    finally:
        with suppress(docker.errors.NotFound):
            container.remove(force=True)
    if status and state.get("OOMKilled"):
        _say(
            command,
            "UserError",
            f"its container went over its memory of {arguments['mem_limit']} and was killed; "
            "give it more by --memory, or lower train.micro_batch_size, generate.batch_size or "
            "evaluate.batch_size",
        )
        return UserError.exit_code
    if status == 137:
        _say(
            command,
            "Transient",
            "its container was killed from outside; the same command again goes on",
        )
    return status


def _say(command: list[str], kind: str, text: str) -> None:
    step = (
        command[command.index("--function_to_execute") + 1]
        if "--function_to_execute" in command
        else "a task"
    )
    print(f"error ({kind}): {step}: {text}", flush=True)


def stop_containers(run_id: str) -> None:
    """Ask all containers of a run to end, and end those that do not."""
    import docker

    client = docker.from_env()
    found = client.containers.list(filters={"label": f"{RUN_LABEL}={run_id}"})

    def stop(container: Any) -> None:
        with suppress(docker.errors.APIError):
            container.stop(timeout=STOP_SECONDS)
            container.remove(force=True)

    with ThreadPoolExecutor(max(1, len(found))) as pool:
        list(pool.map(stop, found))
    client.close()
