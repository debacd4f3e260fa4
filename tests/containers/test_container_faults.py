"""Containers that are killed, run out of memory or are no longer wanted."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import docker
from components.cli.local.docker_runner import (
    KILLED_STATUS,
    STOPPED_STATUS,
    Containers,
    ContainerTasks,
    settings,
)
from components.errors import Transient, UserError
from tests.containers.conftest import Campaigns, containers_of, log_of, start, step_of
from tests.containers.island import BUCKET, Island
from tests.containers.sources import copy_sources
from tests.pipeline.campaigns import PIPELINE

KILLED = ("prepare", "train", "evaluate", "decide", "generate", "select", "publish")
UPLOADING = "prepare"
"""Killed while it stores its files, the others as soon as they run."""
PATIENCE_SECONDS = 120.0
UPLOAD = """
import os, pathlib, sys
from components.storage.store import open_store
path = pathlib.Path("/tmp/large")
with path.open("wb") as file:
    file.truncate(256 << 20)
store = open_store(sys.argv[1], os.environ)
store.put_file(sys.argv[2], path, sys.argv[3])
print(store.size(sys.argv[2]))
"""
"""What a step does with a file of 256 MiB: it goes up in parts."""


def wait_for(engine: Any, step: str, process: Any) -> Any:
    """The container of a step, as soon as it runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for container in containers_of(engine):
            if step_of(container) == step:
                return container
        time.sleep(0.02)
    raise AssertionError(f"no container of {step}: {process.communicate()}")


def wait_for_upload(campaigns: Campaigns, name: str) -> None:
    """Return as soon as the first file of a campaign is in the store."""
    client, deadline = campaigns.island.client(), time.monotonic() + PATIENCE_SECONDS
    while not client.list_objects_v2(
        Bucket=BUCKET, Prefix=f"{name}/objects/", MaxKeys=1
    ).get("Contents"):
        assert time.monotonic() < deadline, "nothing was stored"


# Nine runs, one after the other.
@pytest.mark.timeout(1800)
def test_a_campaign_whose_every_step_runs_out_of_memory_or_is_killed_ends_as_one_that_was_left_alone(
    engine: Any, campaigns: Campaigns, on_the_laptop: dict[str, bytes]
) -> None:
    place = campaigns.place("killed")
    starved = place.run(
        "--rounds",
        "1",
        "--runner",
        "docker",
        "--network",
        campaigns.island.network,
        "--memory",
        "64m",
    )
    assert starved.code == UserError.exit_code, starved.said
    assert any(
        "went over its memory of 64m" in line and "--memory" in line
        for line in starved.errors
    ), starved.said
    for step in KILLED:
        process = start(place, *campaigns.in_containers)
        try:
            container = wait_for(engine, step, process)
            if step == UPLOADING:
                wait_for_upload(campaigns, "killed")
            container.kill("SIGKILL")
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.terminate()
        assert process.returncode == Transient.exit_code, said + log_of(place.folder)
        assert (
            f"{step}: its container was killed from outside; the same command again goes on"
            in said
        )
        if step == UPLOADING:
            assert campaigns.island.receipts("killed") == {}, (
                "it was killed before all was there"
            )
    run = place.run(*campaigns.in_containers)
    assert run.told, run.said
    assert run.told["error"] == ""
    assert campaigns.island.receipts("killed") == on_the_laptop


def test_a_container_killed_in_the_middle_of_a_large_upload_leaves_no_object_and_the_next_stores_it(
    engine: Any, island: Island
) -> None:
    digest = hashlib.sha256()
    for _ in range(256):
        digest.update(bytes(1 << 20))
    name, key = "large-upload", f"objects/{digest.hexdigest()[:2]}/{digest.hexdigest()}"
    command = ["python", "-c", UPLOAD, f"s3://{BUCKET}/{name}", key, digest.hexdigest()]
    confined = settings(name, Containers("1g", island.network), island.environment)
    client, where = island.client(), {"Bucket": BUCKET, "Key": f"{name}/{key}"}

    def parts() -> int:
        uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{name}/").get(
            "Uploads", ()
        )
        return sum(
            len(client.list_parts(**where, UploadId=one["UploadId"]).get("Parts", ()))
            for one in uploads
        )

    uploading = engine.containers.run(
        "ratchet/cpu:dev", command, detach=True, **confined
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not parts():
            assert time.monotonic() < deadline, uploading.logs().decode()
            time.sleep(0.02)
        uploading.kill("SIGKILL")
        assert uploading.wait()["StatusCode"] == 128 + signal.SIGKILL, (
            uploading.logs().decode()
        )
    finally:
        uploading.remove(force=True)
    assert 0 < parts() < 16, "it was killed between its first part and its last"
    assert not client.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get(
        "Contents"
    ), "half a file is no file"
    said = engine.containers.run("ratchet/cpu:dev", command, remove=True, **confined)
    assert int(said) == 256 << 20
    assert client.head_object(**where)["ContentLength"] == 256 << 20


def test_a_run_that_is_stopped_leaves_no_container_behind(
    engine: Any, campaigns: Campaigns
) -> None:
    place = campaigns.place("stopped")
    process = start(place, *campaigns.in_containers)
    wait_for(engine, "train", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert containers_of(engine) == []


def test_a_stop_while_containers_are_being_started_leaves_none_behind(
    engine: Any, island: Island
) -> None:
    confined = settings(
        "starting", Containers("1g", island.network), island.environment
    )
    image, command = (
        "ratchet/cpu:dev",
        ["sh", "-c", "trap 'exit 0' TERM; sleep 20 & wait"],
    )
    for after in (0.0, 0.1, 0.2, 0.4, 0.8):
        tasks = ContainerTasks(
            "starting", Containers("1g", island.network), island.environment
        )
        with ThreadPoolExecutor(4) as pool:
            statuses = [
                pool.submit(tasks.carry_out, engine, image, command, {}, **confined)
                for _ in range(12)
            ]
            time.sleep(after)
            tasks.stop()
            assert containers_of(engine, "starting") == []
        # Stopped before it had its handler, ended by it, or never started.
        ends = {0, KILLED_STATUS, STOPPED_STATUS}
        assert {status.result() for status in statuses} <= ends
        assert containers_of(engine, "starting") == []


def test_a_run_whose_child_is_killed_ends_its_containers(
    engine: Any, campaigns: Campaigns
) -> None:
    place = campaigns.place("childless")
    process = start(place, *campaigns.in_containers)
    wait_for(engine, "prepare", process)
    for child in _children(process.pid):
        os.kill(child, signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode, said
    assert containers_of(engine) == []


def test_what_a_killed_run_left_running_is_ended_by_the_next(
    engine: Any, campaigns: Campaigns
) -> None:
    place = campaigns.place("orphans")
    process = start(place, *campaigns.in_containers)
    orphan = wait_for(engine, "prepare", process)
    _kill_all_of(process.pid)
    process.communicate(timeout=PATIENCE_SECONDS)
    again = start(place, *campaigns.in_containers)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _alive(engine, orphan.id) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _alive(engine, orphan.id)
    finally:
        again.send_signal(signal.SIGTERM)
        again.communicate(timeout=PATIENCE_SECONDS)


def _alive(engine: Any, identity: str) -> bool:
    try:
        return bool(engine.containers.get(identity).status == "running")
    except docker.errors.NotFound:
        return False


def _kill_all_of(pid: int) -> None:
    """Kill the command and the process that it started, at once, so that neither can stop the
    containers."""
    for process in (*_children(pid), pid):
        os.kill(process, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_images_of_other_code_than_is_here_are_refused(
    campaigns: Campaigns, tmp_path: Path
) -> None:
    copy_sources(tmp_path)
    shutil.copy(PIPELINE, tmp_path)
    with (tmp_path / "components" / "decide" / "step.py").open("a") as changed:
        changed.write("CHANGED = 1\n")
    place = campaigns.place("refused")
    command = place.command("run", *campaigns.in_containers)
    command[1] = str(tmp_path / "pipeline.py")
    done = subprocess.run(
        command, cwd=place.folder, env=place.environment, capture_output=True, text=True
    )
    assert done.returncode == UserError.exit_code
    assert "was built from other code than is here; `make images`" in done.stderr
