"""The benchmark of handed cases: today's names, edits that still find their place, every check."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.cases import EDITED, adapted, checks_of

pytestmark = pytest.mark.process


def test_cases_are_run_with_todays_names_and_none_that_ends_early_passes(
    tmp_path: Path,
) -> None:
    cases = tmp_path / "cases"
    (cases / "open").mkdir(parents=True)
    kit = "\n".join(f"# {edit.old}" for edit in EDITED["kit.py"])
    (cases / "kit.py").write_text(kit)
    (cases / "open" / "98_ok.py").write_text(
        "print('pass a | components.common.records')\n"
    )
    (cases / "open" / "99_ends.py").write_text(
        "print('pass a')\nraise SystemExit('early')\n"
    )
    folder = tmp_path / "copies"
    folder.mkdir()
    lines = [checks_of(script) for script in adapted(cases, folder)]
    assert lines == [
        ["pass a | components.contracts.rows"],
        ["pass a", "FAIL it ended early"],
    ]


def test_an_edit_that_finds_no_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cases" / "open").mkdir(parents=True)
    (tmp_path / "cases" / "kit.py").write_text("another kit")
    with pytest.raises(ValueError, match=r"kit\.py: no 'faults="):
        adapted(tmp_path / "cases", tmp_path)
