"""A collector of OpenTelemetry in memory, which reads OTLP over HTTP by the protocol's own classes."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.doubles.network import Answering
from tests.doubles.served import Served

Attributes = dict[str, str | int | float | bool]


class Collector(Served):
    """The server; close it when done."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[Span] = []
        self.gauges: dict[str, dict[float, Attributes]] = {}
        """Name → value → attributes."""
        self.resources: list[Attributes] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self.serve(self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(Answering):
            def do_POST(self) -> None:
                body = self.sent_bytes()
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with collector._lock:
                    collector.headers.append(dict(self.headers))
                    if collector.status == 200:
                        collector.take(self.path, body)
                answer = ExportTraceServiceResponse()
                if self.path == "/v1/metrics":
                    answer = ExportMetricsServiceResponse()
                self.answer(collector.status, answer.SerializeToString())

        return Handler

    def take(self, path: str, body: bytes) -> None:
        """Keep what a request holds."""
        match path:
            case "/v1/traces":
                for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(attributes_of(batch.resource.attributes))
                    self.spans += [
                        span for scope in batch.scope_spans for span in scope.spans
                    ]
            case "/v1/metrics":
                for group in ExportMetricsServiceRequest.FromString(
                    body
                ).resource_metrics:
                    self.resources.append(attributes_of(group.resource.attributes))
                    for metric in (
                        one for scope in group.scope_metrics for one in scope.metrics
                    ):
                        self.gauges[metric.name] = {
                            point.as_double: attributes_of(point.attributes)
                            for point in metric.gauge.data_points
                        }
            case _:
                raise AssertionError(f"nothing is sent to {path}")


def attributes_of(pairs: list[KeyValue]) -> Attributes:
    """Return attributes as plain values."""
    attributes: Attributes = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        assert kind is not None, pair.key
        attributes[pair.key] = getattr(pair.value, kind)
    return attributes
