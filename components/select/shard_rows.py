"""Rows of a shard as they lie in its receipt: JSON Lines, or Parquet for large ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from components.contracts.rows import R, read_rows
from components.errors import Corrupt

BATCH_ROWS = 8192
"""Rows of a Parquet shard that are read at once."""


def rows_of(path: Path, kind: type[R]) -> Iterator[R]:
    """The rows of a JSON Lines or Parquet file of this project, told apart by their first bytes."""
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    return _parquet_rows(path, kind) if is_parquet else read_rows(path, kind)


def _parquet_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """Nested columns (`reference`, `tags`, `conversation`) are JSON text: their keys differ from row to row."""
    import pyarrow
    import pyarrow.parquet
    from pydantic import ValidationError

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    for name in ("reference", "tags", "conversation"):
                        if isinstance(row.get(name), str):
                            row[name] = json.loads(row[name])
                    yield kind.model_validate(row)
    except (pyarrow.ArrowException, OSError, ValidationError, ValueError) as error:
        said = str(error).splitlines()[0][:200]
        raise Corrupt(f"{path}, row {number}: not a {kind.__name__} row ({said})") from None
