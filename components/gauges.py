"""Figures of a run that platforms of monitoring are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels beside those of the campaign and the run."""


@dataclass(frozen=True)
class Gauge:
    """One metric of a run, whose value may rise and fall."""

    name: str
    """`ratchet_` and what it is, with its unit (`_seconds`, `_bytes`) where it has one."""
    meaning: str
    """One line."""
    samples: tuple[Sample, ...]
