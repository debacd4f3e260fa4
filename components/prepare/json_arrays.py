"""Rows of a file of JSON arrays, mostly of one, in bounded memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from components.contracts.rows import MAX_LINE_BYTES
from components.errors import first_line
from components.prepare.raw_rows import RawRow, UnreadableFile, open_bytes

CHUNK_CHARACTERS = 1024 * 1024
_WHITE_SPACE = " \t\r\n"


def array_rows(path: Path) -> Iterator[RawRow]:
    """Yield each item, parsed: of arrays that follow each other, and objects between them.

    Raises:
        UnreadableFile: An array is broken; nobody knows where the next item would begin.
    """
    with open_bytes(path) as file:
        items = _Items(io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape"))
        number = 0
        while items.has_next():
            number += 1
            # NaN becomes a float here, which no field of a row may be.
            yield RawRow(f"row {number}", items.take())


class _Items:
    """The items of arrays, of which only the part around the next one is held."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._file = file
        self._text = ""
        self._position = 0
        self._at_end = False
        self._num_taken = 0
        self._is_inside = False
        self._needs_comma = False
        self._decoder = json.JSONDecoder()

    def has_next(self) -> bool:
        """Go to the next item; return False at the end of the file."""
        while True:
            character = self._peek()
            if not self._is_inside:
                if character in ("", "{"):
                    return bool(character)
                self._skip("[")
                self._is_inside = True
            elif character == "]":
                self._skip("]")
                self._is_inside = False
                self._needs_comma = False
            elif self._needs_comma:
                self._skip(",")
                self._needs_comma = False
            else:
                return True

    def take(self) -> object:
        """Return the next item."""
        self._num_taken += 1
        self._needs_comma = self._is_inside
        while True:
            problem = "the file ends within it"
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                problem = first_line(error)
            else:
                # A number at the end of what was read may go on: 12 of 123.
                if end < len(self._text) or self._at_end:
                    self._position = end
                    return value
            if self._at_end or len(self._text) - self._position > MAX_LINE_BYTES:
                raise UnreadableFile(f"row {self._num_taken} is no JSON ({problem})")
            self._read_on()

    def _skip(self, expected: str) -> None:
        """Go past the next character, which is `expected`."""
        character = self._peek()
        if character != expected:
            raise UnreadableFile(
                f"after row {self._num_taken} {character!r} stands in place of a comma or bracket"
            )
        self._position += 1

    def _peek(self) -> str:
        """Return the next character that is no white space; empty at the end of the file."""
        while True:
            while self._position < len(self._text):
                if self._text[self._position] not in _WHITE_SPACE:
                    return self._text[self._position]
                self._position += 1
            if self._at_end:
                return ""
            self._read_on()

    def _read_on(self) -> None:
        # As much again as is held, so that a large item is not parsed anew for every chunk of it.
        rest = self._text[self._position :]
        chunk = self._file.read(max(CHUNK_CHARACTERS, len(rest)))
        self._at_end = not chunk
        self._text = rest + chunk
        self._position = 0
