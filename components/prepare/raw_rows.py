"""Rows as a file holds them, and its lines in bounded memory."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from components.contracts.rows import MAX_LINE_BYTES
from components.prepare.row_values import RejectedRow

MAX_REJECTED_CHARACTERS = 500
"""Length of the excerpt of a rejected row that is stored beside the accepted ones."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"
HEAD_BYTES = 4096
"""Bytes from which a format is told."""


class UnreadableFile(Exception):
    """A file cannot be read on from some row, however good its other rows are. One line."""


@dataclass(frozen=True)
class RawRow:
    """A row as its file holds it."""

    location: str
    """`line 7` or `row 7`."""
    content: object
    """Bytes of a line of JSON, or a value that is parsed already."""
    problem: RejectedRow | None = None
    """Set if the file's format alone makes the row unusable."""
    is_paragraph: bool = False
    """A paragraph of a plain text file."""


@dataclass(frozen=True)
class Line:
    """A line of a file. Of one that is too long only the beginning is held."""

    number: int
    """From 1."""
    text: bytes
    is_too_long: bool

    def as_row(self) -> RawRow:
        """Return the line as a row of its own."""
        problem = None
        if self.is_too_long:
            problem = RejectedRow("too_long", f"longer than {MAX_LINE_BYTES} bytes")
        return RawRow(f"line {self.number}", self.text, problem)


def open_bytes(path: Path) -> BinaryIO:
    """Return a file opened for reading; one that gzip compressed is decompressed as it is read."""
    with path.open("rb") as file:
        is_compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    # Told by content: a download may lie under a name without an ending.
    return gzip.open(path, "rb") if is_compressed else path.open("rb")  # type: ignore[return-value]


def lines_of(path: Path) -> Iterator[Line]:
    """Yield the lines of a file in bounded memory."""
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) <= MAX_LINE_BYTES:
                yield Line(number, line, is_too_long=False)
                continue
            # A file may be one line of gigabytes: skip its rest piece by piece.
            piece = line
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(MAX_LINE_BYTES)
            yield Line(number, line[:MAX_REJECTED_CHARACTERS], is_too_long=True)
