"""The side of a confined process: its channel of lines, away from what the code reads and prints."""

from __future__ import annotations

import json
import os
import sys


class Channel:
    """Lines of JSON over what were standard input and output; those lead nowhere from now on."""

    def __init__(self) -> None:
        self._source = os.fdopen(os.dup(0), "rb")
        self._sink = os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        os.close(nowhere)

    def receive(self) -> dict[str, object]:
        """Return the next document. The process ends with the input."""
        line = self._source.readline()
        if not line:
            sys.exit(0)
        document: dict[str, object] = json.loads(line)
        return document

    def send(self, document: dict[str, object]) -> None:
        """Write one document."""
        data = json.dumps(document).encode() + b"\n"
        while data:
            data = data[os.write(self._sink, data) :]
