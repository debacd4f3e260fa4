"""The store of the component object-store, started as its manifest starts it: the bucket is there,
and only the keys of the Secret open it."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from components.errors import RatchetError
from components.storage.store import open_store, probe
from tests.conftest import LISTENERS, free_ports, weed_binary
from tests.manifests.pod_security import pod_specs
from tests.manifests.rendering import composed, of_kind
from tests.waiting import wait_until

pytestmark = pytest.mark.process

KEYS = {
    "AWS_ACCESS_KEY_ID": "ratchet",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test",
}


def wait_until_ready(probe_address: str, server: subprocess.Popen[bytes]) -> None:
    """As a cluster does, which sends a pod no request before."""

    def ready() -> bool:
        try:
            with urllib.request.urlopen(probe_address, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(ready, server)


def test_the_store_has_its_bucket_once_its_start_hook_ran_and_asks_for_the_keys_of_the_secret(
    tmp_path: Path,
) -> None:
    objects = composed("object-store")
    (store,) = of_kind(objects, "StatefulSet")
    ((container,),) = (spec["containers"] for spec in pod_specs(store))
    names = [*LISTENERS, "metricsPort"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (tmp_path / "data").mkdir()
    here = [
        f"-dir={tmp_path / 'data'}",
        "-ip.bind=127.0.0.1",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    replaced = {argument.partition("=")[0] for argument in here}
    given = [
        argument
        for argument in container["command"][1:]
        if argument.partition("=")[0] not in replaced
    ]
    (script,) = container["lifecycle"]["postStart"]["exec"]["command"][2:]
    master = f"127.0.0.1:{ports['master.port']}.{ports['master.port.grpc']}"
    script = script.replace("/usr/bin/weed", weed_binary()).replace(
        "127.0.0.1:9333", master
    )
    assert master in script
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **KEYS}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed_binary(), *given, *here],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env=environment,
        )
    try:
        subprocess.run(
            ["/bin/sh", "-c", script],
            env=environment,
            cwd=tmp_path,
            check=True,
            timeout=60,
        )
        probed = container["readinessProbe"]["httpGet"]
        assert probed["port"] == "s3"
        wait_until_ready(f"http://127.0.0.1:{ports['s3.port']}{probed['path']}", server)
        address = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3.port']}",
            "AWS_REGION": "us-east-1",
        }
        probe(open_store("s3://ratchet/campaigns", {**address, **KEYS}))
        for wrong in (
            {"AWS_ACCESS_KEY_ID": "somebody"},
            {"AWS_SECRET_ACCESS_KEY": "a-guess"},
        ):
            with pytest.raises(RatchetError):
                probe(
                    open_store("s3://ratchet/campaigns", {**address, **KEYS, **wrong})
                )
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
