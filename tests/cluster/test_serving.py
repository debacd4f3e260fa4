"""`serve` changes its own fields of a real InferenceService, and no others (without KServe's controller)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.cli.doctor.api_server import ApiServer
from components.cli.serving import MANAGER, RELEASE, Served, serve
from components.errors import UserError
from components.runtime import ledger
from components.runtime.context import Context
from components.storage.store import Store
from tests.cluster.server import Server
from tests.manifests.rendering import Json, composed
from tests.unit.announced import NAME, release, rollback, with_releases

FIRST, SECOND = release(1), release(2)
KIND = "inferenceservices.serving.kserve.io"


@pytest.fixture(scope="module")
def namespace(server: Server, new_namespace: Callable[[str], str]) -> str:
    """A namespace with the component `kserve`."""
    name = new_namespace("ratchet-serving")
    server.apply_all(
        composed("object-store", "static-credentials", "kserve", namespace=name)
    )
    return name


@pytest.fixture
def released(s3_store: Store, make_test_context: Callable[[Store], Context]) -> Context:
    """A bucket with two releases, the second in force."""
    return with_releases(make_test_context(s3_store), FIRST, SECOND)


def test_a_release_is_served_with_all_other_fields_as_they_were(
    server: Server, api: ApiServer, namespace: str, released: Context
) -> None:
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/ratchet"

    def service() -> Json:
        return server.request("GET", path).document

    before = service()
    served = serve(released, api, NAME, namespace=namespace, service="ratchet")
    after = service()
    assert after["spec"]["predictor"]["model"]["storageUri"] == served.uri
    assert (
        after["metadata"]["annotations"]
        .pop(RELEASE)
        .startswith(f"{NAME} {SECOND.version}")
    )
    own_fields = [
        entry
        for entry in after["metadata"]["managedFields"]
        if entry["manager"] == MANAGER
    ]
    assert [entry["operation"] for entry in own_fields] == ["Apply"]
    for document in (before, after):
        document["spec"]["predictor"]["model"].pop("storageUri")
        for name in ("managedFields", "resourceVersion", "generation"):
            document["metadata"].pop(name)
    assert after == before
    again = serve(released, api, NAME, namespace=namespace, service="ratchet")
    assert again.changed is False
    assert ledger.append_line(released, rollback(3, FIRST))
    back = serve(released, api, NAME, namespace=namespace, service="ratchet")
    assert service()["spec"]["predictor"]["model"]["storageUri"] == back.uri
    assert back.version == FIRST.version


def test_a_share_is_given_and_taken_back(
    server: Server, api: ApiServer, namespace: str, released: Context
) -> None:
    def serving(canary_percent: int | None = None) -> Served:
        return serve(
            released,
            api,
            NAME,
            namespace=namespace,
            service="ratchet",
            canary_percent=canary_percent,
        )

    # The component deploys without Knative.
    with pytest.raises(UserError, match="deployment mode RawDeployment"):
        serving(10)
    annotation = "serving.kserve.io/deploymentMode"
    server.kubectl("-n", namespace, "annotate", KIND, "ratchet", f"{annotation}-")
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/ratchet"

    def share() -> object:
        document = server.request("GET", path).document
        return document["spec"]["predictor"].get("canaryTrafficPercent")

    assert serving(10).changed
    assert share() == 10
    assert serving().changed
    assert share() is None


def test_a_service_that_is_not_there_is_not_made(
    server: Server, api: ApiServer, namespace: str, released: Context
) -> None:
    with pytest.raises(UserError, match="has no InferenceService other"):
        serve(released, api, NAME, namespace=namespace, service="other")
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/other"
    assert server.request("GET", path).status == 404
