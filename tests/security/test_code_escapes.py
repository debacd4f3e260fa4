"""A program that a model wrote does not get out of its sandbox, and passes no test that it fails.

The attempts themselves are promise S6: tests/promises.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from components.errors import UserError
from components.sandbox import confine, seccomp
from components.verifiers import code, verify
from tests.security import escapes
from tests.unit.test_code_verifier import row

pytestmark = pytest.mark.process


def test_the_attempts_would_succeed_without_the_sandbox(tmp_path: Path) -> None:
    """So that an attempt which fails for another reason proves nothing."""
    with escapes.watching(tmp_path) as watch:
        for name in (
            "tcp over IPv4",
            "reading a file",
            "an abstract socket",
            "writing a file",
        ):
            exec(watch.filled(escapes.REACHES[name]), {})
    assert set(watch.connections) == {"tcp", "abstract"}
    assert (tmp_path / "made").read_text() == "x"


def test_where_programs_cannot_be_confined_none_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    code._missing.cache_clear()
    with pytest.raises(
        UserError, match=r"refuses to without a processor .* \(this is riscv64\)"
    ):
        verify(row("assert f() == 1"), "def f(): return 1")
    monkeypatch.undo()
    code._missing.cache_clear()
    # A kernel that takes the filter and does not keep to it: the worker sees it and runs nothing.
    monkeypatch.setattr(seccomp, "install", lambda *, read_files: None)
    with pytest.raises(confine.Unconfined, match="a socket could be opened"):
        confine.confine(read_files=False)
    assert verify(row("assert f() == 1"), "def f(): return 1")
