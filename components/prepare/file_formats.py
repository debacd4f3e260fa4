"""The format of a file that somebody brings: by the recipe, by its name, or by its first bytes."""

from __future__ import annotations

import zlib
from pathlib import Path, PurePosixPath
from typing import Literal

from components.contracts.recipe import DataSource
from components.errors import UserError, first_line
from components.prepare.raw_rows import BYTE_ORDER_MARK, HEAD_BYTES, open_bytes

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "text"]

_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".tex": "text",
}
"""Ending of a file → its format. `.json` is not here: arrays and JSON Lines both have it."""

_EXPORTS = "save the sheet as CSV UTF-8"
_UNPACK = "unpack it, or compress with gzip"
_REFUSED = {
    ".xlsx": f"a spreadsheet: {_EXPORTS}",
    ".xls": f"a spreadsheet: {_EXPORTS}",
    ".ods": f"a spreadsheet: {_EXPORTS}",
    ".zip": f"a zip archive: {_UNPACK}",
    ".tar": "an archive: unpack it, and name one file in it",
    ".tgz": "an archive: unpack it, and name one file in it",
    ".7z": f"an archive: {_UNPACK}",
    ".bz2": f"compressed by bzip2: {_UNPACK}",
    ".xz": f"compressed by xz: {_UNPACK}",
    ".zst": f"compressed by zstd: {_UNPACK}",
    ".pkl": "a pickle, which runs code when it is read: write the rows as JSON Lines",
    ".pickle": "a pickle, which runs code when it is read: write the rows as JSON Lines",
    ".pt": "a pickle, which runs code when it is read: write the rows as JSON Lines",
    ".npy": "an array of numbers: write the rows as JSON Lines",
    ".pdf": "no plain text: extract its text, or write the rows as JSON Lines",
    ".docx": "no plain text: save it as text, or write the rows as JSON Lines",
    ".html": "markup, which a model would learn: extract its text, or set `format: text`",
    ".xml": "markup: write the rows as JSON Lines, or set `format: text`",
    ".yaml": "YAML: write the rows as JSON Lines",
    ".yml": "YAML: write the rows as JSON Lines",
    ".db": "a database: export the rows as CSV",
    ".sqlite": "a database: export the rows as CSV",
}
"""Ending of a file that is not read → what it is and what helps."""
FORMATS_READ = "JSON Lines, JSON arrays, CSV, TSV, Parquet, Arrow and plain text"


def format_of(path: Path, source: DataSource) -> Format:
    """Return the format of a file.

    Raises UserError if there is no such file, or if it is of a format that is not read.
    """
    head = _head(path, source)
    chosen = source.format if source.format != "auto" else _told(path, source, head)
    # Excel's "Unicode text", and `>` of PowerShell. Of other encodings only their letters tell, row
    # by row.
    if chosen not in ("parquet", "arrow") and _is_utf16(head):
        raise UserError(f"{source.uri} is UTF-16: save it as UTF-8 (Excel: CSV UTF-8)")
    return chosen


def _is_utf16(head: bytes) -> bool:
    """Return True for UTF-16, by its byte order mark or by zeros in every other byte."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    # Without a mark: of text with ASCII in it one of the two halves is mostly zeros, the other has
    # none.
    halves = (head[0::2], head[1::2])
    zeros = [half.count(0) / max(1, len(half)) for half in halves]
    return min(zeros) == 0 and max(zeros) > 0.5


def _told(path: Path, source: DataSource, head: bytes) -> Format:
    """Return the format that the file's name or its first bytes tell."""
    # The URI's ending comes first: a file from a hub or bucket may lie under a name without one.
    for name in (source.uri, path.name):
        suffix = _suffix(name)
        if suffix in _REFUSED:
            raise UserError(f"{source.uri} is {_REFUSED[suffix]}")
        if suffix in _BY_SUFFIX:
            chosen = _BY_SUFFIX[suffix]
            return (
                "json"
                if chosen == "jsonl" and _is_array_of_lines(path, head)
                else chosen
            )
    return _format_of_bytes(head, source)


def _start(head: bytes) -> bytes:
    # Spreadsheets and editors on Windows begin a file with a byte order mark.
    return head.removeprefix(BYTE_ORDER_MARK).lstrip()


def _is_array_of_lines(path: Path, head: bytes) -> bool:
    """Return True for an array of objects over several lines."""
    # Arrays are often saved under the name of JSON Lines. A line that is a whole array is a bad row.
    first, _, rest = _start(head).partition(b"\n")
    first = first.rstrip()
    begins = (
        rest.lstrip().startswith(b"{") if first == b"[" else first.startswith(b"[{")
    )
    if not begins or not rest or first.endswith(b"]"):
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - HEAD_BYTES))
        return file.read().rstrip().endswith(b"]")


def _suffix(name: str) -> str:
    """Return the ending of a name, in lower case; of `rows.csv.gz` that is `.csv`."""
    stem = PurePosixPath(name.lower())
    return (
        PurePosixPath(stem.stem).suffix
        if stem.suffix in (".gz", ".gzip")
        else stem.suffix
    )


def _head(path: Path, source: DataSource) -> bytes:
    try:
        with open_bytes(path) as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise UserError(f"{source.uri}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{source.uri} is a folder; name one file in it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source.uri}: cannot be read ({first_line(error)})") from None


def _format_of_bytes(head: bytes, source: DataSource) -> Format:
    """Return the format that the first bytes of a file show, or raise UserError."""
    start = _start(head)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    if start.startswith(b"["):
        return "json"
    if start.splitlines()[:1] == [b"{"]:
        raise UserError(
            f"{source.uri} is one JSON object; its rows belong into an array, or one on each line "
            f"(jq -c '.KEY[]' FILE > FILE.jsonl, with the key that holds them)"
        )
    if start.startswith(b"{"):
        return "jsonl"
    # A cut at 4096 bytes may split a character, so a decoding error near the end proves nothing.
    if head and b"\0" not in head and "�" not in head[:-4].decode(errors="replace"):
        return "text"
    raise UserError(
        f"{source.uri}: unknown format; {FORMATS_READ} are read, also compressed by gzip"
    )
