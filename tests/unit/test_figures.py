"""The figures of the page are those of the file that benchmarks write, and a missed bound is not
hidden."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.benchmarks.figures import PAGE, load, met, record
from tests.benchmarks.table import table, with_table


def test_the_table_of_the_page_is_that_of_the_figures() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_table(text, load()), "figures changed: `make golden`"


def test_a_figure_says_what_was_measured_where_and_how(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    record("demo.seconds", 400.0, "s", "≤ 360", "python -m x", 3, path=path)
    record("demo.seconds", 312.4, "s", "≤ 360", "python -m x", 3, note="cold start", path=path)
    record("demo.rate", 12345.6, "tokens/s", "measured", "python -m x", 3, path=path)
    one = load(path)["demo.seconds"]
    assert (one["value"], one["bound"], one["seed"], met(one)) == (312.4, "≤ 360", 3, True)
    assert one["cores"] >= 1
    assert one["memory_gib"] >= 1
    shown = table(load(path))
    assert "| `demo.seconds` | 312.4 s (cold start) | ≤ 360 |" in shown
    assert "| `demo.rate` | 12,346 tokens/s | measured |" in shown


def test_a_missed_bound_is_shown_as_missed(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    record("demo.end_exact_match", 0.91, "share", "≥ 0.98", "python -m x", 0, path=path)
    assert "≥ 0.98 **missed**" in table(load(path))


def test_what_is_not_a_number_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a number"):
        record("a", math.nan, "", "", "c", 0, path=tmp_path / "figures.json")
    assert not (tmp_path / "figures.json").exists()


def test_a_readme_without_markers_is_not_rewritten() -> None:
    with pytest.raises(ValueError, match="once each"):
        with_table("# title\n", {})
