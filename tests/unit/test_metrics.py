"""Figures of a run reach a collector's folder or a Pushgateway, and no failure of theirs ends it."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components import prometheus
from components.decide.round_metrics import round_gauges
from components.gauges import Gauge, Sample
from components.prometheus import export_metrics, exposition
from components.report.run_metrics import run_gauges
from components.report.views import RunView
from components.runtime.context import Context
from tests.doubles.pushgateway import Pushgateway, parsed
from tests.doubles.webhook import Manner, Webhook
from tests.unit.exporting import GAUGE, PASSWORD, export

ROOT = Path(__file__).resolve().parents[2]
OTHER = Gauge("ratchet_run_tokens", "Tokens.", (Sample(5.0),))
NO_ADDRESS = "it is no address such as http://host:9091"


@pytest.fixture
def gateway() -> Iterator[Pushgateway]:
    server = Pushgateway()
    yield server
    server.close()


def test_nothing_is_measured_or_written_without_a_variable(context: Context) -> None:
    def measured() -> list[Gauge]:
        raise AssertionError("nobody asked")

    export_metrics(context, "demo", "demo-1", "decide", measured)


def test_a_folder_gets_a_file_for_each_step_that_a_collector_can_read(
    context: Context, tmp_path: Path
) -> None:
    folder = tmp_path / "metrics"
    for source, gauge in (("decide", OTHER), ("decide", GAUGE), ("report", OTHER)):
        export(context, source, gauge, RATCHET_METRICS_FOLDER=str(folder))
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [
        "ratchet-demo-0123456789-decide.prom",
        "ratchet-demo-0123456789-report.prom",
    ]
    labels = (("campaign", "demo"), ("run", "demo-0123456789"), ("step", "train"))
    assert parsed(files[0].read_text()) == {
        "ratchet_round": {("ratchet_round", labels): 3.0}
    }
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o644


def test_a_gateway_gets_one_group_for_a_run_to_which_steps_add(
    context: Context, gateway: Pushgateway
) -> None:
    address = gateway.endpoint.replace("://", f"://ada:{PASSWORD}@") + "/"
    export(context, "decide", GAUGE, PROMETHEUS_PUSHGATEWAY_URL=address)
    export(context, "report", OTHER, PROMETHEUS_PUSHGATEWAY_URL=address)
    assert gateway.groups == {
        "/metrics/job/ratchet/campaign/demo/run/demo-0123456789": {
            "ratchet_round": {("ratchet_round", (("step", "train"),)): 3.0},
            "ratchet_run_tokens": {("ratchet_run_tokens", ()): 5.0},
        }
    }
    assert all(sent.startswith("Basic ") for sent in gateway.authorizations)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        'a "quoted" word',
        "back\\slash",
        "two\nlines",
        "ünïcode",
        "a,b=c}",
        "",
        "\\n",
    ],
)
def test_any_text_may_be_a_label(text: str) -> None:
    gauge = Gauge("ratchet_round", "M.", (Sample(1.5, {"status": text}),))
    shown = parsed(exposition([gauge], {"run": text}))
    labels = (("run", text), ("status", text))
    assert shown == {"ratchet_round": {("ratchet_round", labels): 1.5}}


@pytest.mark.parametrize(
    "value", [0.0, -1.5, 1e300, 1e-9, math.inf, -math.inf, math.nan, 7]
)
def test_any_number_may_be_a_value(value: float) -> None:
    shown = parsed(exposition([Gauge("ratchet_round", "M.", (Sample(value),))], {}))
    assert repr(shown["ratchet_round"]["ratchet_round", ()]) == repr(float(value))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("gateway:9091", NO_ADDRESS),
        ("ftp://gateway", NO_ADDRESS),
        (f"http://ada:{PASSWORD}@127.0.0.1:1", "ConnectionRefusedError"),
        (f"http://ada:{PASSWORD}@127.0.0.1:port", NO_ADDRESS),
        (f"http://[::1:{PASSWORD}", NO_ADDRESS),
    ],
)
def test_an_address_that_does_not_answer_costs_a_line_without_its_password(
    context: Context, capfd: pytest.CaptureFixture[str], address: str, problem: str
) -> None:
    export(context, PROMETHEUS_PUSHGATEWAY_URL=address)
    _, said = capfd.readouterr()
    assert f"did not get to PROMETHEUS_PUSHGATEWAY_URL: {problem}" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("status", [302, 400, 401, 500])
def test_a_gateway_that_refuses_costs_a_line(
    context: Context, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    gateway = Pushgateway(status)
    export(context, PROMETHEUS_PUSHGATEWAY_URL=gateway.endpoint)
    gateway.close()
    assert f"it answered {status}" in capfd.readouterr().err
    # A redirection is an answer: nobody is sent elsewhere.
    assert len(gateway.authorizations) == 1


@pytest.mark.parametrize("manner", ["hangs", "dribbles", "hangs up"])
def test_a_gateway_that_does_not_answer_is_given_up_on(
    context: Context,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    manner: Manner,
) -> None:
    monkeypatch.setattr(prometheus, "PATIENCE_SECONDS", 0.4)
    with Webhook(manner) as server:
        export(context, PROMETHEUS_PUSHGATEWAY_URL=server.url)
    assert "did not get to PROMETHEUS_PUSHGATEWAY_URL" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_costs_a_line(
    context: Context, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    export(context, RATCHET_METRICS_FOLDER=str(tmp_path / "file" / "metrics"))
    assert "did not get to RATCHET_METRICS_FOLDER" in capfd.readouterr().err


def test_a_run_has_figures_of_its_rounds_and_of_its_steps(view: RunView) -> None:
    assert view.state is not None
    rounds = parsed(exposition(round_gauges(view.state), {}))
    record = view.state.history[-1]
    assert rounds["ratchet_round"] == {("ratchet_round", ()): record.round}
    labels = (("split", "test"), ("metric", "accuracy"))
    assert (
        rounds["ratchet_candidate_score"]["ratchet_candidate_score", labels]
        == record.test_score
    )
    assert "ratchet_champion_score" in rounds
    steps = parsed(exposition(run_gauges(view), {}))
    assert steps["ratchet_run_status"] == {
        ("ratchet_run_status", (("status", view.status),)): 1.0
    }
    seconds = steps["ratchet_run_step_seconds"]
    assert sum(seconds.values()) == pytest.approx(view.totals.task_seconds)
    assert not set(rounds) & set(steps)


def test_alerts_name_metrics_that_exist(view: RunView) -> None:
    assert view.state is not None
    gauges = [*round_gauges(view.state), *run_gauges(view)]
    names = {gauge.name for gauge in gauges}
    folder = ROOT / "manifests" / "components" / "prometheus"
    expressions = [
        rule["expr"]
        for document in yaml.safe_load_all((folder / "monitoring.yaml").read_text())
        if document["kind"] == "PrometheusRule"
        for group in document["spec"]["groups"]
        for rule in group["rules"]
    ]
    named = set(re.findall(r"\bratchet_\w+", " ".join(expressions)))
    assert named
    assert named <= names
    # A gauge is documented where a person looks for it.
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert {name for name in names if f"`{name}`" not in page} == set()
