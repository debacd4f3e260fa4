"""Rows of Parquet and Arrow files, in bounded memory.

In this folder, because only the images that have torch have pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.canonical import JsonObject
from components.errors import first_line

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
"""Rows that are in memory at once. Large rows take 4 MiB each, so a batch may take 4 GiB."""


_BAD_VALUES = (ValueError, ArithmeticError, LookupError)
"""A string that is not UTF-8, a date that Python has not, a time zone that nobody knows."""


@dataclass(frozen=True)
class UnreadableRow:
    """A row with a value that cannot be read."""

    reason: str
    detail: str


class UnreadableParquet(Exception):
    """The file is damaged, or is no Parquet or Arrow. The message is one line."""

    def __init__(self, row: int, message: str) -> None:
        """`row` counts the rows that were read before, so it is 0 if the file cannot be opened."""
        super().__init__(message)
        self.row = row


def parquet_rows(path: Path) -> Iterator[JsonObject | UnreadableRow]:
    """Yield each row as column → value, or an UnreadableRow for one with a value that is none.

    Raises UnreadableParquet where the file cannot be read on.
    """
    # Imported late: it takes half a second, and most files are JSON Lines.
    import pyarrow
    import pyarrow.parquet

    num_read = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in _rows_of_batch(batch):
                    num_read += 1
                    yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableParquet(num_read, first_line(error)) from error


def arrow_rows(paths: Sequence[Path]) -> Iterator[JsonObject | UnreadableRow]:
    """Yield the rows of Arrow files, one after the other; see `parquet_rows`.

    Streams, as `datasets` writes them, and files of the format with a footer are read.
    """
    import pyarrow

    num_read = 0
    try:
        for path in paths:
            with pyarrow.memory_map(str(path)) as file:
                for batch in _arrow_batches(file):
                    # Writers choose the size of a batch; ours bounds the Python objects of it.
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        for row in _rows_of_batch(batch.slice(start, BATCH_ROWS)):
                            num_read += 1
                            yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableParquet(num_read, first_line(error)) from error


def _arrow_batches(file: pyarrow.NativeFile) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    if is_stream:
        yield from pyarrow.ipc.open_stream(file)
        return
    reader = pyarrow.ipc.open_file(file)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _rows_of_batch(batch: pyarrow.RecordBatch) -> Iterator[JsonObject | UnreadableRow]:
    """Yield the rows of a `pyarrow.RecordBatch`."""
    try:
        rows: list[JsonObject] = batch.to_pylist()
    except _BAD_VALUES:
        # pyarrow decodes a batch whole or not at all, so one bad value would cost 1,024 rows.
        yield from (_row(batch, index) for index in range(batch.num_rows))
    else:
        yield from rows


def _row(batch: pyarrow.RecordBatch, index: int) -> JsonObject | UnreadableRow:
    try:
        rows: list[JsonObject] = batch.slice(index, 1).to_pylist()
    except UnicodeDecodeError:
        return UnreadableRow("invalid_utf8", "a string of this row is not UTF-8")
    except _BAD_VALUES as error:
        return UnreadableRow("unreadable_value", first_line(error))
    return rows[0]
