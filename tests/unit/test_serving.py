"""`serve` has KServe serve the release in force, and changes no field that is not its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.cli.doctor.api_server import ApiServer
from components.cli.serving import Served, serve
from components.errors import Corrupt, RatchetError, UserError
from components.runtime import ledger
from components.runtime.context import Context
from components.storage.store import Store
from tests.doubles.kserve_api import KserveApi
from tests.doubles.kubernetes_api import KubernetesApi
from tests.unit.announced import NAME, release, rollback, with_releases

FIRST, SECOND = release(1), release(2)
SERVICE = "ml/ratchet"


@pytest.fixture
def kserve() -> Iterator[KserveApi]:
    """A stand-in of an API server whose namespace `ml` serves nothing yet."""
    server = KserveApi()
    predictor = {
        "minReplicas": 1,
        "model": {"storageUri": "s3://ratchet/models/NAME/VERSION/"},
    }
    server.services[SERVICE] = {
        "metadata": {"name": "ratchet", "annotations": {"team": "ml"}},
        "spec": {"predictor": predictor},
    }
    yield server
    server.close()


@pytest.fixture
def released(s3_store: Store, make_test_context: Callable[[Store], Context]) -> Context:
    """A bucket with two releases, the second in force."""
    return with_releases(make_test_context(s3_store), FIRST, SECOND)


@pytest.fixture
def server(kserve: KserveApi, api: KubernetesApi, tmp_path: Path) -> ApiServer:
    """The client of `serve`."""
    file = api.kubeconfig(tmp_path / "kubeconfig", kserve.endpoint)
    return ApiServer.from_environment({"KUBECONFIG": str(file)})


def serving(context: Context, server: ApiServer, **options: Any) -> Served:
    """What `serve` says."""
    return serve(
        context, server, NAME, **{"namespace": "ml", "service": "ratchet", **options}
    )


def predictor_of(kserve: KserveApi) -> dict[str, Any]:
    predictor: dict[str, Any] = kserve.services[SERVICE]["spec"]["predictor"]
    return predictor


def test_the_release_in_force_is_served_and_a_rollback_follows(
    released: Context, server: ApiServer, kserve: KserveApi
) -> None:
    served = serving(released, server)
    assert (served.changed, served.version, served.line) == (True, SECOND.version, 2)
    assert served.uri == f"{released.store.root}/{SECOND.prefix}"
    assert predictor_of(kserve) == {
        "minReplicas": 1,
        "model": {"storageUri": served.uri},
    }
    assert kserve.services[SERVICE]["metadata"]["annotations"] == {
        "team": "ml",
        "ratchet.dev/release": f"{NAME} {SECOND.version} (line 2)",
    }
    # Said again, nothing is sent.
    assert serving(released, server).changed is False
    assert kserve.requests == ["GET", "PATCH", "GET"]
    assert ledger.append_line(released, rollback(3, FIRST))
    assert serving(released, server).version == FIRST.version
    assert predictor_of(kserve)["model"]["storageUri"].endswith(FIRST.prefix)


def test_a_canary_gets_its_share_and_then_all(
    released: Context, server: ApiServer, kserve: KserveApi
) -> None:
    assert serving(released, server, canary_percent=10).canary_percent == 10
    assert predictor_of(kserve)["canaryTrafficPercent"] == 10
    assert serving(released, server, canary_percent=10).changed is False
    assert serving(released, server, canary_percent=50).changed is True
    assert serving(released, server).changed is True
    assert "canaryTrafficPercent" not in predictor_of(kserve)


@pytest.mark.parametrize("mode", ["RawDeployment", "Standard"])
def test_a_share_that_kserve_would_ignore_is_refused(
    released: Context, server: ApiServer, kserve: KserveApi, mode: str
) -> None:
    annotations = kserve.services[SERVICE]["metadata"]["annotations"]
    annotations["serving.kserve.io/deploymentMode"] = mode
    with pytest.raises(
        UserError, match=f"deployment mode {mode}.*leave --canary-percent out"
    ):
        serving(released, server, canary_percent=10)
    assert serving(released, server).changed


def test_what_is_not_there_is_told_and_nothing_is_made(
    released: Context, server: ApiServer, kserve: KserveApi
) -> None:
    with pytest.raises(
        UserError, match="ml has no InferenceService other: apply an overlay"
    ):
        serving(released, server, service="other")
    with pytest.raises(UserError, match="nothing was released under the name 'other'"):
        serve(released, server, "other", namespace="ml", service="ratchet")
    kserve.denied = {"PATCH"}
    with pytest.raises(UserError, match=r"refuses .*needs the rights get and patch"):
        serving(released, server)
    kserve.denied = {"GET"}
    with pytest.raises(
        UserError, match="no permission to get inferenceservices in namespace ml"
    ):
        serving(released, server)
    kserve.installed = False
    with pytest.raises(UserError, match="KServe is not installed there"):
        serving(released, server)
    assert kserve.applied == {}


def test_a_release_whose_file_is_gone_is_not_served(
    released: Context, server: ApiServer, kserve: KserveApi
) -> None:
    released.store.delete(f"{SECOND.prefix}model.safetensors")
    with pytest.raises(Corrupt, match=r"model.safetensors is gone"):
        serving(released, server)
    assert kserve.requests == []


def test_a_folder_of_this_machine_is_no_place_for_kserve(
    context: Context, server: ApiServer, kserve: KserveApi
) -> None:
    assert ledger.append_line(context, FIRST)
    with pytest.raises(UserError, match="KServe cannot fetch a model from file:"):
        serving(context, server)
    assert kserve.requests == []


def test_a_server_that_is_away_is_told(
    released: Context, api: KubernetesApi, tmp_path: Path
) -> None:
    file = api.kubeconfig(tmp_path / "away", "http://127.0.0.1:9")
    away = ApiServer.from_environment({"KUBECONFIG": str(file)})
    away.patience = dataclasses.replace(away.patience, give_up_seconds=0.0)
    with pytest.raises(RatchetError, match="cannot be reached"):
        serving(released, away)


def test_without_a_cluster_the_advice_is_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client looks into the home folder of the process.
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=r"no cluster can be spoken to .*; set KUBECONFIG to"
    ):
        ApiServer.from_environment({})
    missing = {"KUBECONFIG": str(tmp_path / "none")}
    with pytest.raises(
        UserError, match=r"no cluster can be spoken to .*; correct KUBECONFIG"
    ):
        ApiServer.from_environment(missing)
