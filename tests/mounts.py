"""Small file systems of a test's own, which the processes that it starts alone see."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest


def with_small(folder: Path, options: str, command: list[str]) -> list[str]:
    """Return the command that runs another one with a tmpfs of these options on a folder.

    The test is skipped, by name, where nobody may mount: containers rarely let their root, and
    some systems let no user.
    """
    if reason := why_not():
        pytest.skip(f"a full disk cannot be made here: {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
    return [*_namespace(), "sh", "-c", script, "sh", str(folder), *command]


def _namespace() -> list[str]:
    # A user is root of a namespace of its own.
    return ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]


@functools.cache
def why_not() -> str:
    """Return the reason why nobody may mount here; empty if somebody may."""
    command = [*_namespace(), "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
