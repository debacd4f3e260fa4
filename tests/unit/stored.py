"""Documents and files as they lie in a store."""

from __future__ import annotations

import hashlib
from pathlib import Path

KEY = "steps/train/0123.json"
PART_BYTES = 5 * 1024 * 1024
"""The smallest part of an upload that S3 takes."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def object_of(data: bytes) -> str:
    return f"objects/{sha256(data)[:2]}/{sha256(data)}"


def written(folder: Path, data: bytes) -> Path:
    path = folder / f"payload-{sha256(data)[:8]}"
    path.write_bytes(data)
    return path
