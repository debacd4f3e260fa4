"""Bounded, tolerant readers for the files that people bring: JSON Lines, Parquet, plain text.

A bad row is handed out as Dropped with its reason and place, never raised: what comes in is
accepted or rejected, and counted. Only a file that cannot be used at all is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.contracts.recipe import DataSource
from components.contracts.rows import MAX_LINE_BYTES, Dropped
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.row_shapes import RejectedRow, example_of, parse_json, shapes_of

MAX_REJECTED_CHARACTERS = 500
"""Length of the excerpt of a rejected row that is stored beside the accepted ones."""

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "txt",
}
"""Ending of a file → its format."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _RawRow:
    """A row as its file holds it."""

    location: str
    """`line 7` or `row 7`."""
    content: object
    """Bytes of a line of JSON, or a value that is parsed already."""
    problem: RejectedRow | None = None
    """Set if the file's format alone makes the row unusable."""


def read_source(path: Path, source: DataSource) -> Iterator[Example | Dropped]:
    """Read a file row by row: each row is either an Example or a Dropped with the reason.

    Shapes of a row: {prompt, completion} under the source's field names; {messages: [{role,
    content}, …]}; {text}, raw text; {text, label}. A prompt without an answer is usable in split
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
    explanation = "it is empty"
    for reason, _ in reasons.most_common(1):
        explanation = (
            f"all {reasons.total()} rows were rejected, most often: {reason}, first at "
            f"{first_details[reason]}"
        )
    raise UserError(
        f"{source.uri}: no usable row ({explanation}); rows are one JSON object a line, "
        f"{shapes_of(source)}"
    )


def _rows(path: Path, source: DataSource) -> Iterator[Example | Dropped]:
    for row in _raw_rows(path, source):
        try:
            if row.problem is not None:
                raise row.problem
            content = row.content
            value = parse_json(content) if isinstance(content, bytes) else content
            yield example_of(value, source, row.location)
        except RejectedRow as error:
            yield Dropped(
                reason=error.reason,
                detail=f"{source.uri}, {row.location}: {error}",
                row={"text": _excerpt(row.content)},
            )


def _raw_rows(path: Path, source: DataSource) -> Iterator[_RawRow]:
    match _format(path, source):
        case "jsonl":
            return _json_lines(path)
        case "parquet":
            return _parquet_rows(path, source)
        case _:
            return _paragraphs(path)


def _format(path: Path, source: DataSource) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise UserError(f"{source.uri}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{source.uri} is a folder; name one file in it") from None
    except OSError as error:
        raise UserError(f"{source.uri}: cannot be read ({error})") from None
    # The URI's ending comes first: a file from a hub or bucket may lie under a name without one.
    for suffix in (Path(source.uri).suffix, path.suffix):
        if suffix.lower() in _FORMATS:
            return _FORMATS[suffix.lower()]
    return _format_of_bytes(head, source)


def _format_of_bytes(head: bytes, source: DataSource) -> str:
    """Return the format that the first 4,096 bytes of a file show, or raise UserError."""
    # Spreadsheets and editors on Windows begin a file with a byte order mark.
    start = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"{"):
        return "jsonl"
    if start.startswith(b"["):
        raise UserError(
            f"{source.uri} is one JSON array; write one object a line "
            "(jq -c '.[]' FILE > FILE.jsonl)"
        )
    # A cut at 4096 bytes may split a character, so a decoding error near the end proves nothing.
    if head and b"\0" not in head and "�" not in head[:-4].decode(errors="replace"):
        return "txt"
    raise UserError(f"{source.uri}: unknown format; use .jsonl, .parquet or .txt, uncompressed")


@dataclass(frozen=True)
class _Line:
    """A line of a file. Of one that is too long only the beginning is held."""

    number: int
    """From 1."""
    text: bytes
    is_too_long: bool

    def as_row(self) -> _RawRow:
        """Return the line as a row of its own."""
        problem = None
        if self.is_too_long:
            problem = RejectedRow("too_long", f"longer than {MAX_LINE_BYTES} bytes")
        return _RawRow(f"line {self.number}", self.text, problem)


def _json_lines(path: Path) -> Iterator[_RawRow]:
    for line in _lines(path):
        if line.text.strip():
            yield line.as_row()
        else:
            problem = RejectedRow("empty", "a blank line")
            yield _RawRow(f"line {line.number}", b"", problem)


def _paragraphs(path: Path) -> Iterator[_RawRow]:
    """Yield blocks of lines between blank lines, as {"text": block}."""
    block: list[_Line] = []
    size = 0
    for line in _lines(path):
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


def _paragraph(block: list[_Line]) -> _RawRow:
    location = f"line {block[0].number}"
    content = b"".join(line.text for line in block)
    try:
        return _RawRow(location, {"text": content.decode("utf-8").strip()})
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} of the paragraph is not UTF-8"
        return _RawRow(location, content, RejectedRow("invalid_utf8", detail))


def _lines(path: Path) -> Iterator[_Line]:
    """Yield the lines of a file in bounded memory."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if len(line) <= MAX_LINE_BYTES:
                yield _Line(number, line, is_too_long=False)
                continue
            # A file may be one line of gigabytes: skip its rest piece by piece.
            piece = line
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(MAX_LINE_BYTES)
            yield _Line(number, line[:MAX_REJECTED_CHARACTERS], is_too_long=True)


def _parquet_rows(path: Path, source: DataSource) -> Iterator[_RawRow]:
    # `modeling` is for packages that not every image has: nothing of it is loaded with a step.
    from components.modeling.parquet import UnreadableParquet, parquet_rows

    # A damaged block in the middle ends the file: nobody knows how many rows it held.
    try:
        for number, row in enumerate(parquet_rows(path), 1):
            if row is None:
                problem = RejectedRow("invalid_utf8", "a string of this row is not UTF-8")
                yield _RawRow(f"row {number}", b"", problem)
            else:
                yield _RawRow(f"row {number}", row)
    except UnreadableParquet as error:
        position = f"after row {error.row}" if error.row else "from the start"
        raise UserError(
            f"{source.uri}: not readable as Parquet {position} ({error}); write the file anew"
        ) from None


def _excerpt(content: object) -> str:
    """Return the beginning of a row, in characters that UTF-8 can encode."""
    # Half of a surrogate pair, which JSON can hold, would fail when the row is written.
    text = content.decode(errors="replace") if isinstance(content, bytes) else repr(content)
    return text.encode(errors="replace").decode()[:MAX_REJECTED_CHARACTERS]
