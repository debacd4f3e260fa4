"""Findings of `doctor`: the outcome of each check, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from components.cli.json_documents import Json
from components.errors import RatchetError

Status = Literal["ok", "warning", "failed", "skipped"]
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    found: str
    """The observation, in words."""
    cure: str = ""
    """An instruction; empty where nothing need be done."""


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """Return the finding of `look`; an expected failure becomes a failed finding."""
    try:
        return look()
    except RatchetError as error:
        return failure(check, error)


def failure(check: str, error: RatchetError) -> Finding:
    """Return the finding for an expected failure."""
    # Messages of our errors end in what to do, behind a semicolon.
    problem, semicolon, cure = str(error).rpartition("; ")
    if not semicolon:
        return Finding(check, "failed", str(error))
    return Finding(check, "failed", problem, cure)


def unread(check: str, name: str, namespace: str, status: int) -> Finding:
    """Return the finding where an object could not be got, with an HTTP status."""
    reason = "is not there" if status == 404 else f"no permission to get it ({status})"
    return Finding(check, "skipped", f"{name} in namespace {namespace}: {reason}")


def exit_code(findings: list[Finding]) -> int:
    """Return 1 if a check failed, else 0."""
    # A warning, or a check that could not be made, must not stop a deployment.
    return int(any(finding.status == "failed" for finding in findings))


def as_document(findings: list[Finding]) -> Json:
    """Return what `--json` prints."""
    document: Json = {
        "checks": [asdict(finding) for finding in findings],
        "exit_code": exit_code(findings),
    }
    for status in _STYLES:
        document[status] = sum(finding.status == status for finding in findings)
    return document


def print_findings(console: Console, findings: list[Finding]) -> None:
    """Print a line for each check, with the cure below it."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        status_style = _STYLES[finding.status]
        line = Text(f"{finding.status:<8}", style=status_style)
        line.append(f" {finding.check:<{width}}  ", style="bold")
        line.append(finding.found, style="default")
        console.print(line, soft_wrap=True)
        if finding.cure:
            indent = " " * (9 + width)
            cure = Text(f"{indent}  → {finding.cure}", style="default")
            console.print(cure, soft_wrap=True)
    num_failed = sum(finding.status == "failed" for finding in findings)
    total = f"{len(findings)} checks, none failed"
    if num_failed:
        total = f"{num_failed} of {len(findings)} checks failed"
    console.print(Text(total))
