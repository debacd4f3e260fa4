"""The digest of `select.verifier_function` covers what the function runs, and imports nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from components.select.function_code import function_digest

REACHED = (
    # (function, file that it is in, its text, another file of the user's that it runs)
    ("u_plain.right", "u_plain.py", "import u_helper", "u_helper.py"),
    (
        "u_late.right",
        "u_late.py",
        "def right(): import u_late_helper",
        "u_late_helper.py",
    ),
    ("u_package.checks.right", "u_package/checks.py", "", "u_package/__init__.py"),
    (
        "u_inner.checks.right",
        "u_inner/checks.py",
        "from . import words",
        "u_inner/words.py",
    ),
    ("u_up.a.b.right", "u_up/a/b.py", "from ..words import x", "u_up/words.py"),
    (
        "u_space.checks.right",
        "u_space/checks.py",
        "import u_space.far",
        "u_space/far.py",
    ),
)


@pytest.mark.parametrize(("function", "file", "text", "other"), REACHED)
def test_an_edit_of_what_a_function_runs_is_other_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    file: str,
    text: str,
    other: str,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    _write(tmp_path / file, text)
    _write(tmp_path / other, "raise SystemExit('imported')")
    _write(tmp_path / "u_beside.py", "x = 1")
    first = function_digest(function)
    assert first
    _write(tmp_path / "u_beside.py", "x = 2")
    _write(tmp_path / file, f"{text}  # a comment")
    assert function_digest(function) == first
    _write(tmp_path / other, "raise SystemExit('another word')")
    assert function_digest(function) != first
    assert not [name for name in sys.modules if name.startswith("u_")]


def test_a_package_that_stands_in_two_folders_is_read_in_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("one", "two")):
        monkeypatch.syspath_prepend(tmp_path / folder)
        _write(tmp_path / folder / f"u_parts/part{number}.py", "x = 1")
    digests = [function_digest(f"u_parts.part{number}.f") for number in range(2)]
    assert len({"", *digests}) == 3


@pytest.mark.parametrize(
    "text", ["def right(:", "x = '\0'", "# coding: nothing", "from .. import x"]
)
def test_a_file_that_cannot_be_imported_has_a_digest_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    _write(tmp_path / "u_broken.py", text)
    first = function_digest("u_broken.right")
    _write(tmp_path / "u_broken.py", f"{text}\ny")
    assert "" != first != function_digest("u_broken.right")


@pytest.mark.parametrize(
    "function", ["u_no_such.f", "u_no.such.f", "__main__.f", "sys.exit"]
)
def test_what_has_no_source_has_no_digest(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    assert function_digest(function) == ""


def test_of_what_is_installed_the_package_alone_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(packages)
    _write(packages / "u_first/__init__.py", "import u_second")
    _write(packages / "u_second.py", "x = 1")
    first = function_digest("u_first.f")
    _write(packages / "u_second.py", "x = 2")
    assert function_digest("u_first.f") == first
    assert function_digest("json.loads")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
