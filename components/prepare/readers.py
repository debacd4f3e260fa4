"""Bounded, tolerant readers for the files that people bring.

JSON Lines, JSON arrays, CSV, TSV, Parquet, plain text, and folders that the library `datasets`
saved. A bad row is handed out as Dropped with its reason and place, never raised: what comes in is
accepted or rejected, and counted. Only a file that cannot be used at all is an error.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.canonical import JsonObject
from components.contracts.recipe import DataSource
from components.contracts.rows import MAX_LINE_BYTES, Dropped
from components.errors import UserError, first_line
from components.prepare.examples import Example
from components.prepare.file_formats import Format, format_of
from components.prepare.json_arrays import array_rows
from components.prepare.raw_rows import (
    MAX_REJECTED_CHARACTERS,
    Line,
    RawRow,
    UnreadableFile,
    lines_of,
)
from components.prepare.row_shapes import example_of, shapes_of
from components.prepare.row_values import RejectedRow, parse_json
from components.prepare.saved_folders import arrow_files
from components.prepare.tables import table_rows

if TYPE_CHECKING:
    from components.modeling.parquet import UnreadableRow

_ROWS_ARE: dict[Format, str] = {
    "jsonl": "rows are one JSON object a line",
    "csv": "the first line names the columns",
    "tsv": "the first line names the columns",
}
"""Format → what its rows are."""


def read_source(path: Path, source: DataSource) -> Iterator[Example | Dropped]:
    """Read a file row by row: each row is either an Example or a Dropped with the reason.

    `row_shapes` knows the shapes of a row. A prompt without an answer is usable in split
    `unlabelled` alone. Stops after `source.limit` usable rows. Raises UserError if the file is
    missing, of unknown format, or holds nothing usable.
    """
    num_usable = 0
    reasons = Counter[str]()
    first_details: dict[str, str] = {}
    for item in _rows(path, source):
        yield item
        if isinstance(item, Dropped):
            reasons[item.reason] += 1
            detail = item.detail.removeprefix(f"{source.uri}, ")
            first_details.setdefault(item.reason, detail)
            continue
        num_usable += 1
        # Not before the row is handed out, and without a look at the rest of a large file.
        if num_usable == source.limit:
            return
    if num_usable:
        return
    explanation = "it holds no rows"
    for reason, _ in reasons.most_common(1):
        explanation = (
            f"all {reasons.total()} rows were rejected, most often: {reason}, first at "
            f"{first_details[reason]}"
        )
    hints = [_ROWS_ARE.get(_format(path, source), "")]
    # A row of an unknown shape says it already.
    if shapes_of(source) not in explanation:
        hints.append(f"expected {shapes_of(source)}")
    words = [f"no usable row ({explanation})", *filter(None, hints)]
    raise UserError(f"{source.uri}: {'; '.join(words)}")


def _format(path: Path, source: DataSource) -> Format:
    return "arrow" if path.is_dir() else format_of(path, source)


def _rows(path: Path, source: DataSource) -> Iterator[Example | Dropped]:
    for row in raw_rows_of(path, source):
        try:
            if row.problem is not None:
                raise row.problem
            content = row.content
            value = parse_json(content) if isinstance(content, bytes) else content
            example = example_of(value, source, row.location)
            yield replace(example, is_paragraph=True) if row.is_paragraph else example
        except RejectedRow as error:
            yield Dropped(
                reason=error.reason,
                detail=f"{source.uri}, {row.location}: {error}",
                row={"text": _excerpt(row.content)},
            )


def raw_rows_of(path: Path, source: DataSource) -> Iterator[RawRow]:
    """Yield the rows of a file as it holds them, whatever they mean.

    Raises UserError if the file is missing, of unknown format, or cannot be read on.
    """
    num_read = 0
    try:
        for row in _rows_of_format(path, source):
            yield row
            num_read += 1
    except UnreadableFile as error:
        raise UserError(f"{source.uri}: {error}; write the file anew") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{source.uri}: not readable as gzip after row {num_read} ({first_line(error)}); "
            "compress the file anew"
        ) from None


def _rows_of_format(path: Path, source: DataSource) -> Iterator[RawRow]:
    if path.is_dir():
        return _arrow_rows(arrow_files(path, source.uri), source)
    match _format(path, source):
        case "jsonl":
            return _json_lines(path)
        case "json":
            return array_rows(path)
        case "csv":
            return table_rows(path, tabs=False)
        case "tsv":
            return table_rows(path, tabs=True)
        case "parquet":
            return _parquet_rows(path, source)
        case "arrow":
            return _arrow_rows([path], source)
        case "text":
            return _paragraphs(path)


def _json_lines(path: Path) -> Iterator[RawRow]:
    for line in lines_of(path):
        if line.text.strip():
            yield line.as_row()
        else:
            problem = RejectedRow("empty", "a blank line")
            yield RawRow(f"line {line.number}", b"", problem)


def _paragraphs(path: Path) -> Iterator[RawRow]:
    """Yield blocks of lines between blank lines, as {"text": block}."""
    block: list[Line] = []
    size = 0
    for line in lines_of(path):
        if line.is_too_long:
            # It is no part of the paragraph around it, which goes on.
            yield line.as_row()
            continue
        is_blank = not line.text.strip()
        if not is_blank and size + len(line.text) <= MAX_LINE_BYTES:
            block.append(line)
            size += len(line.text)
            continue
        if block:
            yield _paragraph(block)
        # A block that would grow too large ends here, and this line begins the next one.
        block = [] if is_blank else [line]
        size = 0 if is_blank else len(line.text)
    if block:
        yield _paragraph(block)


def _paragraph(block: list[Line]) -> RawRow:
    location = f"line {block[0].number}"
    content = b"".join(line.text for line in block)
    try:
        return RawRow(
            location, {"text": content.decode("utf-8").strip()}, is_paragraph=True
        )
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} of the paragraph is not UTF-8"
        return RawRow(location, content, RejectedRow("invalid_utf8", detail))


def _parquet_rows(path: Path, source: DataSource) -> Iterator[RawRow]:
    # `modeling` is for packages that not every image has: nothing of it is loaded with a step.
    from components.modeling.parquet import parquet_rows

    return _columnar_rows(parquet_rows(path), "Parquet", source)


def _arrow_rows(paths: list[Path], source: DataSource) -> Iterator[RawRow]:
    from components.modeling.parquet import arrow_rows

    return _columnar_rows(arrow_rows(paths), "Arrow", source)


def _columnar_rows(
    rows: Iterator[JsonObject | UnreadableRow], format_name: str, source: DataSource
) -> Iterator[RawRow]:
    from components.modeling.parquet import UnreadableParquet, UnreadableRow

    # A damaged block in the middle ends the file: nobody knows how many rows it held.
    try:
        for number, row in enumerate(rows, 1):
            if isinstance(row, UnreadableRow):
                problem = RejectedRow(row.reason, row.detail)
                yield RawRow(f"row {number}", b"", problem)
            else:
                yield RawRow(f"row {number}", row)
    except UnreadableParquet as error:
        position = f"after row {error.row}" if error.row else "from the start"
        raise UserError(
            f"{source.uri}: not readable as {format_name} {position} ({error}); write the file anew"
        ) from None


def _excerpt(content: object) -> str:
    """Return the beginning of a row, in characters that UTF-8 can encode."""
    # Half of a surrogate pair, which JSON can hold, would fail when the row is written.
    text = (
        content.decode(errors="replace")
        if isinstance(content, bytes)
        else repr(content)
    )
    return text.encode(errors="replace").decode()[:MAX_REJECTED_CHARACTERS]
