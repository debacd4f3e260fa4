"""Real servers take what the stand-ins take: nothing half and nothing twice after a crash at any call.

RATCHET_TEST_MODEL_REGISTRY and RATCHET_TEST_MLFLOW name addresses of servers that may be filled at will:
`model-registry proxy` of kubeflow/model-registry over an empty database, and `mlflow server`. Without
them these tests are left out.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from components.errors import Transient
from components.publish.announcing import mlflow, model_registry, platform_api
from components.publish.announcing.announce import Outlet
from components.publish.announcing.platform_api import Access, PlatformApi
from components.retry import Patience
from tests.doubles.cutting_relay import CuttingRelay, Moment
from tests.unit.announced import URL_VARIABLE, Platform, release, rollback, view_of

ADDRESSES: dict[Platform, str] = {
    "model-registry": os.environ.get("RATCHET_TEST_MODEL_REGISTRY", ""),
    "mlflow": os.environ.get("RATCHET_TEST_MLFLOW", ""),
}
FIRST, SECOND = release(1), release(2)


@pytest.fixture(params=list(ADDRESSES))
def platform(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Platform:
    """A platform of which a real server is there."""
    asked: Platform = request.param
    if not ADDRESSES[asked]:
        pytest.skip(f"no address of a server of {asked}")
    monkeypatch.setattr(platform_api, "PATIENCE", Patience(give_up_seconds=0.0))
    return asked


@pytest.fixture
def relay(platform: Platform) -> Iterator[CuttingRelay]:
    """A relay before the server."""
    relay = CuttingRelay(ADDRESSES[platform])
    yield relay
    relay.close()


def outlet(platform: Platform, relay: CuttingRelay) -> Outlet:
    environment = {URL_VARIABLE[platform]: relay.endpoint}
    if platform == "model-registry":
        return model_registry.ModelRegistry(environment)
    return mlflow.Mlflow(environment)


def holds(platform: Platform, name: str) -> list[Any]:
    """What the server has of a name: versions, and what hangs on each; no ids and no times."""
    access = Access(
        title="it", url_variable="U", url=ADDRESSES[platform], key_variable="K"
    )
    api = PlatformApi(access)
    if platform == "model-registry":
        path = model_registry.PATH
        model = api.call("GET", f"{path}/registered_model?name={name}")
        response = api.call("GET", f"{path}/registered_models/{model['id']}/versions")
        versions = response["items"]
        found = [model["customProperties"], model["license"]]
        for version in sorted(versions, key=lambda version: str(version["name"])):
            artifacts = api.call(
                "GET", f"{path}/model_versions/{version['id']}/artifacts"
            )
            uris = [artifact["uri"] for artifact in artifacts["items"]]
            found.append((version["name"], version["customProperties"], uris))
        return found
    path = mlflow.PATH
    answer = api.call("GET", f"{path}/model-versions/search?filter=name%3D%27{name}%27")
    alias = api.call(
        "GET", f"{path}/registered-models/alias?name={name}&alias={mlflow.ALIAS}"
    )
    found = [alias["model_version"]["tags"]]
    for version in sorted(answer["model_versions"], key=lambda one: str(one["source"])):
        response = api.call("GET", f"{path}/runs/get?run_id={version['run_id']}")
        mlflow_run = response["run"]
        metrics = sorted(
            (metric["key"], metric["value"], metric["step"])
            for metric in mlflow_run["data"]["metrics"]
        )
        curve = f"metric_key=rounds%2Fpromoted&run_id={version['run_id']}"
        history = api.call("GET", f"{path}/metrics/get-history?{curve}")["metrics"]
        status = mlflow_run["info"]["status"]
        found.append(
            (version["source"], version["tags"], status, metrics, len(history))
        )
    return found


def new_name() -> str:
    """A name that the server has never heard of."""
    return f"crafted-{uuid.uuid4().hex[:12]}"


def test_a_server_shows_the_ledger_and_a_rollback(
    platform: Platform, relay: CuttingRelay
) -> None:
    name = new_name()
    entered = outlet(platform, relay).bring_up_to_date(
        view_of(FIRST, SECOND, name=name)
    )
    assert len(entered) == {"model-registry": 6, "mlflow": 4}[platform]
    assert len(holds(platform, name)) == {"model-registry": 4, "mlflow": 3}[platform]
    assert (
        outlet(platform, relay).bring_up_to_date(view_of(FIRST, SECOND, name=name))
        == []
    )
    back = view_of(FIRST, SECOND, rollback(3, FIRST), name=name)
    [moved] = outlet(platform, relay).bring_up_to_date(back)
    assert FIRST.version in moved
    assert FIRST.version in str(holds(platform, name)[0])


@pytest.mark.parametrize("moment", ["before its effect", "after its effect"])
def test_a_crash_at_any_call_leaves_nothing_half_and_nothing_twice(
    platform: Platform, relay: CuttingRelay, moment: Moment
) -> None:
    def lines(name: str) -> list[Any]:
        # MLflow finds a run by the digest of its release, which no other name has.
        digests = [f"{name}-{number}" for number in (1, 2)]
        return [
            release(number, publish_digest=digests[number - 1]) for number in (1, 2)
        ]

    # The first of all makes the experiment too.
    first_name = new_name()
    outlet(platform, relay).bring_up_to_date(
        view_of(*lines(first_name), name=first_name)
    )
    undisturbed_name = new_name()
    relay.requests.clear()
    outlet(platform, relay).bring_up_to_date(
        view_of(*lines(undisturbed_name), name=undisturbed_name)
    )
    undisturbed, num_requests = holds(platform, undisturbed_name), len(relay.requests)
    assert num_requests > 10
    for number in range(num_requests):
        name = new_name()
        view = view_of(*lines(name), name=name)
        relay.requests.clear()
        relay.cut = (number, moment)
        with pytest.raises(Transient):
            outlet(platform, relay).bring_up_to_date(view)
        relay.cut = None
        outlet(platform, relay).bring_up_to_date(view)
        assert holds(platform, name) == undisturbed, number
        assert outlet(platform, relay).bring_up_to_date(view) == []
