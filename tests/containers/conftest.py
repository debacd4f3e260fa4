"""A Docker engine, the images in it, and a network with nothing but a real S3 server."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import docker
from components.cli.local.docker_runner import RUN_LABEL
from components.contracts.recipe_file import set_key
from tests.containers.island import BUCKET, Island, open_island
from tests.pipeline.campaigns import SPLITS, Place, recipe, write_data


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the engine. Without one these tests are left out, unless RATCHET_NEED_ENGINE says
    they must run."""
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        if os.environ.get("RATCHET_NEED_ENGINE"):
            raise
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def island(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Island]:
    """The network of all these tests."""
    with open_island(engine, tmp_path_factory.mktemp("island")) as opened:
        yield opened


@pytest.fixture(scope="session")
def document(
    island: Island, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A small recipe whose data lie in the bucket and whose trainings are of two processes, with
    ZeRO 2."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    for split in SPLITS:
        island.client().upload_file(
            str(folder / f"{split}.jsonl"), BUCKET, f"data/{split}.jsonl"
        )
    made = copy.deepcopy(recipe(folder))
    made["data"]["sources"] = [
        {"uri": f"s3://{BUCKET}/data/{split}.jsonl", "split": split} for split in SPLITS
    ]
    for key, value in {
        "train.zero": 2,
        "train.num_processes": 2,
        "decide.max_rounds": 1,
    }.items():
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
        return Place(
            self.folders.mktemp(name), self.document, uri, self.island.environment
        )

    @property
    def in_containers(self) -> tuple[str, ...]:
        """Arguments of `run`, of one round."""
        return (
            "--rounds",
            "1",
            "--runner",
            "docker",
            "--network",
            self.island.network,
            "--memory",
            "2g",
        )


@pytest.fixture(scope="session")
def campaigns(
    island: Island, document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Campaigns:
    """The campaigns of these tests."""
    return Campaigns(island, document, tmp_path_factory)


@pytest.fixture(scope="session")
def on_the_laptop(campaigns: Campaigns) -> dict[str, bytes]:
    """Receipts of a run by processes of this machine: what runs in containers are compared with."""
    run = campaigns.place("laptop").run("--rounds", "1")
    assert run.told, run.said
    return campaigns.island.receipts("laptop")


def containers_of(engine: Any, run_id: str = "") -> list[Any]:
    """Running containers of steps."""
    found = engine.containers.list(
        # One may be removed between the list and the look at it.
        ignore_removed=True,
        filters={"label": f"{RUN_LABEL}={run_id}" if run_id else RUN_LABEL},
    )
    return list(found)


def step_of(container: Any) -> str:
    """The step that a container carries out."""
    command = container.attrs["Config"]["Cmd"]
    return str(command[command.index("--function_to_execute") + 1])


def start(place: Place, *arguments: str) -> subprocess.Popen[str]:
    """Begin `run` and do not wait."""
    return subprocess.Popen(
        place.command("run", "--json", *arguments),
        cwd=place.folder,
        env=place.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def log_of(folder: Path) -> str:
    """The log of the last run of a working folder."""
    logs = sorted(
        (folder / ".ratchet" / "logs").glob("*/log.txt"),
        key=lambda path: path.stat().st_mtime,
    )
    return logs[-1].read_text(encoding="utf-8", errors="replace") if logs else ""
