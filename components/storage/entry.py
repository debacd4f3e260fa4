"""One object of a listing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """Time of the last write in seconds since the epoch, by the store's own clock."""
