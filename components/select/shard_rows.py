"""Rows of a shard: JSON Lines, or Parquet for large shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from components.contracts.rows import R, read_rows
from components.errors import Corrupt, one_line


def rows_of(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the rows of a JSON Lines or Parquet file; the first bytes of the file say which it is.

    Args:
        path: The file.
        kind: Model of the rows.

    Raises:
        Corrupt: A row does not fit the model, or the file cannot be read.
    """
    with path.open("rb") as file:
        # A cached object lies under its digest: its name does not tell the format.
        is_parquet = file.read(4) == b"PAR1"
    return _rows_of_parquet(path, kind) if is_parquet else read_rows(path, kind)


def _rows_of_parquet(path: Path, kind: type[R]) -> Iterator[R]:
    # `modeling` is for packages that not every image has: nothing of it is loaded with a step.
    from components.modeling.parquet import (
        UnreadableParquet,
        UnreadableRow,
        parquet_rows,
    )

    number = 0
    try:
        for row in parquet_rows(path):
            number += 1
            if isinstance(row, UnreadableRow):
                raise ValueError(row.detail)
            # Their keys differ from row to row, so these columns hold JSON text.
            for name in ("reference", "tags", "conversation"):
                if isinstance(row.get(name), str):
                    row[name] = json.loads(row[name])
            yield kind.model_validate(row)
    except (UnreadableParquet, ValueError) as error:
        raise Corrupt(
            f"{path}, row {number}: not a {kind.__name__} row ({one_line(error)})"
        ) from None
