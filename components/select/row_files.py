"""Files of training rows, read as often as needed, and lines added to such a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from components.canonical import canonical_json
from components.contracts.rows import TrainingRow, read_rows


class RowFile:
    """The training rows of one or more files, which can be iterated over again and again."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    # Not a list: the rows of all rounds need not fit into memory.
    def __iter__(self) -> Iterator[TrainingRow]:
        for path in self._paths:
            yield from read_rows(path, TrainingRow)


def write_line(file: BinaryIO, row: BaseModel) -> None:
    """Append one row as the canonical JSON line that `read_rows` reads."""
    # Canonical: equal rows are equal bytes, so that equal work gives equal digests.
    file.write(canonical_json(row.model_dump(mode="json")) + b"\n")
