"""What a check of `doctor` found, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from components.errors import RatchetError

Status = Literal["ok", "warning", "failed", "skipped"]
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    found: str
    cure: str = ""
    """What to do; empty where nothing need be done."""


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """A check whose expected failure is its finding. Messages end in what to do, behind a
    semicolon."""
    try:
        return look()
    except RatchetError as error:
        return failure(check, error)


def failure(check: str, error: RatchetError) -> Finding:
    """The finding that an expected failure is."""
    found, _, cure = str(error).rpartition("; ")
    return Finding(check, "failed", found or cure, cure if found else "")


def exit_code(findings: list[Finding]) -> int:
    """1 if a check failed."""
    return int(any(one.status == "failed" for one in findings))


def as_document(findings: list[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    counts = {status: sum(one.status == status for one in findings) for status in _STYLES}
    return {"checks": [asdict(one) for one in findings], "exit_code": exit_code(findings), **counts}


def print_findings(console: Console, findings: list[Finding]) -> None:
    """One line a check, and what to do below it."""
    width = max((len(one.check) for one in findings), default=0)
    for one in findings:
        line = Text(f"{one.status:<8}", style=_STYLES[one.status])
        line.append(f" {one.check:<{width}}  ", style="bold")
        line.append(one.found, style="default")
        console.print(line, soft_wrap=True)
        if one.cure:
            console.print(
                Text(f"{'':<9}{'':<{width}}  → {one.cure}", style="default"), soft_wrap=True
            )
    failed = sum(one.status == "failed" for one in findings)
    console.print(
        Text(
            f"{failed} of {len(findings)} checks failed"
            if failed
            else f"{len(findings)} checks, none failed"
        )
    )
