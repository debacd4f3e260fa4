"""Waiting for what other processes do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(
    condition: Callable[[], object],
    process: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
) -> None:
    """Return once the condition holds. AssertionError, with the end of its log, if the process that
    is to bring it about ends before.

    There is no bound of its own: a machine may be busy, and pytest's time-out shows where a test
    stood.
    """
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            text = log.read_text(encoding="utf-8")[-3000:] if log is not None else ""
            raise AssertionError(
                f"the process ended with status {process.returncode}: {text}"
            )
        time.sleep(0.005)
