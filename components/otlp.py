"""Trace and figures of a run for OpenTelemetry, sent as OTLP over HTTP.

A courtesy, as the export to Prometheus is: nothing is sent unless one of ENDPOINT_VARIABLES is set,
and a collector that is away costs a line of the log and PATIENCE_SECONDS. OpenTelemetry's SDK reads
the standard variables itself (OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, …).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.errors import one_line
from components.gauges import Gauge

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

ENDPOINT_VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
PATIENCE_SECONDS = 5.0
"""Longest time that a step waits for a collector, for the figures and for a trace."""
SERVICE_NAME = "ratchet"
"""Without OTEL_SERVICE_NAME."""
PACKAGE_CURE = (
    "this Python has no opentelemetry-exporter-otlp-proto-http; "
    "`pip install 'ratchet-lm[otel]'`, or unset the variable"
)
Signal = Literal["traces", "metrics"]
Attribute = str | int | float | bool
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Span:
    """One stretch of a run."""

    key: str
    """Unique within the run. The id is made from both, so that a span that is sent again, or by
    another process, is the same one."""
    name: str
    parent: str
    """Key of the span that it is a part of; empty for the root."""
    begin: float
    """Seconds since the epoch, as the next."""
    end: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str = ""
    """The reason for which it failed; empty if it did not."""
    is_done: bool = True
    """False while it is under way."""


def trace_id_of(run_id: str) -> int:
    """Return the id of a run's trace, the same in every process: 16 bytes of SHA-256 of its id."""
    return _id_of(run_id, 16)


def span_id_of(run_id: str, key: str) -> int:
    """Return the id of a span: 8 bytes of SHA-256 of the run's id, a slash and the span's key."""
    return _id_of(f"{run_id}/{key}", 8)


def endpoint_variable(environment: Mapping[str, str], signal: Signal) -> str:
    """Return the name of the variable with the address for a signal; empty if it goes nowhere."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    if environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip() == "none":
        return ""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", ENDPOINT_VARIABLES[0])
    return next((name for name in names if environment.get(name, "").strip()), "")


def send_gauges(gauges: Sequence[Gauge], labels: Mapping[str, str]) -> str:
    """Send figures, and return what went wrong; empty if nothing did.

    Args:
        gauges: The figures.
        labels: Attributes of each of them, beside its own.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
            OTLPMetricExporter,
        )
        from opentelemetry.sdk.metrics.export import MetricExportResult
    except ModuleNotFoundError:
        return PACKAGE_CURE

    def send() -> bool:
        exporter = OTLPMetricExporter(timeout=PATIENCE_SECONDS)
        return (
            exporter.export(_metrics_data(gauges, labels)) is MetricExportResult.SUCCESS
        )

    return _sent_in_time(send)


def send_trace(run_id: str, spans: Iterable[Span]) -> str:
    """Send the trace of a run, and return what went wrong; empty if nothing did."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ModuleNotFoundError:
        return PACKAGE_CURE

    def send() -> bool:
        exporter = OTLPSpanExporter(timeout=PATIENCE_SECONDS)
        return exporter.export(_readable(run_id, spans)) is SpanExportResult.SUCCESS

    return _sent_in_time(send)


def _sent_in_time(send: Callable[[], bool]) -> str:
    """Call what sends, for PATIENCE_SECONDS at most, and return what went wrong."""
    words = _LastWords()
    endings: list[str] = []

    def attempt() -> None:
        try:
            endings.append("" if send() else words.text or "it was refused")
        except ValueError as error:
            # An endpoint, a header or a timeout in a variable that is none.
            endings.append(one_line(error))

    # A daemon thread: no timeout of a socket covers a name server that hangs, or a server that
    # sends its answer a byte at a time.
    thread = threading.Thread(target=attempt, daemon=True)
    with words:
        thread.start()
        thread.join(PATIENCE_SECONDS)
    return endings[0] if endings else f"no answer within {PATIENCE_SECONDS:g} seconds"


class _LastWords(logging.Handler):
    """Keeps the last thing that the exporters log, in place of their lines: we say it once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        self._logger = logging.getLogger("opentelemetry")

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.text = one_line(record.getMessage())

    def __enter__(self) -> None:
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated


def _resource() -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    # What the variables say goes before our own name.
    return Resource({"service.name": SERVICE_NAME}).merge(
        OTELResourceDetector().detect()
    )


def _metrics_data(gauges: Sequence[Gauge], labels: Mapping[str, str]) -> MetricsData:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], _resource(), shutdown_on_exit=False)
    meter = provider.get_meter("ratchet")
    for gauge in gauges:
        instrument = meter.create_gauge(gauge.name, description=gauge.meaning)
        for sample in gauge.samples:
            instrument.set(sample.value, {**labels, **sample.labels})
    return reader.get_metrics_data() or MetricsData([])


def _readable(run_id: str, spans: Iterable[Span]) -> list[ReadableSpan]:
    """Return spans as the exporter takes them."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import (
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
    )

    resource = _resource()
    flags = TraceFlags(TraceFlags.SAMPLED)

    def context_of(key: str) -> SpanContext:
        # Made, not drawn: steps of a run are processes that know nothing of each other.
        return SpanContext(trace_id_of(run_id), span_id_of(run_id, key), False, flags)

    readable = []
    for span in spans:
        status = Status(StatusCode.OK if span.is_done else StatusCode.UNSET)
        if span.error:
            status = Status(StatusCode.ERROR, span.error)
        readable.append(
            ReadableSpan(
                name=span.name,
                context=context_of(span.key),
                parent=context_of(span.parent) if span.parent else None,
                resource=resource,
                attributes=dict(span.attributes),
                kind=SpanKind.INTERNAL,
                status=status,
                start_time=int(span.begin * _NANOSECONDS),
                end_time=int(span.end * _NANOSECONDS),
                instrumentation_scope=InstrumentationScope("ratchet"),
            )
        )
    return readable


def _id_of(text: str, num_bytes: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:num_bytes])
