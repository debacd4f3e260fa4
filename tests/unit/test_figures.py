"""The figures of the page are those of the file that benchmarks write, and a missed bound is not
hidden."""

from __future__ import annotations

import ast
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import recipes
from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.cluster import number_in
from tests.benchmarks.figures import PAGE, load, met, record, stale_figures
from tests.benchmarks.measured import MEASURED, ROOT, changed_code, measured_code
from tests.benchmarks.stale import by_command
from tests.benchmarks.table import lead, table, with_table

GATE = "python -m tests.benchmarks.gate --seed 0"
CONTAINERS = "python -m tests.benchmarks.containers --seed 0"
NOT_MEASURED = ("canonical", "contracts", "errors", "retry", "runtime")
"""Modules below components that carry results about, and decide none."""


def test_the_table_of_the_page_is_that_of_the_figures() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_table(text, load()), (
        "figures changed, or code that they measure: `python -m tests.benchmarks.table`"
    )


def _copy_of_the_gate(folder: Path) -> Path:
    for path in measured_code(GATE):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    return folder / "components" / "decide" / "gate.py"


def test_a_figure_is_stale_once_the_code_that_it_measures_changes(
    tmp_path: Path,
) -> None:
    gate = _copy_of_the_gate(tmp_path)
    recorded = measured_code(GATE)
    assert changed_code(measured_code(GATE, tmp_path), recorded) == []
    text = gate.read_text(encoding="utf-8")
    gate.write_text(f"# another comment\n{text}", encoding="utf-8")
    assert changed_code(measured_code(GATE, tmp_path), recorded) == []
    gate.write_text(
        text.replace("comparison.gain <= 0", "comparison.gain < 0"), encoding="utf-8"
    )
    assert changed_code(measured_code(GATE, tmp_path), recorded) == [
        "components/decide/gate.py"
    ]
    gate.unlink()
    assert changed_code(measured_code(GATE, tmp_path), recorded) == [
        "components/decide/gate.py"
    ]


def test_files_that_no_fresh_clone_has_make_no_figure_stale(tmp_path: Path) -> None:
    sizes = f"{CONTAINERS} --sizes"
    shutil.copytree(
        ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns("wheels")
    )
    recorded = measured_code(sizes, tmp_path)
    for name in (
        "wheels/torch.txt",
        "__pycache__/build.pyc",
        ".cache/index",
        "README.md",
    ):
        (tmp_path / "docker" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "docker" / name).write_text(
            "made by `make images`", encoding="utf-8"
        )
    assert changed_code(measured_code(sizes, tmp_path), recorded) == []
    (tmp_path / "docker" / "Dockerfile").write_text("FROM another", encoding="utf-8")
    assert changed_code(measured_code(sizes, tmp_path), recorded) == ["docker"]


def test_the_page_presents_no_stale_figure_as_todays(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    record("gate.power", 0.84, "share", "≥ 0.80", GATE, 0, path=path)
    record("gate.false_promotion", 0.03, "share", "≤ 0.05", GATE, 0, path=path)
    figures = load(path)
    assert stale_figures(figures) == {}
    figures["gate.power"]["code"]["components/decide/gate.py"] = "00000000"
    stale = stale_figures(figures)
    assert stale == {"gate.power": ["components/decide/gate.py"]}
    assert by_command(figures, stale) == {
        GATE: (["gate.power"], ["components/decide/gate.py"])
    }
    page = with_table(
        "<!-- stale -->\n<!-- /stale -->\n<!-- figures -->\n<!-- /figures -->", figures
    )
    assert "1 of 2 figures" in page
    assert "They are `gate.power`." in page
    assert "| ≥ 0.80 | **older code**: " in page
    assert "| ≤ 0.05 | **older code**" not in page
    # A whole group has one name, and a figure without a record of its code is of no known code.
    del figures["gate.false_promotion"]["code"]  # type: ignore[misc]
    assert lead(figures, stale_figures(figures)).endswith("They are `gate.*`.")


def _imported_files(benchmark: str) -> Iterator[str]:
    """Yield the files below components that a benchmark imports itself."""
    tree = ast.parse((ROOT / "tests" / "benchmarks" / f"{benchmark}.py").read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(
            "components."
        ):
            module = ROOT.joinpath(*str(node.module).split("."))
            names = [
                module.with_suffix(".py"),
                *(module / f"{a.name}.py" for a in node.names),
            ]
            yield from (
                name.relative_to(ROOT).as_posix() for name in names if name.is_file()
            )


@pytest.mark.parametrize("benchmark", sorted({*MEASURED, *BENCHMARKS}))
def test_a_benchmark_names_the_code_that_it_measures(benchmark: str) -> None:
    assert all((ROOT / path).exists() for path in MEASURED[benchmark])
    covered = (*MEASURED[benchmark], *(f"components/{name}" for name in NOT_MEASURED))
    missing = [
        file
        for file in _imported_files(benchmark)
        if not any(
            file == path or file.startswith((f"{path}/", f"{path}."))
            for path in covered
        )
    ]
    assert not missing, f"tests/benchmarks/measured.py: {benchmark} measures these too"


def test_a_figure_says_what_was_measured_where_and_how(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    record("demo.seconds", 400.0, "s", "≤ 360", "python -m x", 3, path=path)
    record(
        "demo.seconds",
        312.4,
        "s",
        "≤ 360",
        "python -m x",
        3,
        note="cold start",
        path=path,
    )
    record("demo.rate", 12345.6, "tokens/s", "measured", "python -m x", 3, path=path)
    one = load(path)["demo.seconds"]
    assert (one["value"], one["bound"], one["seed"], met(one)) == (
        312.4,
        "≤ 360",
        3,
        True,
    )
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
        with_table("# title\n", {}, stale=[])


@pytest.mark.parametrize("number", [None, 0])
def test_a_figure_that_no_test_counted_is_not_recorded(
    tmp_path: Path, number: int | None
) -> None:
    report = tmp_path / "report.xml"
    entry = "" if number is None else f'<property name="connections" value="{number}"/>'
    report.write_text(f"<testsuites><properties>{entry}</properties></testsuites>")
    with pytest.raises(SystemExit, match="no test counted connections"):
        number_in(report, "connections")
    report.write_text(
        '<testsuites><property name="connections" value="61"/></testsuites>'
    )
    assert number_in(report, "connections") == 61


def test_each_recipe_with_figures_names_the_code_that_they_measure() -> None:
    for name in recipes.MEASURES:
        assert f"recipes/{name}.yaml" in measured_code(
            f"-m tests.benchmarks.recipes {name}"
        )
