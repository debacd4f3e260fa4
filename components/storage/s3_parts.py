"""Large files in parts, several at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from components.storage.s3_client import MAX_TRANSFERS

T = TypeVar("T")
Parts = list[dict[str, object]]
"""The parts of an upload, as the server is told of them."""


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ceil_division(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up."""
    return -(-dividend // divisor)


def write_at(file: BinaryIO, data: bytes, offset: int) -> None:
    """Write bytes at an offset of a file that threads share."""
    # pwrite may write less than it is given, and threads share the file's position.
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, offset)
        view = view[written:]
        offset += written


def in_parallel(work: Callable[[int], T], count: int) -> list[T]:
    """Return the results of `work` for 0 … count-1, in order, MAX_TRANSFERS at a time.

    The first failure cancels the calls that have not begun.
    """
    with ThreadPoolExecutor(max_workers=MAX_TRANSFERS) as pool:
        return list(pool.map(work, range(count)))
