"""Rows of Parquet and Arrow files, in bounded memory.

In this folder, because only the images that have torch have pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.canonical import JsonObject
from components.contracts.rows import MAX_LINE_BYTES
from components.errors import first_line
from components.modeling.row_sizes import CHUNK_BYTES, chunks, row_bytes

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

BATCH_ROWS = 1024
"""Rows that are read at once, at most."""
MAX_GROUP_VALUES = 1 << 28
"""Of a row group, in all columns: one row may hold them all, in 8 bytes each."""


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
        with pyarrow.parquet.ParquetFile(path) as plain:
            schema = plain.schema_arrow
            texts = _text_columns(plain)
        # A text that the file holds once stays once in memory, until its row is handed out.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            groups = [
                file.metadata.row_group(index) for index in range(file.num_row_groups)
            ]
            # All before the first row, so that a file is used as a whole or not at all.
            sizes = [_batch_rows(group) for group in groups]
            for index, size in enumerate(sizes):
                for batch in file.iter_batches(batch_size=size, row_groups=[index]):
                    for row in _rows_of_batch(batch, schema):
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
                        piece = batch.slice(start, BATCH_ROWS)
                        for row in _rows_of_batch(piece, batch.schema):
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


def _text_columns(file: pyarrow.parquet.ParquetFile) -> list[str]:
    """Return the paths of the columns that hold texts or bytes, within lists and structs too."""
    columns = [file.schema.column(index) for index in range(len(file.schema))]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.logical_type.type != "DECIMAL"
    ]


def _batch_rows(group: pyarrow.parquet.RowGroupMetaData) -> int:
    """Return how many rows of a group are read at once.

    Raises UnreadableParquet for a group whose rows are too large, by its own account.
    """
    num_values = sum(
        group.column(index).num_values for index in range(group.num_columns)
    )
    mean_bytes: int = group.total_byte_size // max(1, group.num_rows)
    if num_values > MAX_GROUP_VALUES or mean_bytes > CHUNK_BYTES:
        raise UnreadableParquet(
            0,
            f"a row group of {group.num_rows:,} rows holds {num_values:,} values in "
            f"{group.total_byte_size:,} bytes, more than is read at once",
        )
    return max(1, min(BATCH_ROWS, CHUNK_BYTES // max(1, mean_bytes)))


def _rows_of_batch(
    batch: pyarrow.RecordBatch, schema: pyarrow.Schema
) -> Iterator[JsonObject | UnreadableRow]:
    """Yield the rows of a `pyarrow.RecordBatch`, few of them in memory at once.

    Args:
        batch: the rows, with texts in dictionaries or not.
        schema: their types without dictionaries.
    """
    sizes = row_bytes(batch)
    for start, end in chunks(sizes):
        if sizes[start:end].max() <= MAX_LINE_BYTES:
            yield from _rows_of_chunk(batch.slice(start, end - start), schema)
            continue
        for index in range(start, end):
            if sizes[index] > MAX_LINE_BYTES:
                yield UnreadableRow("too_long", f"longer than {MAX_LINE_BYTES} bytes")
            else:
                yield _row(batch, index)


def _rows_of_chunk(
    batch: pyarrow.RecordBatch, schema: pyarrow.Schema
) -> Iterator[JsonObject | UnreadableRow]:
    import pyarrow

    try:
        # Python objects of dictionaries take five times as long to make.
        plain = batch.cast(schema)
    except pyarrow.ArrowNotImplementedError:
        # No cast leads to views of texts.
        plain = batch
    try:
        rows: list[JsonObject] = plain.to_pylist()
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
