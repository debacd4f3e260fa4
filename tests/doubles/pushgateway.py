"""A Pushgateway in memory, that takes what the real one takes and refuses what it refuses."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler

from tests.doubles.network import Answering
from tests.doubles.served import Served

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]
"""(name, labels) → value."""
_SAMPLE = re.compile(r"([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z_][a-z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")


class Pushgateway(Served):
    """The server; close it when done."""

    def __init__(self, status: int = 200) -> None:
        self.groups: dict[str, dict[str, Samples]] = {}
        """Path of the group → name of the metric → samples."""
        self.authorizations: list[str] = []
        self.status = status
        self.serve(self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(Answering):
            def do_POST(self) -> None:
                text = self.sent_bytes().decode()
                gateway.authorizations.append(self.headers.get("Authorization", ""))
                if gateway.status != 200:
                    self.answer(gateway.status, b"no", Location="/elsewhere")
                    return
                try:
                    metrics = parsed(text)
                except ValueError as error:
                    self.answer(400, str(error).encode())
                    return
                # POST replaces metrics of these names, and no others.
                gateway.groups.setdefault(self.path, {}).update(metrics)
                self.answer(200, b"")

        return Handler


def parsed(text: str) -> dict[str, Samples]:
    """Metrics of the text format 0.0.4. Raises ValueError for what the format does not allow."""
    if not text.endswith("\n"):
        raise ValueError("unexpected end of input stream")
    metrics: dict[str, Samples] = {}
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name in types:
                raise ValueError(f"second TYPE line for {name}")
            types[name] = kind
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None or match[1] not in types:
            raise ValueError(f"no sample: {line}")
        labels = match[2] or ""
        pairs = _LABEL.findall(labels)
        if "".join(found.group() for found in _LABEL.finditer(labels)) != labels:
            raise ValueError(f"no labels: {labels}")
        meaning = tuple(
            (name, _ESCAPED.sub(_unescaped, value)) for name, value in pairs
        )
        samples = metrics.setdefault(match[1], {})
        if (match[1], meaning) in samples:
            raise ValueError(f"collected before: {line}")
        samples[match[1], meaning] = float(match[3])
    return metrics


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
