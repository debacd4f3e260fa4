"""Rows of CSV and TSV files, whose first line names the columns."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from components.contracts.rows import MAX_LINE_BYTES
from components.prepare.raw_rows import RawRow, UnreadableFile, open_bytes
from components.prepare.row_values import RejectedRow

SEPARATORS = ",;\t|"
"""Separators of .csv files, the usual one first: where a comma is in numbers, Excel writes `;`."""


def table_rows(path: Path, *, tabs: bool) -> Iterator[RawRow]:
    """Yield each record as column → text, None for an empty cell.

    Args:
        path: The file.
        tabs: Cells are separated by tabs; else the header tells the separator.

    Raises:
        UnreadableFile: It is no text, two columns have one name, or a quote is never closed.
    """
    # The module's own limit is 128 KiB, less than a chapter. It has no other form than this one.
    csv.field_size_limit(MAX_LINE_BYTES)
    with open_bytes(path) as file:
        # Bytes that are not UTF-8 come through as halves of surrogate pairs, and cost their row.
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        lines = _Lines(text)
        # Programs that write binary files under such a name are many, and no table has this byte.
        if "\0" in lines.first:
            raise UnreadableFile(
                "its first line holds NUL bytes, so it is no table of text"
            )
        try:
            if lines.first.lower().startswith("sep=") and len(lines.first.strip()) == 5:
                next(lines)
            separator = "\t" if tabs else _separator(lines.first)
            records = csv.reader(lines, delimiter=separator, strict=True)
            header = _header(next(records, []))
        except csv.Error as error:
            raise UnreadableFile(f"its first line is no header ({error})") from None
        yield from _rows(records, header, lines)


class _Lines(Iterator[str]):
    """The lines of a table, of which the next one can be looked at."""

    # No generator: that would be over with its first error, and the reader goes on with the line
    # after a bad one.
    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.first = text.readline(MAX_LINE_BYTES)
        """The next line; empty behind the last one."""
        self.num_taken = 0

    @property
    def is_over(self) -> bool:
        """True behind the last line."""
        return not self.first

    def __next__(self) -> str:
        line = self.first
        if not line:
            raise StopIteration
        self.num_taken += 1
        if len(line) < MAX_LINE_BYTES or line.endswith(("\n", "\r")):
            self.first = self._text.readline(MAX_LINE_BYTES)
            return line
        while line and not line.endswith(("\n", "\r")):
            line = self._text.readline(MAX_LINE_BYTES)
        self.first = self._text.readline(MAX_LINE_BYTES)
        raise csv.Error(f"a line longer than {MAX_LINE_BYTES} characters")


def _separator(header: str) -> str:
    """Return the separator that divides the header into most columns."""
    num_columns = {}
    for separator in SEPARATORS:
        record = next(csv.reader([header], delimiter=separator), [])
        num_columns[separator] = len(record)
    return max(num_columns, key=lambda separator: num_columns[separator])


def _header(record: list[str]) -> list[str]:
    names = [name.strip() for name in record]
    # Writers of data frames leave the name of the row numbers empty.
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise UnreadableFile(f"two columns are called {twice[0][:40]!r}")
    return names


def _rows(
    records: Iterator[list[str]], header: list[str], lines: _Lines
) -> Iterator[RawRow]:
    while True:
        # A record with line breaks in its cells has several lines; it is where it begins.
        location = f"line {lines.num_taken + 1}"
        try:
            record = next(records, None)
        except csv.Error as error:
            if lines.is_over and "unexpected end of data" in str(error):
                # One row would stand for all that were behind it.
                raise UnreadableFile(
                    f"a quote in {location} is never closed, so all up to line {lines.num_taken}, "
                    "the last, is one cell (close it; within a cell a quote is doubled)"
                ) from None
            # The module goes on with the next line.
            detail = f"{error} (cells with quotes: put the cell in quotes and double those in it)"
            yield RawRow(location, "", RejectedRow("not_csv", detail))
            continue
        if record is None:
            return
        yield _row(record, header, location)


def _row(record: list[str], header: list[str], location: str) -> RawRow:
    if not any(cell.strip() for cell in record):
        return RawRow(location, "", RejectedRow("empty", "a blank line"))
    if len(record) > len(header):
        detail = (
            f"{len(record)} cells under {len(header)} columns; a cell that holds the separator "
            "belongs in quotes"
        )
        return RawRow(location, record, RejectedRow("columns", detail))
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        detail = "not UTF-8; save the file as UTF-8 (Excel: CSV UTF-8)"
        return RawRow(location, record, RejectedRow("invalid_utf8", detail))
    # Some writers leave out empty cells at the end.
    cells = [*record, *[""] * (len(header) - len(record))]
    named_cells = zip(header, cells, strict=True)
    return RawRow(
        location, {name: cell if cell.strip() else None for name, cell in named_cells}
    )
