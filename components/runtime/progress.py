"""Progress of a step, as lines that people and the `run` verb can follow."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Progress:
    """Writes at most one line a second to standard error, and to RATCHET_PROGRESS (a file) for the
    `run` verb.

    Each line of the file is one JSON object: {"task", "percent", "tokens_per_second", "text",
    "time"}.
    """

    file: Path | None = None
    task: str = ""
    _last: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Progress:
        """Progress that reports to the file named by RATCHET_PROGRESS, if it is set."""
        name = environment.get("RATCHET_PROGRESS", "")
        return cls(file=Path(name) if name else None)

    def begin(self, task: str) -> None:
        """Name the task that the following lines belong to."""
        self.task = task
        self._emit(0.0, 0.0, "started")

    def update(self, done: int, total: int, tokens_per_second: float = 0.0, text: str = "") -> None:
        """Say how far the work is. Cheap to call often."""
        now = time.monotonic()
        if now - self._last >= 1.0 or done >= total:
            self._last = now
            self._emit(100.0 * done / max(total, 1), tokens_per_second, text)

    def note(self, text: str) -> None:
        """Say something once, beside the percentages."""
        self._emit(-1.0, 0.0, text)

    def _emit(self, percent: float, tokens_per_second: float, text: str) -> None:
        line = {
            "task": self.task,
            "percent": round(percent, 1),
            "tokens_per_second": round(tokens_per_second, 1),
            "text": text,
            "time": time.time(),
        }
        shown = [self.task, f"{percent:.0f} %" if percent >= 0 else "", text]
        if tokens_per_second:
            shown.append(f"{tokens_per_second:,.0f} tokens/s")
        print(" · ".join(piece for piece in shown if piece), file=sys.stderr, flush=True)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
