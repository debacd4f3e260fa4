"""A Docker engine, the images in it, and a network with nothing but a real S3 server."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import docker
from components.cli.docker_runner import RUN_LABEL
from components.common.recipe_file import set_key
from tests.conftest import weed_binary
from tests.pipeline.campaigns import SPLITS, Place, recipe, write_data

ADMIN_KEY, ADMIN_SECRET = "ratchet-admin", "an-admin-secret-that-no-message-may-show"
KEY, SECRET = "ratchet-steps", "a-steps-secret-that-no-message-may-show"
BUCKET, OTHER_BUCKET = "ratchet-containers", "somebody-else"
PORT = 8333
READY_SECONDS = 60.0


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the engine. Without one these tests are left out, unless RATCHET_NEED_ENGINE says they must run."""
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        if os.environ.get("RATCHET_NEED_ENGINE"):
            raise
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@dataclass(frozen=True)
class Island:
    """A Docker network that leads nowhere, with an S3 server in it; this machine can reach its containers."""

    network: str
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """Credentials for one bucket alone."""
        return _environment(self.endpoint, KEY, SECRET)

    def client(self, key: str = ADMIN_KEY, secret: str = ADMIN_SECRET) -> Any:
        """A plain S3 client."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
            region_name="us-east-1",
        )  # fmt: skip


def _environment(endpoint: str, key: str, secret: str) -> dict[str, str]:
    host = endpoint.removeprefix("http://").partition(":")[0]
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), host)))
    return {
        "AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1", "NO_PROXY": direct, "no_proxy": direct,
    }  # fmt: skip


@pytest.fixture(scope="session")
def island(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Island]:
    """The network and its server, which runs as confined as a step does."""
    identities = tmp_path_factory.mktemp("island") / "identities.json"
    scoped = [f"{action}:{BUCKET}" for action in ("Read", "Write", "List", "Tagging")]
    identities.write_text(json.dumps({"identities": [
        {"name": "admin", "credentials": [{"accessKey": ADMIN_KEY, "secretKey": ADMIN_SECRET}], "actions": ["Admin"]},
        {"name": "steps", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": scoped},
    ]}))  # fmt: skip
    name = f"ratchet-tests-{os.getpid()}"
    network = engine.networks.create(name, driver="bridge", internal=True)
    server = engine.containers.create(
        "ratchet/cpu:dev",
        ["/weed", "-logtostderr=true", "server", "-dir=/tmp", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-filer", "-s3",
         f"-s3.port={PORT}", "-s3.config=/identities.json", "-s3.iam=false", "-s3.port.iceberg=0",
         "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false",
         "-volume.max=200"],
        network=name, read_only=True, tmpfs={"/tmp": "size=2g"}, cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        volumes={weed_binary(): {"bind": "/weed", "mode": "ro"},
                 str(identities): {"bind": "/identities.json", "mode": "ro"}},
    )  # fmt: skip
    identities.chmod(0o644)
    try:
        server.start()
        yield _ready(name, server)
    finally:
        server.remove(force=True)
        network.remove()


def _ready(network: str, server: Any) -> Island:
    server.reload()
    address = server.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
    island = Island(network, f"http://{address}:{PORT}")
    os.environ.update({key: value for key, value in island.environment.items() if key.lower() == "no_proxy"})
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            for bucket in (BUCKET, OTHER_BUCKET):
                island.client().create_bucket(Bucket=bucket)
                island.client().put_object(Bucket=bucket, Key="readiness", Body=b"ready")
            return island
        except (BotoCoreError, ClientError) as error:
            server.reload()
            if time.monotonic() > deadline or server.status != "running":
                raise RuntimeError(f"no S3 server: {error}; {server.logs().decode()[-2000:]}") from error
            time.sleep(0.3)


@pytest.fixture(scope="session")
def document(island: Island, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small recipe whose data lie in the bucket and whose trainings are of two processes, with ZeRO 2."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    for split in SPLITS:
        island.client().upload_file(str(folder / f"{split}.jsonl"), BUCKET, f"data/{split}.jsonl")
    made = copy.deepcopy(recipe(folder))
    made["data"]["human"] = [{"uri": f"s3://{BUCKET}/data/{split}.jsonl", "split": split} for split in SPLITS]
    for key, value in {"train.zero": 2, "train.num_processes": 2, "decide.max_rounds": 1}.items():
        set_key(made, key, value)
    return made


@dataclass(frozen=True)
class Campaigns:
    """Makes campaigns over prefixes of the bucket."""

    island: Island
    document: dict[str, Any]
    folders: pytest.TempPathFactory

    def place(self, name: str) -> Place:
        """A working folder whose store nobody has used yet."""
        uri = f"s3://{BUCKET}/{name}"
        return Place(self.folders.mktemp(name), self.document, uri, self.island.environment)

    @property
    def in_containers(self) -> tuple[str, ...]:
        """Arguments of `run`."""
        return ("--rounds", "1", "--runner", "docker", "--network", self.island.network, "--memory", "2g")

    def receipts(self, name: str) -> dict[str, bytes]:
        """`step/key` → stored bytes."""
        client = self.island.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/steps/")
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {
            key.removeprefix(f"{name}/steps/"): client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys
        }


@pytest.fixture(scope="session")
def campaigns(island: Island, document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Campaigns:
    """The campaigns of these tests."""
    return Campaigns(island, document, tmp_path_factory)


@pytest.fixture(scope="session")
def on_the_laptop(campaigns: Campaigns) -> dict[str, bytes]:
    """Receipts of a run by processes of this machine: what runs in containers are compared with."""
    run = campaigns.place("laptop").run("--rounds", "1")
    assert run.told, run.said
    return campaigns.receipts("laptop")


def containers_of(engine: Any, run_id: str = "") -> list[Any]:
    """Running containers of steps."""
    found = engine.containers.list(filters={"label": f"{RUN_LABEL}={run_id}" if run_id else RUN_LABEL})
    return list(found)


def step_of(container: Any) -> str:
    """The step that a container carries out."""
    command = container.attrs["Config"]["Cmd"]
    return str(command[command.index("--function_to_execute") + 1])


def start(place: Place, *arguments: str) -> subprocess.Popen[str]:
    """Begin `run` and do not wait."""
    return subprocess.Popen(
        place.command("run", "--json", *arguments), cwd=place.folder, env=place.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def log_of(folder: Path) -> str:
    """The log of the last run of a working folder."""
    logs = sorted((folder / ".ratchet" / "logs").glob("*/log.txt"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text(encoding="utf-8", errors="replace") if logs else ""
