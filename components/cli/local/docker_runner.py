"""Tasks as containers on this machine, confined as they are on a cluster: kfp.local's DockerRunner.

Read-only root, no capabilities, no new privileges, never root, limits on memory and processes, and
of this machine nothing but the run's folder of pointer artifacts. What a step may know of the
environment is listed in PASSED_VARIABLES.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from components.canonical import digest_of
from components.cli.json_documents import Json
from components.cli.package.profiles import STEPS
from components.cli.source_tree import IMAGES_FILE
from components.errors import UserError
from components.runtime.code_digest import code_digest
from components.runtime.log_lines import (
    LineSplitter,
    LineStamper,
    LogSubject,
    format_from,
)

if TYPE_CHECKING:
    from docker.models.containers import Container
    from kfp.local import DockerRunner

    from docker import DockerClient

RUN_LABEL = "ratchet.run"
CODE_LABEL = "ratchet.code"

# The user of the steps where the command itself runs as root. Else they are the user who calls, who
# can then read and delete what they write.
UID = 10001
MAX_PROCESSES = 512

# Time for a step to save its work; below the patience that the `run` verb has with all of it.
STOP_SECONDS = 8

KILLED_STATUS = 128 + signal.SIGKILL
STOPPED_STATUS = 128 + signal.SIGTERM
PASSED_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "RATCHET_S3_REQUEST_CHECKSUM",
    "RATCHET_S3_RESPONSE_CHECKSUM",
    "RATCHET_LOG_FORMAT",
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
    """Options of the `run` verb for its containers."""

    memory: str = "8g"
    """Limit of one container; what it writes to /tmp counts."""
    network: str = ""
    """Docker network; empty: this machine's own where the store is on it, else the bridge. One made
    with `docker network create --internal` that has the store in it leads nowhere else."""
    variables: tuple[str, ...] = ()
    """Environment variables that the recipe needs, such as the URL of its webhook."""


def check_engine(
    store: str, containers: Containers, environment: Mapping[str, str]
) -> None:
    """Raise UserError, before anything runs, if containers could not do the work.

    There must be an engine, the network, and images of this very code; and a store that can be
    reached from inside a container.
    """
    from requests.exceptions import RequestException

    import docker

    _check_options(store, containers, environment)
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
    _check_images(client)
    client.close()


def _check_options(
    store: str, containers: Containers, environment: Mapping[str, str]
) -> None:
    if not store.startswith("s3://"):
        raise UserError(
            f"--runner docker: the store {store} is a folder, which containers do not see; use "
            "s3://…"
        )
    if not environment.get("AWS_ACCESS_KEY_ID"):
        raise UserError(
            "--runner docker: containers see no profile files; set AWS_ACCESS_KEY_ID and its secret"
        )
    if not re.fullmatch(r"[1-9][0-9]*[kmg]", containers.memory):
        raise UserError(
            f"--memory {containers.memory}: a whole number and k, m or g, as in 8g"
        )


def _check_images(client: DockerClient) -> None:
    import docker

    code = code_label()
    families = tomllib.loads(IMAGES_FILE.read_text(encoding="utf-8"))["families"]
    for family in families:
        name = f"ratchet/{family}:dev"
        try:
            labels = client.images.get(name).labels
        except docker.errors.ImageNotFound:
            raise UserError(
                f"--runner docker: there is no image {name}; `make images` builds it"
            ) from None
        # Steps of other code would write receipts under other keys than this tree looks for.
        if labels.get(CODE_LABEL) != code:
            raise UserError(
                f"--runner docker: image {name} was built from other code than is here; "
                "`make images`"
            )


def code_label() -> str:
    """Return the digest of all steps' code, which an image carries as its label."""
    return digest_of({step: code_digest(step) for step in STEPS})


def settings(
    run_id: str, containers: Containers, environment: Mapping[str, str]
) -> Json:
    """Return the arguments of `docker run`, as kfp's DockerRunner takes them."""
    is_root = os.getuid() == 0
    user_id = UID if is_root else os.getuid()
    group_id = UID if is_root else os.getgid()
    names = (*PASSED_VARIABLES, *containers.variables)
    variables = {name: environment[name] for name in names if environment.get(name)}
    return {
        "read_only": True,
        "tmpfs": {"/tmp": f"size={containers.memory},mode=1777"},
        "user": f"{user_id}:{group_id}",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": MAX_PROCESSES,
        "mem_limit": containers.memory,
        # Equal to the memory: no swap, which would hide a step that is too large.
        "memswap_limit": containers.memory,
        "network_mode": containers.network or _network_of_store(environment),
        "labels": {RUN_LABEL: run_id},
        "environment": variables,
    }


def _network_of_store(environment: Mapping[str, str]) -> str:
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or ""
    )
    host = urlsplit(endpoint).hostname or ""
    # On a bridge, 127.0.0.1 would be the container itself.
    return "host" if _is_loopback(host) else "bridge"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ContainerTasks:
    """Carries out the tasks of a run as containers, until it is told to stop."""

    def __init__(
        self, run_id: str, containers: Containers, environment: Mapping[str, str]
    ) -> None:
        """Take the run's id, the label of its containers, and the options of the `run` verb."""
        self._run_id = run_id
        self._settings = settings(run_id, containers, environment)
        self._stopping = False
        # Reentrant: the handler of a signal may interrupt the very thread that starts a container.
        self._starting = threading.RLock()

    def runner(self, folder: Path) -> DockerRunner:
        """Return what `kfp.local.init` takes; containers of a run that was killed are ended.

        Args:
            folder: Tasks write their pointer artifacts here; it is handed over to the steps' user.
        """
        from kfp import local
        from kfp.local import docker_task_handler

        end_containers(self._run_id)
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            os.chown(folder, UID, UID)
        # kfp's own takes a container that was removed before it asked for its exit status for a
        # success.
        docker_task_handler.run_docker_container = self.carry_out
        return local.DockerRunner(**self._settings)

    def carry_out(
        self,
        client: DockerClient,
        image: str,
        command: list[str],
        volumes: Json,
        **arguments: Any,
    ) -> int:
        """Carry out one task, and return the exit status of its container.

        Its output goes to standard output. A container that was killed gets a line with the reason.
        After `stop` nothing is started, and the status is that of a process ended by SIGTERM.
        """
        import docker

        stamper = _stamper_for(command, arguments.get("environment") or {})
        container = client.containers.create(
            image, command, volumes=volumes, **arguments
        )
        try:
            with self._starting:
                if self._stopping:
                    return STOPPED_STATUS
                container.start()
            _write_log(container.logs(stream=True, follow=True), stamper)
            status = int(container.wait()["StatusCode"])
            container.reload()
            state = container.attrs["State"]
        except docker.errors.NotFound:
            # Somebody removed it: its status is lost with it.
            status = KILLED_STATUS
            state = {}
        finally:
            _remove(container)
        # The engine sets the flag also where only a child was killed, which a step may survive.
        if status and state.get("OOMKilled"):
            _report_error(
                command,
                stamper,
                "UserError",
                f"its container went over its memory of {arguments['mem_limit']} and was killed; "
                "give it more by --memory, or lower train.micro_batch_size, generate.batch_size or "
                "evaluate.batch_size",
            )
            return UserError.exit_code
        if status == KILLED_STATUS:
            _report_error(
                command,
                stamper,
                "Transient",
                "its container was killed from outside; the same command again goes on",
            )
        return status

    def stop(self) -> None:
        """Start nothing more, and end the run's containers; each may first save its work."""
        self._stopping = True
        with self._starting:
            end_containers(self._run_id)


def _step_of(command: list[str]) -> str:
    """Return the step that a command carries out; empty if it does not say."""
    if "--function_to_execute" not in command:
        return ""
    return command[command.index("--function_to_execute") + 1]


def _stamper_for(
    command: list[str], environment: Mapping[str, str]
) -> LineStamper | None:
    """Return what gives a container's lines their form; None where they are text."""
    is_json = format_from(environment) == "json"
    return LineStamper(LogSubject(step=_step_of(command))) if is_json else None


def _write_log(pieces: Iterable[bytes], stamper: LineStamper | None) -> None:
    """Write what a container says to standard output, as it comes."""
    if stamper is None:
        for piece in pieces:
            sys.stdout.write(piece.decode(errors="replace"))
            sys.stdout.flush()
        return
    splitter = LineSplitter()
    # A last line without an end is one too.
    for piece in itertools.chain(pieces, [b"\n"]):
        for line in filter(str.strip, splitter.add(piece)):
            print(stamper.stamp(line, time.time()), flush=True)


def _report_error(
    command: list[str], stamper: LineStamper | None, kind: str, text: str
) -> None:
    """Print a line in the form that steps give their own errors."""
    line = f"error ({kind}): {_step_of(command) or 'a task'}: {text}"
    print(line if stamper is None else stamper.stamp(line, time.time()), flush=True)


def end_containers(run_id: str, patience: int = STOP_SECONDS) -> None:
    """Ask all containers of a run to end, kill those that do not, and remove them.

    Args:
        run_id: The label of the containers.
        patience: Seconds that each is given to save its work.
    """
    import docker

    client = docker.from_env()
    found = client.containers.list(
        # One that was made but not started yet is theirs too. Others may be removed meanwhile.
        all=True,
        ignore_removed=True,
        filters={"label": f"{RUN_LABEL}={run_id}"},
    )

    def end(container: Container) -> None:
        # It may end by itself in the meantime; and one that the engine could not stop is removed
        # by force all the same.
        with suppress(docker.errors.APIError):
            container.stop(timeout=patience)
        _remove(container)

    # All at once: one after the other would take the patience each.
    with ThreadPoolExecutor(max(1, len(found))) as pool:
        list(pool.map(end, found))
    client.close()


def _remove(container: Container) -> None:
    import docker

    try:
        container.remove(force=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        # Another removal of the same container is under way.
        if error.status_code != HTTPStatus.CONFLICT:
            raise
