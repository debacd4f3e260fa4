"""The part of a step key that says which code made a result."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

SHARED_FOLDERS = ("contracts", "storage", "runtime", "modeling")
"""Beside the modules of `components` itself."""
FOLDERS = {"start": "prepare", "mix": "prepare"}
"""Step of a receipt → folder of its code, where they have different names."""


@functools.cache
def code_digest(step: str) -> str:
    """Digest of the Python sources that a step's result may depend on: its folder, what all steps
    share, and `modeling`."""
    root = Path(__file__).resolve().parents[1]
    folders = (*SHARED_FOLDERS, FOLDERS.get(step, step))
    paths = [
        *root.glob("*.py"),
        *(path for name in folders for path in (root / name).rglob("*.py")),
    ]
    state = hashlib.sha256()
    for path in sorted(paths):
        state.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:16]
