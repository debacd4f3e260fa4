"""The one file of figures: what benchmarks measured, where and by which command.

Only `record` writes it. The table in docs/figures.md is made from it by `python -m
tests.benchmarks.table`.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from tests.benchmarks.measured import changed_code, measured_code

FIGURES = Path(__file__).with_name("figures.json")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "figures.md"

_BOUND = re.compile(r"([<≤≥>]) (-?[\d.]+)")


class Figure(TypedDict):
    """One measured number."""

    value: float
    unit: str
    """`s`, `share`, `points`, …; empty for a bare number."""
    bound: str
    """`≤ 360`, or in words what the number is there for."""
    command: str
    seed: int
    cores: int
    """Cores the process could use."""
    memory_gib: int
    """Memory of the machine."""
    date: str
    """Day of the measurement, UTC."""
    note: str
    code: dict[str, str]
    """Path → digest of the code that was measured (`measured_code`)."""


def record(
    name: str,
    value: float,
    unit: str,
    bound: str,
    command: str,
    seed: int,
    note: str = "",
    path: Path = FIGURES,
) -> None:
    """Write or replace one figure. Raises ValueError for a number that is none."""
    if not math.isfinite(value):
        raise ValueError(f"{name}: {value} is not a number")
    figures = load(path)
    figures[name] = Figure(
        value=float(value),
        unit=unit,
        bound=bound,
        command=command,
        seed=seed,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        ),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        note=note,
        code=measured_code(command),
    )
    text = json.dumps(figures, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def load(path: Path = FIGURES) -> dict[str, Figure]:
    """Name → figure; empty if nothing was recorded."""
    found: dict[str, Figure] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    )
    return found


def stale_figures(figures: Mapping[str, Figure]) -> dict[str, list[str]]:
    """Return figure → paths of the code it measures that changed since; none of today's figures."""
    commands = {figure["command"] for figure in figures.values()}
    today = {command: measured_code(command) for command in commands}
    stale: dict[str, list[str]] = {}
    for name, figure in sorted(figures.items()):
        changed = changed_code(today[figure["command"]], figure.get("code", {}))
        if changed:
            stale[name] = changed
    return stale


def met(figure: Figure) -> bool | None:
    """Whether the bound holds; None where it is words."""
    parsed = _BOUND.fullmatch(figure["bound"])
    if not parsed:
        return None
    value, limit = figure["value"], float(parsed[2])
    return {
        "<": value < limit,
        "≤": value <= limit,
        "≥": value >= limit,
        ">": value > limit,
    }[parsed[1]]
