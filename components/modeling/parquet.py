"""Rows of Parquet files, in bounded memory.

In this folder, because only the images that have torch have pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.canonical import JsonObject
from components.errors import first_line

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
"""Rows that are in memory at once. Large rows take 4 MiB each, so a batch may take 4 GiB."""


class UnreadableParquet(Exception):
    """The file is damaged, or is no Parquet. The message is one line."""

    def __init__(self, row: int, message: str) -> None:
        """`row` counts the rows that were read before, so it is 0 if the file cannot be opened."""
        super().__init__(message)
        self.row = row


def parquet_rows(path: Path) -> Iterator[JsonObject | None]:
    """Yield each row as column → value, or None for a row with a string that is not UTF-8.

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


def _rows_of_batch(batch: pyarrow.RecordBatch) -> Iterator[JsonObject | None]:
    """Yield the rows of a `pyarrow.RecordBatch`."""
    try:
        rows: list[JsonObject] = batch.to_pylist()
    except UnicodeDecodeError:
        # pyarrow decodes a batch whole or not at all, so one bad string would cost 1,024 rows.
        yield from (_row_or_none(batch, index) for index in range(batch.num_rows))
    else:
        yield from rows


def _row_or_none(batch: pyarrow.RecordBatch, index: int) -> JsonObject | None:
    try:
        rows: list[JsonObject] = batch.slice(index, 1).to_pylist()
    except UnicodeDecodeError:
        return None
    return rows[0]
