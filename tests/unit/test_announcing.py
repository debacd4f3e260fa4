"""Platforms show the ledger: nothing twice, nothing half, and no failure of theirs undoes a release."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from components.contracts.recipe_file import parse_recipe
from components.errors import RatchetError, Transient, UserError
from components.publish.announcing import platform_api
from components.publish.announcing.platform_api import Access, PlatformApi, Refused
from components.retry import Patience
from tests.doubles.cutting_relay import Moment
from tests.doubles.mlflow_server import MlflowServer
from tests.doubles.model_registry import ModelRegistryServer
from tests.doubles.webhook import Manner, Webhook
from tests.unit.announced import (
    NAME,
    TOKEN,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Platform,
    release,
    rollback,
    serving,
    view_of,
)
from tests.unit.crafted import recipe_of

PLATFORMS: tuple[Platform, ...] = ("model-registry", "mlflow")
each_platform = pytest.mark.parametrize("platform", PLATFORMS)
FIRST, SECOND = release(1), release(2)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a server that is down on purpose."""
    monkeypatch.setattr(platform_api, "PATIENCE", Patience(give_up_seconds=0.0))


def test_the_registry_gets_model_version_and_artifact() -> None:
    with serving("model-registry") as server:
        entered = server.outlet().bring_up_to_date(view_of(FIRST, SECOND))
        assert isinstance(server.server, ModelRegistryServer)
        entries = server.server.entries
        assert set(server.relay.authorizations) == {f"Bearer {TOKEN}"}
    assert entered == [
        f"registered model {NAME}",
        f"version {FIRST.version}",
        f"artifact of {FIRST.version}",
        f"version {SECOND.version}",
        f"artifact of {SECOND.version}",
        f"{SECOND.version} is in force",
    ]
    [model] = entries["registered_models"]
    assert (
        model["license"],
        model["customProperties"]["ratchet.in_force"]["string_value"],
    ) == (
        "apache-2.0",
        SECOND.version,
    )
    properties = entries["model_versions"][0]["customProperties"]
    shown = {
        name: entry.get("string_value", entry.get("double_value"))
        for name, entry in properties.items()
    }
    assert shown == {
        "ratchet.run": "crafted-run-1",
        "ratchet.base": "hf://org/base",
        "ratchet.license": "apache-2.0",
        "ratchet.released_at": FIRST.at,
        "ratchet.recipe": FIRST.recipe,
        "ratchet.receipt": FIRST.publish,
        "ratchet.weights": FIRST.weights,
        "validation_accuracy": 0.5,
        "test_accuracy": 0.625,
        "vault_accuracy": 0.75,
        "vault_accuracy_low": 0.5,
        "vault_accuracy_high": 0.875,
        "gain_over_base": 0.5,
    }
    uris = [artifact["uri"] for artifact in entries["artifacts"]]
    assert uris == [f"s3://bucket/campaigns/{line.prefix}" for line in (FIRST, SECOND)]


def test_mlflow_gets_a_run_with_the_scores_of_each_round_a_version_and_the_alias() -> (
    None
):
    with serving("mlflow") as server:
        server.outlet().bring_up_to_date(view_of(FIRST))
        assert isinstance(server.server, MlflowServer)
        [mlflow_run] = server.server.runs
        [version] = server.server.versions
        aliases = server.server.models[NAME]["aliases"]
    assert mlflow_run["info"]["status"] == "FINISHED"
    assert version["run_id"] == mlflow_run["info"]["run_id"]
    assert version["source"] == f"s3://bucket/campaigns/{FIRST.prefix}"
    assert aliases == {"champion": "1"}
    points = {
        name: [point[1:] for point in curve]
        for name, curve in mlflow_run["metrics"].items()
    }
    assert points == {
        "rounds/validation_accuracy": [(0, 0.5)],
        "rounds/test_accuracy": [(0, 0.375)],
        "rounds/promoted": [(0, 1.0)],
        "rounds/tokens_trained": [(0, 0.0)],
        "rounds/accepted_share": [(0, 0.75)],
        "release/validation_accuracy": [(0, 0.5)],
        "release/test_accuracy": [(0, 0.625)],
        "release/vault_accuracy": [(0, 0.75)],
        "release/vault_accuracy_low": [(0, 0.5)],
        "release/vault_accuracy_high": [(0, 0.875)],
        "release/gain_over_base": [(0, 0.5)],
    }


def test_a_run_that_kubeflow_pipelines_began_for_the_task_is_used_and_not_ended() -> (
    None
):
    with serving("mlflow") as server:
        assert isinstance(server.server, MlflowServer)
        _, answer = server.server.post_runs_create({"experiment_id": "7", "tags": []})
        injected = answer["run"]
        outlet = server.outlet(MLFLOW_RUN_ID=injected["info"]["run_id"])
        outlet.bring_up_to_date(view_of(FIRST, SECOND))
        # The release before it was made by another task, and has a run of its own.
        assert [one["info"]["status"] for one in server.server.runs] == [
            "RUNNING",
            "FINISHED",
        ]
        run_ids = [version["run_id"] for version in server.server.versions]
    assert run_ids == ["run1", "run0"]
    assert "release/vault_accuracy" in injected["metrics"]


@each_platform
def test_said_again_nothing_is_entered(platform: Platform) -> None:
    with serving(platform) as server:
        server.outlet().bring_up_to_date(view_of(FIRST))
        before = repr(server.holds())
        assert server.outlet().bring_up_to_date(view_of(FIRST)) == []
        assert repr(server.holds()) == before
        server.relay.requests.clear()
        server.outlet().bring_up_to_date(view_of(FIRST))
        methods = {method for method, _ in server.relay.requests}
    assert methods == {"GET"}


@each_platform
@pytest.mark.parametrize("moment", ["before its effect", "after its effect"])
def test_a_crash_at_any_call_leaves_nothing_half_and_nothing_twice(
    platform: Platform, moment: Moment
) -> None:
    view = view_of(FIRST, SECOND)
    with serving(platform) as server:
        server.outlet().bring_up_to_date(view)
        undisturbed, num_requests = server.holds(), len(server.relay.requests)
    assert num_requests > 10
    for number in range(num_requests):
        with serving(platform) as server:
            server.relay.cut = (number, moment)
            with pytest.raises(Transient):
                server.outlet().bring_up_to_date(view)
            server.relay.cut = None
            server.outlet().bring_up_to_date(view)
            assert server.holds() == undisturbed, number
            assert server.outlet().bring_up_to_date(view) == []


@each_platform
def test_an_answer_that_was_lost_makes_no_second_entry(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of(FIRST)
    with serving(platform) as server:
        server.outlet().bring_up_to_date(view)
        undisturbed, num_requests = server.holds(), len(server.relay.requests)
    for number in range(num_requests):
        with serving(platform) as server:
            server.relay.cut = (number, "after its effect")

            def is_back(_: float, relay: object = server.relay) -> None:
                relay.cut = None  # type: ignore[attr-defined]

            monkeypatch.setattr(platform_api, "PATIENCE", Patience(sleep=is_back))
            server.outlet().bring_up_to_date(view)
            assert server.holds() == undisturbed, number


@each_platform
def test_two_announcements_at_once_agree(platform: Platform) -> None:
    view = view_of(FIRST, SECOND)
    with serving(platform) as server:
        with ThreadPoolExecutor(2) as threads:
            list(
                threads.map(lambda _: server.outlet().bring_up_to_date(view), range(2))
            )
        assert server.outlet().bring_up_to_date(view) == []
        if isinstance(server.server, ModelRegistryServer):
            assert [len(entries) for entries in server.server.entries.values()] == [
                1,
                2,
                2,
            ]


@each_platform
def test_a_rollback_is_shown_and_enters_no_version(platform: Platform) -> None:
    with serving(platform) as server:
        server.outlet().bring_up_to_date(view_of(FIRST, SECOND))
        back = view_of(FIRST, SECOND, rollback(3, FIRST))
        [entered] = server.outlet().bring_up_to_date(back)
    assert FIRST.version in entered


def test_what_people_noted_at_the_registered_model_stays() -> None:
    with serving("model-registry") as server:
        server.outlet().bring_up_to_date(view_of(FIRST))
        assert isinstance(server.server, ModelRegistryServer)
        [model] = server.server.entries["registered_models"]
        note = {"metadataType": "MetadataStringValue", "string_value": "ada"}
        model["customProperties"]["owner"] = note
        server.outlet().bring_up_to_date(view_of(FIRST, SECOND))
        assert model["customProperties"]["owner"] == note


@each_platform
def test_a_model_of_another_store_is_left_alone(platform: Platform) -> None:
    with serving(platform) as server:
        server.outlet().bring_up_to_date(view_of(FIRST, store="s3://another"))
        before = repr(server.holds())
        with pytest.raises(
            UserError, match=r"another store \(s3://another\).*publish.name"
        ):
            server.outlet().bring_up_to_date(view_of(FIRST))
        assert repr(server.holds()) == before


@each_platform
@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        "registry:8080",
        "ftp://registry",
        "file:///tmp/mlruns",
        "http://",
        "http://registry:port",
        "http://[::1",
        "http://registry/\x00",
        "sqlite:///mlflow.db",
    ],
)
def test_an_address_that_is_none_is_told_by_its_variable(
    platform: Platform, url: str
) -> None:
    with serving(platform) as server:
        variable = URL_VARIABLE[platform]
        with pytest.raises(UserError, match=f"{variable} is not set, or no address"):
            server.outlet(**{variable: url})


@pytest.mark.parametrize(
    ("address", "root"),
    [
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://user:pass@registry/mlflow/", "https://registry/mlflow"),
        ("http://registry.kubeflow:8080", "http://registry.kubeflow:8080"),
    ],
)
def test_an_address_is_taken_without_its_password(address: str, root: str) -> None:
    access = Access(title="MLflow", url_variable="U", url=address, key_variable="K")
    assert access.root == root
    assert ("pass" in repr(access.authorization)) is False
    assert bool(access.authorization) == ("user" in address)


class Answers:
    """A server that answers everything in one way."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        from tests.doubles.network import Answering
        from tests.doubles.served import Served

        self.requests: list[str] = []
        answers = self

        class Handler(Answering):
            def _serve(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answers.requests.append(self.path)
                self.answer(status, body, **headers)

            do_GET = do_POST = do_PATCH = _serve

        self.server = Served()
        self.server.serve(Handler)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (
            401,
            b'{"message": "who are you"}',
            UserError,
            "refuses the rights .401 who are you.: set K",
        ),
        (403, f"no: {TOKEN}".encode(), UserError, r"403 no: \*\*\*"),
        (302, b"", UserError, "answers 302: check U"),
        (200, b"<html>", UserError, "answers with no JSON object: check U"),
        (200, b"[1]", UserError, "answers with no JSON object: check U"),
        (200, b"\xff", UserError, "answers with no JSON object: check U"),
        (500, b"oops\x1b[31m", Transient, r"does not answer \(500 oops\[31m\)"),
        (503, b"", Transient, r"does not answer \(503\)"),
        (429, b"{}", Transient, "does not answer .429"),
        (501, b"", UserError, "answers 501: check U"),
        (404, b'{"error_code": "X", "message": "gone"}', Refused, "404 X gone"),
    ],
)
def test_an_answer_that_is_an_error_is_told_without_the_token(
    status: int, body: bytes, kind: type[Exception], said: str
) -> None:
    answers = Answers(status, body, Location="http://127.0.0.1:9/elsewhere")
    access = Access(
        title="it",
        url_variable="U",
        url=answers.server.endpoint,
        key_variable="K",
        token=TOKEN,
    )
    with pytest.raises(kind, match=said) as caught:
        PlatformApi(access).call("GET", "/entry")
    assert TOKEN not in str(caught.value)
    assert answers.requests == ["/entry"]
    assert TOKEN not in repr(access)
    answers.server.close()


@each_platform
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"id": 7}',
        b'{"id": "seven"}',
        b'{"id": "7", "customProperties": []}',
        b'{"id": "7", "customProperties": {"ratchet.store": "s3://bucket"}}',
        b'{"registered_model": []}',
        b'{"registered_model": {"tags": [{"value": "x"}]}}',
        b'{"registered_model": {}, "model_versions": [{"version": "latest"}]}',
        b'{"registered_model": {}, "model_versions": [{}]}',
        b'{"registered_model": null}',
    ],
)
def test_an_answer_of_another_server_is_told(platform: Platform, body: bytes) -> None:
    answers = Answers(200, body)
    with serving(platform) as server:
        outlet = server.outlet(**{URL_VARIABLE[platform]: answers.server.endpoint})
        with pytest.raises(RatchetError, match=f"check {URL_VARIABLE[platform]}"):
            outlet.bring_up_to_date(view_of(FIRST))
    answers.server.close()


@pytest.mark.parametrize("manner", ["hangs", "dribbles", "hangs up"])
def test_a_platform_that_does_not_answer_is_given_up_on(
    monkeypatch: pytest.MonkeyPatch, manner: Manner
) -> None:
    impatient = Patience(answer_seconds=0.4, give_up_seconds=0.0)
    monkeypatch.setattr(platform_api, "PATIENCE", impatient)
    with Webhook(manner) as server:
        access = Access(title="it", url_variable="U", url=server.url, key_variable="K")
        with pytest.raises(Transient, match=r"it http://.* does not answer"):
            PlatformApi(access).call("POST", "/entries", {})


@each_platform
@pytest.mark.parametrize("token", ["t\u00f6k\u20acn", "a\nb", "a\r\nHost: elsewhere"])
def test_a_token_that_no_header_may_hold_is_told_and_not_shown(
    platform: Platform, token: str
) -> None:
    with serving(platform) as server:
        outlet = server.outlet(**{TOKEN_VARIABLE[platform]: token})
        with pytest.raises(
            UserError, match="holds a character that HTTP does not allow"
        ) as told:
            outlet.bring_up_to_date(view_of(FIRST))
        assert token not in str(told.value)
        assert server.relay.requests == []


def test_a_recipe_without_the_section_is_the_recipe_that_it_was() -> None:
    assert "announce" not in recipe_of().model_dump(mode="json")
    assert recipe_of().digest == recipe_of(announce=None).digest
    told = recipe_of(announce={"to": ["mlflow", "model-registry", "mlflow"]})
    assert told.digest != recipe_of().digest
    assert parse_recipe(told.model_dump(mode="json")) == told
    with pytest.raises(UserError, match=r"announce\.to"):
        recipe_of(announce={"to": []})
    with pytest.raises(
        UserError, match=r"announce\.to\.0.*'model-registry' or 'mlflow'"
    ):
        recipe_of(announce={"to": ["sagemaker"]})
