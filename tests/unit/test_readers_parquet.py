"""Parquet is read row by row: what cannot be read is rejected alone, whatever its column's type."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from components.errors import UserError
from tests.unit.reading import read


def test_parquet_rows_are_read_and_bad_ones_rejected_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    rows = [
        {"prompt": "2+2", "completion": "4"},
        {"prompt": "", "completion": "4"},
        {"prompt": "3+3", "completion": "6"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    examples, rejected = read(path)
    assert [example.prompt for example in examples] == ["2+2", "3+3"]
    assert [(row.reason, "row 2" in row.detail) for row in rejected] == [
        ("empty", True)
    ]


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([2**62, 0], pyarrow.timestamp("us")),
        pyarrow.array([2**31 - 1, 0], pyarrow.int32()).cast(pyarrow.date32()),
        pyarrow.array([2**62, 0], pyarrow.duration("ms")),
    ],
    ids=["timestamp", "date", "duration"],
)
def test_a_row_with_a_value_that_cannot_be_read_is_rejected_alone(
    tmp_path: Path, column: pyarrow.Array
) -> None:
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "when": column}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data.parquet")
    examples, rejected = read(tmp_path / "data.parquet")
    assert [example.prompt for example in examples] == ["b"]
    assert [row.reason for row in rejected] == ["unreadable_value"]


def test_a_time_zone_that_nobody_knows_rejects_its_rows(tmp_path: Path) -> None:
    when = pyarrow.array([1, None], pyarrow.timestamp("us", tz="Mars/Olympus"))
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "when": when}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data.parquet")
    examples, rejected = read(tmp_path / "data.parquet")
    assert [example.prompt for example in examples] == ["b"]
    assert [row.reason for row in rejected] == ["unreadable_value"]


def test_parquet_conversations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.parquet"
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}]), path)
    assert [example.completion for example in read(path)[0]] == ["Hello"]


def test_parquet_with_views_of_texts_is_read(tmp_path: Path) -> None:
    """Polars and others write the kind of their columns into the file."""
    columns = {
        "prompt": pyarrow.array(["2+2", "3+3"], pyarrow.string_view()),
        "completion": pyarrow.array(["4", "6"], pyarrow.string_view()),
        "tags": pyarrow.array([["a"], ["b", "c"]], pyarrow.list_view(pyarrow.string())),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")
    examples, rejected = read(tmp_path / "data.parquet")
    assert [example.completion for example in examples] == ["4", "6"]
    assert not rejected


def test_a_row_of_views_counts_what_they_show(tmp_path: Path) -> None:
    """Each list of it shows the one below a thousand times: 10**32 bytes in all."""
    shown = pyarrow.array(["x" * 100_000], pyarrow.string_view())
    for _ in range(10):
        lists = [
            pyarrow.array([number] * 1000, pyarrow.int32())
            for number in (0, len(shown))
        ]
        shown = pyarrow.ListViewArray.from_arrays(*lists, shown)
    nothing = pyarrow.array([None], shown.type)
    table = pyarrow.table(
        {
            "prompt": ["a", "b"],
            "completion": ["c", "d"],
            "more": pyarrow.concat_arrays([shown[:1], nothing]),
        }
    )
    with pyarrow.ipc.new_stream(tmp_path / "data.arrow", table.schema) as file:
        file.write_table(table)
    examples, rejected = read(tmp_path / "data.arrow")
    assert [example.prompt for example in examples] == ["b"]
    assert [row.reason for row in rejected] == ["too_long"]


def test_a_type_of_column_whose_size_nobody_knows_is_refused_by_name(
    tmp_path: Path,
) -> None:
    runs = pyarrow.RunEndEncodedArray.from_arrays([2], pyarrow.array(["x"]))
    table = pyarrow.table(
        {"prompt": ["a", "b"], "completion": ["c", "d"], "more": runs}
    )
    with pyarrow.ipc.new_stream(tmp_path / "data.arrow", table.schema) as file:
        file.write_table(table)
    with pytest.raises(
        UserError, match=r"columns of run_end_encoded.* are not read; write"
    ):
        read(tmp_path / "data.arrow")
