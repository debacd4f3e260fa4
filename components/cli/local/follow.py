"""Follows a running campaign: one line per finished task, and on a terminal a moving line per
running one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from components.report.words import cut, seconds_text

QUIET_TASKS = ("pass-through", "report")
"""Steps that only hand something on: not worth a line unless they fail."""


@dataclass
class Running:
    """A task that is under way; shards of one step are one task here."""

    name: str
    since: float
    shards: int = 1
    reused: bool = False
    parts: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    """Name in the progress file (`generate-r1-s0`) → percent, tokens per second, text."""

    @property
    def percent(self) -> float:
        """Mean over the shards; those that have not spoken yet are at 0."""
        return sum(part[0] for part in self.parts.values()) / max(self.shards, len(self.parts), 1)

    @property
    def tokens_per_second(self) -> float:
        """Sum over the shards."""
        return sum(part[1] for part in self.parts.values())


class Tail:
    """Reads the lines that a JSON Lines file has grown by; a half-written or foreign line is left
    out."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> list[dict[str, Any]]:
        """New whole lines since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = []
        for line in whole.splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # two tasks wrote at once
        return [row for row in rows if isinstance(row, dict) and "task" in row]


class Follower:
    """Turns the task file and the progress file of a run into lines on a console."""

    def __init__(self, console: Console, tasks_file: Path, progress_file: Path) -> None:
        self._console = console
        self._tasks, self._progress = Tail(tasks_file), Tail(progress_file)
        self._running: dict[str, Running] = {}
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Follower:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()

    def poll(self) -> None:
        """Show what is new. Cheap; call it a few times a second."""
        events, news = self._tasks.read(), self._progress.read()
        for event in events:
            if event.get("event") == "started":
                self._start(str(event["task"]), float(event["time"]))
                continue
            news = [line for line in news if not self._advance(line)]
            self._finish(str(event["task"]), str(event["event"]), float(event["time"]))
        for line in news:
            self._advance(line)
        if self._live is not None:
            self._live.update(self._picture())

    def _start(self, name: str, when: float) -> None:
        if name in self._running:
            self._running[name].shards += 1
            return
        self._running[name] = Running(name, when)
        if self._live is None and not name.startswith(QUIET_TASKS):
            self._console.print(Text(f"{name} …"))

    def _advance(self, line: dict[str, Any]) -> bool:
        """Take a line of progress; False if its task is not under way."""
        task = str(line["task"])
        running = next(
            (one for one in self._running.values() if f"{task}-".startswith(f"{one.name}-")), None
        )
        if running is None:
            return False
        percent, text = float(line.get("percent", 0.0)), str(line.get("text", ""))
        running.reused = running.reused or text == "reused"
        if percent < 0:  # a note: the percentage stays
            percent = running.parts.get(task, (0.0, 0.0, ""))[0]
        running.parts[task] = (percent, float(line.get("tokens_per_second", 0.0)), text)
        return True

    def _finish(self, name: str, status: str, when: float) -> None:
        running = self._running.get(name)
        if running is None:
            return
        running.shards -= 1
        if running.shards > 0 and status == "SUCCESS":
            return
        del self._running[name]
        if name.startswith(QUIET_TASKS) and status == "SUCCESS":
            return
        line = Text(
            "✓ " if status == "SUCCESS" else "✗ ", style="green" if status == "SUCCESS" else "red"
        )
        line.append(f"{name:<13}", style="default")
        line.append(f" {seconds_text(when - running.since):>8}", style="dim")
        if status != "SUCCESS":
            line.append("  failed", style="red")
        elif running.reused:
            line.append("  reused", style="dim")
        self._console.print(line)

    def _picture(self) -> RenderableType:
        now, lines = time.time(), []
        for one in self._running.values():
            line = Text("· ", style="cyan", no_wrap=True, overflow="ellipsis")
            line.append(f"{one.name:<13}", style="default")
            line.append(f" {seconds_text(now - one.since):>8}  {one.percent:3.0f} %", style="dim")
            if one.tokens_per_second:
                line.append(f"  {one.tokens_per_second:,.0f} tokens/s", style="dim")
            said = next(
                (part[2] for part in one.parts.values() if part[2] not in ("", "started")), ""
            )
            line.append(f"  {cut(said, 60)}" if said else "", style="dim")
            lines.append(line)
        return Group(*lines)
