"""Figures of a run for Prometheus: a file for node_exporter's textfile collector, or a Pushgateway.

A courtesy, as the webhook is: nothing is exported unless RATCHET_METRICS_FOLDER or
PROMETHEUS_PUSHGATEWAY_URL is set, and a failure costs a line of the log and PATIENCE_SECONDS.
OpenTelemetry gets the same figures where its variables are set (`components.otlp`).
"""

from __future__ import annotations

import base64
import http.client
import math
import os
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from components import otlp
from components.errors import RatchetError, one_line
from components.gauges import Gauge as Gauge
from components.gauges import Sample as Sample
from components.run_trace import run_spans
from components.runtime.context import Context
from components.runtime.log_lines import LogSubject
from components.storage import keys

FOLDER_VARIABLE = "RATCHET_METRICS_FOLDER"
GATEWAY_VARIABLE = "PROMETHEUS_PUSHGATEWAY_URL"
LAST_SOURCE = "report"
"""Its figures are those of the whole run, whose trace goes with them."""
PATIENCE_SECONDS = 5.0
"""Longest time that a step waits for a Pushgateway."""
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def export_metrics(
    context: Context,
    campaign: str,
    run_id: str,
    source: str,
    measure: Callable[[], Sequence[Gauge]],
) -> None:
    """Export gauges of a run to where the environment says; by default nowhere.

    Args:
        context: Variables and the log.
        campaign: Name of the recipe.
        run_id: The run.
        source: Step that measured them. Each has metrics of its own: those of its last export are
            replaced, those of other steps stay.
        measure: Returns the metrics; called if they go anywhere.
    """
    # The report, which is no attempt at a task, says nowhere else what its lines are about.
    context.progress.know(LogSubject(run=run_id, step=source, task=source))
    environment = context.environment
    folder = environment.get(FOLDER_VARIABLE, "").strip()
    gateway = environment.get(GATEWAY_VARIABLE, "").strip()
    collector = otlp.endpoint_variable(environment, "metrics")
    gauges = measure() if folder or gateway or collector else ()
    problems: dict[str, str] = {}
    if folder:
        text = exposition(gauges, {"campaign": campaign, "run": run_id})
        name = f"ratchet-{keys.part(run_id)}-{keys.part(source)}.prom"
        problems[FOLDER_VARIABLE] = _written(Path(folder), name, text)
    if gateway:
        # The gateway adds the labels of the group to each sample.
        path = _group_path({"campaign": campaign, "run": run_id})
        problems[GATEWAY_VARIABLE] = _pushed_in_time(
            gateway, path, exposition(gauges, {})
        )
    if collector:
        problems[collector] = otlp.send_gauges(
            gauges, {"campaign": campaign, "run": run_id}
        )
    for variable, problem in problems.items():
        if problem:
            context.progress.warn(
                f"metrics of {run_id} did not get to {variable}: {problem}"
            )
    trace_variable = otlp.endpoint_variable(environment, "traces")
    if trace_variable and source == LAST_SOURCE:
        problem = _sent_trace(context, run_id, gauges or measure())
        if problem:
            context.progress.warn(
                f"trace of {run_id} did not get to {trace_variable}: {problem}"
            )


def _sent_trace(context: Context, run_id: str, gauges: Sequence[Gauge]) -> str:
    """Send the trace of a run, and return what went wrong."""
    try:
        spans = run_spans(context, run_id, gauges)
    except RatchetError as error:
        return one_line(error)
    return otlp.send_trace(run_id, spans) if spans else ""


def exposition(gauges: Sequence[Gauge], labels: Mapping[str, str]) -> str:
    """Return gauges in Prometheus' text format 0.0.4.

    Args:
        gauges: The metrics; each name once.
        labels: Labels of every sample, beside its own.
    """
    lines: list[str] = []
    for gauge in gauges:
        lines.append(f"# HELP {gauge.name} {gauge.meaning}")
        lines.append(f"# TYPE {gauge.name} gauge")
        for sample in gauge.samples:
            label_text = _labels({**labels, **sample.labels})
            lines.append(f"{gauge.name}{label_text} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{text.translate(_ESCAPES)}"' for name, text in labels.items())
    return "{" + ",".join(pairs) + "}"


def _number(value: float) -> str:
    # repr would give "inf" and "nan", which Prometheus spells otherwise.
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")


def _group_path(labels: Mapping[str, str]) -> str:
    quoted = (
        f"{name}/{urllib.parse.quote(text, safe='')}" for name, text in labels.items()
    )
    return f"/metrics/job/ratchet/{'/'.join(quoted)}"


def _written(folder: Path, name: str, text: str) -> str:
    """Write a file that a collector never sees half, and return what went wrong."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not *.prom: the collector reads each file of that name.
        handle, path = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        # Another user runs the collector.
        os.chmod(path, 0o644)
        os.replace(path, folder / name)
    except OSError as error:
        return one_line(error)
    return ""


def _pushed_in_time(gateway: str, path: str, text: str) -> str:
    """Push to a Pushgateway, and return what went wrong within PATIENCE_SECONDS."""
    problems: list[str] = []
    # A daemon thread, because no timeout of a socket covers a name server that hangs, or a server
    # that sends its answer a byte at a time.
    thread = threading.Thread(
        target=lambda: problems.append(_pushed(gateway, path, text)), daemon=True
    )
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return problems[0] if problems else f"no answer within {PATIENCE_SECONDS:g} seconds"


def _pushed(gateway: str, path: str, text: str) -> str:
    """Push to a Pushgateway, and return what went wrong, without its password."""
    try:
        request = _request(gateway, path, text)
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=PATIENCE_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            words = error.read(1000).decode("utf-8", "replace")
        return one_line(f"it answered {error.code} {words}")
    except (ValueError, http.client.InvalidURL):
        return "it is no address such as http://host:9091"
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        # Not its message: some hold the address, and that may hold a password.
        return type(reason).__name__


def _request(gateway: str, path: str, text: str) -> urllib.request.Request:
    """Return the request that replaces these metrics. Raises ValueError for a wrong address."""
    parts = urllib.parse.urlsplit(gateway)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(gateway)
    address = parts.netloc.rpartition("@")[2]
    headers = {"Content-Type": "text/plain; version=0.0.4", "User-Agent": "ratchet"}
    if parts.username is not None:
        user = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    # POST: PUT would delete what other steps have pushed for this run.
    return urllib.request.Request(
        f"{parts.scheme}://{address}{parts.path.rstrip('/')}{path}",
        data=text.encode(),
        headers=headers,
        method="POST",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for an answer: the password is for the address that was given."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Return None, which ends the request with the status of the redirection."""
