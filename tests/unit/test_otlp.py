"""A collector of OpenTelemetry gets a run's figures and one trace, and no failure of it ends a run."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from components import otlp
from components.gauges import Gauge, Sample
from components.prometheus import export_metrics
from components.report.run_metrics import run_gauges
from components.report.step import ReportInputs, run
from components.report.views import RunView
from components.run_trace import spans_of
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.storage.store import open_store
from tests.doubles.collector import Collector, attributes_of
from tests.unit.exporting import PASSWORD, export

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel")

RUN = "demo-0123456789"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.close()


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of this process, which OpenTelemetry's SDK reads, without its variables."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def export_by(
    variables: pytest.MonkeyPatch, context: Context, *gauges: Gauge, **values: str
) -> None:
    """Export figures under these variables."""
    for name, value in values.items():
        variables.setenv(name, value)
    export(context, "decide", *gauges, **values)


def report_of(
    view: RunView, context: Context, variables: pytest.MonkeyPatch, **values: str
) -> None:
    """Write the report of a run under these variables."""
    for name, value in values.items():
        variables.setenv(name, value)
    store = open_store(view.store, {})
    run(
        ReportInputs(job_id="", run_id=view.run_id),
        dataclasses.replace(context, store=store, environment=values),
    )


def test_a_collector_gets_the_figures_that_prometheus_gets(
    context: Context, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    scores = Gauge(
        "ratchet_candidate_score",
        "Candidate.",
        (Sample(0.5, {"split": "validation"}), Sample(0.25, {"split": "test"})),
    )
    export_by(
        variables,
        context,
        scores,
        Gauge("ratchet_round", "Number of the round.", (Sample(3.0),)),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization={PASSWORD}",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=prod",
    )
    labels = {"campaign": "demo", "run": RUN}
    assert collector.gauges == {
        "ratchet_candidate_score": {
            0.5: {**labels, "split": "validation"},
            0.25: {**labels, "split": "test"},
        },
        "ratchet_round": {3.0: labels},
    }
    assert collector.headers[0]["authorization"] == PASSWORD
    resource = collector.resources[0]
    assert (resource["service.name"], resource["deployment.environment"]) == (
        "ratchet",
        "prod",
    )


def test_a_run_is_one_trace_of_rounds_and_steps(
    view: RunView, context: Context, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    report_of(
        view,
        context,
        variables,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_SERVICE_NAME="nightly",
    )
    assert {resource["service.name"] for resource in collector.resources} == {"nightly"}
    trace_id = hashlib.sha256(view.run_id.encode()).digest()[:16]
    assert {span.trace_id for span in collector.spans} == {trace_id}
    by_id = {span.span_id: span for span in collector.spans}
    assert len(by_id) == len(collector.spans)
    [root] = [span for span in collector.spans if not span.parent_span_id]
    attributes = attributes_of(root.attributes)
    assert attributes["ratchet.status"] == view.status
    assert attributes["ratchet.run_tokens"] == view.totals.tokens
    rounds = {
        span.name: attributes_of(span.attributes)
        for span in collector.spans
        if span.name.startswith("round ")
    }
    for one in view.rounds:
        shown = rounds[f"round {one.record.round}"]
        assert shown["ratchet.verdict"] == one.record.verdict
        assert shown["ratchet.accepted"] == one.record.accepted
        assert shown["ratchet.validation_score"] == one.record.overall
    steps = [
        span for span in collector.spans if span.name not in rounds and span is not root
    ]
    assert sorted(span.name for span in steps) == sorted(
        task.name for task in view.tasks for _ in task.attempts
    )
    for span in collector.spans:
        if span is root:
            continue
        parent = by_id[span.parent_span_id]
        assert parent.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= parent.end_time_unix_nano
        if span in steps and "-r" in span.name:
            assert parent.name == f"round {span.name.partition('-r')[2].split('-')[0]}"
    # The figures come with it.
    assert "ratchet_run_status" in collector.gauges


def test_a_report_that_is_written_again_sends_the_same_spans(
    view: RunView, context: Context, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        report_of(
            view, context, variables, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint
        )
    half = len(collector.spans) // 2
    ids = [span.span_id for span in collector.spans]
    assert sorted(ids[:half]) == sorted(ids[half:])


def test_a_failed_task_is_an_error_in_the_trace_and_so_is_its_round(
    view: RunView,
) -> None:
    attempts = attempts_of(view)
    last = attempts[-1]
    failed = last.model_copy(
        update={
            "task": "train-r9",
            "step": "train",
            "round": 9,
            "error": "no memory",
            "error_kind": "UserError",
            "receipt": "",
        }
    )
    status = Gauge(
        "ratchet_run_status", "Status.", (Sample(1.0, {"status": "failed"}),)
    )
    made = spans_of(view.run_id, [*attempts, failed], view.state, [status])
    spans = {span.name: span for span in made}
    assert spans["train-r9"].error == "no memory"
    assert spans["train-r9"].attributes["error.type"] == "UserError"
    assert spans["round 9"].error == "no memory"
    assert made[0].error == "no memory"
    assert not spans["round 1"].error
    # A task that was tried again, and went well, is no failure.
    again = failed.model_copy(update={"error": "", "receipt": last.receipt})
    mended = spans_of(view.run_id, [*attempts, failed, again], view.state, [])
    assert [span.error for span in mended if span.error] == ["no memory"]


def test_a_run_without_a_task_has_no_trace(view: RunView) -> None:
    assert spans_of(view.run_id, [], None, run_gauges(view)) == []


def attempts_of(view: RunView) -> list[Attempt]:
    attempts = [attempt for task in view.tasks for attempt in task.attempts]
    return sorted(attempts, key=lambda attempt: attempt.order)


@pytest.mark.parametrize(
    ("values", "traces", "metrics"),
    [
        ({}, "", ""),
        ({ENDPOINT: "http://c"}, ENDPOINT, ENDPOINT),
        ({ENDPOINT: " "}, "", ""),
        ({ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"}, "", ""),
        ({ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "TRUE"}, "", ""),
        ({ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "false"}, ENDPOINT, ENDPOINT),
        ({ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"}, "", ENDPOINT),
        ({ENDPOINT: "http://c", "OTEL_METRICS_EXPORTER": "none"}, ENDPOINT, ""),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "",
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m", ENDPOINT: "http://c"},
            ENDPOINT,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        ),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "OTEL_SERVICE_NAME": "s"}, "", ""),
    ],
)
def test_the_standard_variables_say_what_is_sent(
    values: dict[str, str], traces: str, metrics: str
) -> None:
    assert otlp.endpoint_variable(values, "traces") == traces
    assert otlp.endpoint_variable(values, "metrics") == metrics


@pytest.mark.parametrize(
    "address",
    [
        f"http://ada:{PASSWORD}@127.0.0.1:1",
        "no address",
        "ftp://127.0.0.1",
        "http://[::1",
        f"http://ada:{PASSWORD}@127.0.0.1:port",
        "http://",
    ],
)
def test_an_address_without_a_collector_costs_a_line_without_its_password(
    context: Context,
    capfd: pytest.CaptureFixture[str],
    variables: pytest.MonkeyPatch,
    address: str,
) -> None:
    variables.setattr(otlp, "PATIENCE_SECONDS", 0.5)
    export_by(variables, context, OTEL_EXPORTER_OTLP_ENDPOINT=address)
    out, said = capfd.readouterr()
    assert len(said.splitlines()) == 1, said
    assert f"metrics of {RUN} did not get to {ENDPOINT}: " in said
    assert PASSWORD not in out + said


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_a_collector_that_refuses_costs_a_line(
    context: Context,
    capfd: pytest.CaptureFixture[str],
    variables: pytest.MonkeyPatch,
    status: int,
) -> None:
    variables.setattr(otlp, "PATIENCE_SECONDS", 0.5)
    server = Collector(status)
    # KFP's executor has such a handler.
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    export_by(variables, context, OTEL_EXPORTER_OTLP_ENDPOINT=server.endpoint)
    logging.getLogger().removeHandler(handler)
    server.close()
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert server.headers


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"what?",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
    ],
)
def test_a_collector_that_does_not_answer_is_given_up_on(
    view: RunView,
    capfd: pytest.CaptureFixture[str],
    variables: pytest.MonkeyPatch,
    answer: bytes,
) -> None:
    endless = answer.endswith(b"99\r\n\r\n")
    variables.setattr(otlp, "PATIENCE_SECONDS", 0.4)
    # It takes connections, and never says more than the begin of an answer.
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def begin_answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connections.append(connection)
                    connection.sendall(answer)
                    while endless:
                        connection.sendall(b" ")
                        time.sleep(0.05)

        threading.Thread(target=begin_answer, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        variables.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", address)
        spans = spans_of(view.run_id, attempts_of(view), view.state, [])
        problem = otlp.send_trace(view.run_id, spans)
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()
    assert problem
    assert capfd.readouterr().err == ""


def test_without_the_package_the_cure_is_one_line(
    context: Context, capfd: pytest.CaptureFixture[str], variables: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("opentelemetry.exporter"):
            variables.delitem(sys.modules, name)
    variables.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    export_by(variables, context, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    [line] = capfd.readouterr().err.splitlines()
    assert "pip install 'ratchet-lm[otel]'" in line


def test_nothing_is_measured_or_sent_without_a_variable(context: Context) -> None:
    def measured() -> list[Gauge]:
        raise AssertionError("nobody asked")

    disabled = {ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}
    told = dataclasses.replace(context, environment=disabled)
    export_metrics(told, "demo", RUN, "decide", measured)
