"""A release of a real campaign is announced, and stands whether that succeeds or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from components.cli.releases import announce_name, approve_run, platforms_of, roll_back
from components.errors import UserError
from components.publish.announcing import platform_api
from components.publish.step import PublishInputs, run
from components.retry import Patience
from components.runtime import ledger
from components.runtime.context import Context
from tests.doubles.model_registry import ModelRegistryServer
from tests.unit.announced import serving
from tests.unit.measuring import model
from tests.unit.releasing import NAME, campaign, state_of, taught_by

pytestmark = pytest.mark.process
ANNOUNCED = {"announce": {"to": ["model-registry"]}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a server that is down on purpose."""
    monkeypatch.setattr(platform_api, "PATIENCE", Patience(give_up_seconds=0.0))


def with_variables(context: Context, environment: Mapping[str, str]) -> Context:
    return dataclasses.replace(context, environment=environment)


def in_force(server: ModelRegistryServer) -> str:
    """The version that the registry says is in force."""
    [entry] = server.entries["registered_models"]
    text: str = entry["customProperties"]["ratchet.in_force"]["string_value"]
    return text


def test_a_release_stands_while_the_platform_is_away_and_is_entered_by_the_next_start(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    base, champion = model(context, 0), model(context, 1)
    start = campaign(context, base, taught_by(context, [champion]), **ANNOUNCED)
    state = state_of(context, start, champion)
    away = with_variables(context, {"MODEL_REGISTRY_URL": "http://127.0.0.1:1"})
    receipt = run(PublishInputs(state), away)
    [line] = ledger.read_lines(context, NAME)
    _, said = capfd.readouterr()
    assert (
        "model-registry: not up to date: the model registry http://127.0.0.1:1 does not"
        in said
    )
    assert (
        f"the release stands: `announce {NAME} --store {context.store.root}` enters"
        in said
    )
    with serving("model-registry") as server:
        assert isinstance(server.server, ModelRegistryServer)
        assert (
            run(PublishInputs(state), with_variables(context, server.environment))
            == receipt
        )
        assert ledger.read_lines(context, NAME) == [line]
        assert in_force(server.server) == line.version
        [version] = server.server.entries["model_versions"]
        [artifact] = server.server.entries["artifacts"]
    assert version["customProperties"]["ratchet.run"]["string_value"] == line.run_id
    assert version["customProperties"]["vault_accuracy"]["double_value"] == line.score
    assert artifact["uri"] == f"{context.store.root}/{line.prefix}"
    _, said = capfd.readouterr()
    assert f"artifact of {line.version}" in said


def test_verbs_that_change_the_ledger_announce_it(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    approved = {"publish": {"name": NAME, "approval": "required"}, **ANNOUNCED}
    with serving("model-registry") as server:
        assert isinstance(server.server, ModelRegistryServer)
        told = with_variables(context, server.environment)
        state = state_of(
            context,
            campaign(context, base, taught_by(context, [first]), **approved),
            first,
        )
        run(PublishInputs(state), told)
        # Nothing is released yet, so nothing is shown.
        assert server.relay.requests == []
        line = approve_run(told, "crafted-run")
        assert in_force(server.server) == line.version
        late = campaign(context, base, taught_by(context, [second]), **ANNOUNCED)
        run(PublishInputs(state_of(context, late, second)), told)
        newest = ledger.read_lines(context, NAME)[-1]
        assert (newest.number, in_force(server.server)) == (2, newest.version)
        roll_back(told, NAME, "1")
        assert in_force(server.server) == line.version
        [announced] = announce_name(told, NAME)
        assert (str(announced), announced.exit_code) == (
            "model-registry: up to date",
            0,
        )
    [announced] = announce_name(told, NAME)
    assert announced.exit_code == 75
    [announced] = announce_name(context, NAME, platforms_of(["mlflow", "mlflow"]))
    assert (announced.exit_code, announced.entered) == (2, ())
    assert "MLFLOW_TRACKING_URI is not set" in announced.problem
    roll_back(context, NAME, "2")
    _, said = capfd.readouterr()
    assert "MODEL_REGISTRY_URL is not set" in said
    assert ledger.read_lines(context, NAME)[-1].number == 4


def test_a_release_without_the_section_is_announced_nowhere(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    start = campaign(context, base, taught_by(context, [champion]))
    with serving("model-registry") as server:
        told = with_variables(context, server.environment)
        run(PublishInputs(state_of(context, start, champion)), told)
        assert server.relay.requests == []
        with pytest.raises(
            UserError, match="--to wandb: no such platform; there are model-reg"
        ):
            platforms_of(["mlflow", "wandb"])
        with pytest.raises(
            UserError, match=r"names no platform \(announce.to\); give one by --to"
        ):
            announce_name(told, NAME)
        [announced] = announce_name(told, NAME, ("model-registry",))
        assert len(announced.entered) == 4
