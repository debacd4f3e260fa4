"""A network that leads nowhere but to a real S3 server, SeaweedFS, in a container as confined as a
step's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import weed_binary

ADMIN_KEY, ADMIN_SECRET = "ratchet-admin", "an-admin-secret-that-no-message-may-show"
KEY, SECRET = "ratchet-steps", "a-steps-secret-that-no-message-may-show"
FAMILIES = ("cpu", "generate", "train")
BUCKET, OTHER_BUCKET = "ratchet-containers", "somebody-else"
PORT = 8333
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Island:
    """A Docker network that leads nowhere, with an S3 server in it; this machine can reach its
    containers."""

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
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )

    def receipts(self, prefix: str) -> dict[str, bytes]:
        """`step/key` → stored bytes, of a store in the bucket."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{prefix}/steps/"
        )
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {
            key.removeprefix(f"{prefix}/steps/"): client.get_object(
                Bucket=BUCKET, Key=key
            )["Body"].read()
            for key in keys
        }


def _environment(endpoint: str, key: str, secret: str) -> dict[str, str]:
    host = endpoint.removeprefix("http://").partition(":")[0]
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), host)))
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


@contextmanager
def open_island(engine: Any, folder: Path) -> Iterator[Island]:
    """Make network, server and buckets; `folder` gets the server's settings."""
    identities = folder / "identities.json"
    scoped = [f"{action}:{BUCKET}" for action in ("Read", "Write", "List", "Tagging")]
    identities.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "admin",
                        "credentials": [
                            {"accessKey": ADMIN_KEY, "secretKey": ADMIN_SECRET}
                        ],
                        "actions": ["Admin"],
                    },
                    {
                        "name": "steps",
                        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                        "actions": scoped,
                    },
                ]
            }
        )
    )
    name = f"ratchet-tests-{os.getpid()}"
    network = engine.networks.create(name, driver="bridge", internal=True)
    server = engine.containers.create(
        "ratchet/cpu:dev",
        [
            "/weed",
            "-logtostderr=true",
            "server",
            "-dir=/tmp",
            "-ip=127.0.0.1",
            "-ip.bind=0.0.0.0",
            "-filer",
            "-s3",
            f"-s3.port={PORT}",
            "-s3.config=/identities.json",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-master.volumePreallocate=false",
            "-volume.max=200",
        ],
        network=name,
        read_only=True,
        tmpfs={"/tmp": "size=2g"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        volumes={
            weed_binary(): {"bind": "/weed", "mode": "ro"},
            str(identities): {"bind": "/identities.json", "mode": "ro"},
        },
    )
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
    os.environ.update(
        {
            key: value
            for key, value in island.environment.items()
            if key.lower() == "no_proxy"
        }
    )
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            for bucket in (BUCKET, OTHER_BUCKET):
                island.client().create_bucket(Bucket=bucket)
                island.client().put_object(
                    Bucket=bucket, Key="readiness", Body=b"ready"
                )
            return island
        except (BotoCoreError, ClientError) as error:
            server.reload()
            if time.monotonic() > deadline or server.status != "running":
                raise RuntimeError(
                    f"no S3 server: {error}; {server.logs().decode()[-2000:]}"
                ) from error
            time.sleep(0.3)
