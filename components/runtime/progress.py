"""Progress of a step, as lines that people and the `run` verb can follow."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import without_passwords
from components.runtime.log_lines import (
    Level,
    LogFormat,
    LogSubject,
    format_from,
    json_line,
)

NOTE = -1.0
"""Percentage in the line of a note."""
WARNING = -2.0
"""Percentage in the line of a warning."""


@dataclass
class Progress:
    """Writes at most one line a second to standard error, and to a file for the `run` verb.

    Each line of the file is one JSON object: {"task", "percent", "tokens_per_second", "text",
    "time"}; `percent` is -1 in a note, and -2 in a warning.
    """

    file: Path | None = None
    """The file that RATCHET_PROGRESS names."""
    task: str = ""
    log_format: LogFormat = "text"
    subject: LogSubject = field(default_factory=LogSubject)
    """What the lines on standard error are about, as far as it is known."""
    _written_at: float = 0.0
    """Time of the last update, by the monotonic clock."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Progress:
        """Return a progress that reports to the file named by RATCHET_PROGRESS, if it is set.

        Raises UserError if RATCHET_LOG_FORMAT names no format.
        """
        path = environment.get("RATCHET_PROGRESS", "")
        return cls(
            file=Path(path) if path else None, log_format=format_from(environment)
        )

    def know(self, subject: LogSubject) -> None:
        """Say what the lines before `begin` belong to, unless that is known."""
        if self.subject.run:
            return
        self.subject = subject
        # Whoever stamps the lines of libraries, which may wait for this, learns it from a line.
        if self.log_format == "json":
            self.say(f"of run {subject.run}", "DEBUG")

    def begin(self, subject: LogSubject) -> None:
        """Say which task the following lines belong to."""
        self.subject = subject
        self.task = subject.task
        self._emit(0.0, 0.0, "started")

    def update(
        self, num_done: int, total: int, tokens_per_second: float = 0.0, text: str = ""
    ) -> None:
        """Report that `num_done` of `total` units are done. Cheap to call often."""
        seconds = time.monotonic()
        if seconds - self._written_at >= 1.0 or num_done >= total:
            self._written_at = seconds
            self._emit(100.0 * num_done / max(total, 1), tokens_per_second, text)

    def note(self, text: str) -> None:
        """Report a sentence, beside the percentages."""
        # A negative share marks a note for readers of the file.
        self._emit(NOTE, 0.0, text)

    def warn(self, text: str) -> None:
        """Report a sentence that a person who follows the run has to see."""
        self._emit(WARNING, 0.0, text)

    def _emit(self, percent: float, tokens_per_second: float, text: str) -> None:
        text = without_passwords(text)
        line = {
            "task": self.task,
            "percent": round(percent, 1),
            "tokens_per_second": round(tokens_per_second, 1),
            "text": text,
            "time": time.time(),
        }
        pieces = [
            self.task,
            f"{percent:.0f} %" if percent >= 0 else "",
            text,
            f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second else "",
        ]
        self.say(
            " · ".join(piece for piece in pieces if piece),
            "WARNING" if percent == WARNING else "INFO",
        )
        if self.file is None:
            return
        try:
            # Opened for each line: several processes of a step append to one file.
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            # A training of hours does not end because nobody can follow it.
            self.say(f"no further progress is shown: {self.file}: {error}", "WARNING")
            self.file = None

    def say(self, message: str, level: Level) -> None:
        """Write to the log alone, in its format."""
        if self.log_format == "json":
            message = json_line(message, level, self.subject, time.time())
        # Standard error: the URI of the receipt is alone on standard output, for scripts.
        print(message, file=sys.stderr, flush=True)
