"""The whole campaign in real containers, confined as on a cluster, against a real S3 server."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from components.cli.local.docker_runner import Containers, settings
from components.runtime.supervisor import supervised
from tests.containers.conftest import Campaigns, containers_of, log_of
from tests.containers.island import BUCKET, FAMILIES, KEY, OTHER_BUCKET, SECRET, Island
from tests.pipeline.campaigns import round_tasks


def inside(engine: Any, island: Island, image: str, *command: str) -> str:
    """What a command prints in a container confined as a step's."""
    confined = settings("inside", Containers("1g", island.network), island.environment)
    return str(
        engine.containers.run(image, list(command), remove=True, **confined).decode()
    )


IMAGES = Path(__file__).resolve().parents[2] / "docker" / "images.toml"


def torch_build(engine: Any, image: Any) -> str:
    """Return which torch an image holds: a section of `largest_mb` in images.toml."""
    program = "import importlib.metadata as m; print(*[d.version for d in m.distributions(name='torch')])"
    version = engine.containers.run(
        image.id, ["python", "-c", program], remove=True
    ).decode()
    if not version.strip():
        return "without-torch"
    return "cpu-wheel" if "+cpu" in version else "index-wheel"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_small_and_checks_itself_with_nothing_but_a_temporary_folder(
    engine: Any, island: Island, family: str
) -> None:
    image = engine.images.get(f"ratchet/{family}:dev")
    largest = tomllib.loads(IMAGES.read_text())["largest_mb"][
        torch_build(engine, image)
    ]
    assert image.attrs["Size"] < largest[family] * 1_000_000
    assert image.attrs["Config"]["User"] == "10001:10001"
    said = inside(
        engine,
        island,
        image.id,
        "/opt/venv/bin/python",
        "/opt/ratchet/selfcheck.py",
        family,
    )
    assert "all checks passed" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_that_fails_for_now_is_tried_again_in_its_container(
    engine: Any, island: Island, family: str
) -> None:
    fails_once = "test -e /tmp/tried || { touch /tmp/tried; exit 75; }; echo done"
    supervisor = supervised(["sh", "-ec", fails_once], hours=1)
    (line,) = inside(engine, island, f"ratchet/{family}:dev", *supervisor).splitlines()
    # What a step says in a container is a JSON object a line.
    assert json.loads(line)["message"] == "done"


def test_images_share_the_layers_that_they_have_in_common(engine: Any) -> None:
    layers = {
        family: set(
            engine.images.get(f"ratchet/{family}:dev").attrs["RootFS"]["Layers"]
        )
        for family in FAMILIES
    }
    assert (
        len(layers["train"] & layers["generate"])
        > len(layers["train"] & layers["cpu"])
        >= 3
    )


def test_a_step_reaches_the_store_and_nothing_else(engine: Any, island: Island) -> None:
    host, port = island.endpoint.removeprefix("http://").split(":")
    reach = (
        "import socket, sys\n"
        "for place in sys.argv[1:]:\n"
        "    host, port = place.split(':')\n"
        "    try: socket.create_connection((host, int(port)), 2).close(); print('reached')\n"
        "    except OSError as error: print(type(error).__name__)\n"
    )
    told = inside(
        engine,
        island,
        "ratchet/cpu:dev",
        "python",
        "-c",
        reach,
        f"{host}:{port}",
        "192.0.2.1:80",
    )
    assert told.split()[0] == "reached"
    assert told.split()[1] != "reached"


def test_its_credentials_are_for_one_bucket(island: Island) -> None:
    scoped = island.client(KEY, SECRET)
    scoped.put_object(Bucket=BUCKET, Key="own", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        scoped.put_object(Bucket=OTHER_BUCKET, Key="foreign", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        scoped.get_object(Bucket=OTHER_BUCKET, Key="readiness")


def test_a_campaign_in_containers_has_the_receipts_of_one_on_the_laptop(
    engine: Any, campaigns: Campaigns, on_the_laptop: dict[str, bytes]
) -> None:
    place = campaigns.place("containers")
    run = place.run(*campaigns.in_containers)
    assert run.told, run.said + log_of(place.folder)
    base = ["prepare", "evaluate-base", "first-champion"]
    executed = [*base, *round_tasks(0), *round_tasks(1), "publish", "report"]
    assert run.executed == executed, log_of(place.folder)
    receipts = campaigns.island.receipts("containers")
    assert receipts == on_the_laptop
    assert json.loads(
        next(data for ref, data in receipts.items() if ref.startswith("train/"))
    )["summary"]
    assert SECRET not in run.said + json.dumps(run.told) + log_of(place.folder)
    assert containers_of(engine) == []
