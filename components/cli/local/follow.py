"""Progress of a running campaign: a line for each finished task, moving lines for running ones."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from components.cli.json_documents import Json
from components.report.words import cut, seconds_text
from components.runtime.progress import WARNING

# Steps that only hand something on: not worth a line unless they fail.
QUIET_TASKS = ("pass-through", "report")


@dataclass(frozen=True)
class ShardProgress:
    """Last word of one shard, or of a task without shards."""

    percent: float = 0.0
    tokens_per_second: float = 0.0
    text: str = ""


@dataclass
class Running:
    """A task that is under way; shards of one step are one task here."""

    name: str
    since: float
    """Seconds since the epoch."""
    shards: int = 1
    reused: bool = False
    shard_progress: dict[str, ShardProgress] = field(default_factory=dict)
    """Name in the progress file (`generate-r1-s0`) → its progress."""

    @property
    def percent(self) -> float:
        """Mean over the shards; those that have not spoken yet are at 0."""
        num_shards = max(self.shards, len(self.shard_progress), 1)
        return (
            sum(progress.percent for progress in self.shard_progress.values())
            / num_shards
        )

    @property
    def tokens_per_second(self) -> float:
        """Sum over the shards."""
        return sum(
            progress.tokens_per_second for progress in self.shard_progress.values()
        )

    @property
    def text(self) -> str:
        """Words of the first shard that says something."""
        for progress in self.shard_progress.values():
            if progress.text not in ("", "started"):
                return progress.text
        return ""


class Tail:
    """Reads the lines that a JSON Lines file has grown by."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Json]:
        """Return the new whole lines about tasks since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        # A line that is still being written is read by the next call.
        whole_lines = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole_lines)
        rows = []
        for line in whole_lines.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # two tasks wrote at once
            if isinstance(row, dict) and "task" in row:
                rows.append(row)
        return rows


class Follower:
    """Turns the task file and the progress file of a run into lines on a console."""

    def __init__(self, console: Console, tasks_file: Path, progress_file: Path) -> None:
        self._console = console
        # kfp.local tells of tasks, but not how far they are; that the steps themselves write.
        self._tasks = Tail(tasks_file)
        self._progress = Tail(progress_file)
        self._running: dict[str, Running] = {}
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Follower:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()

    def poll(self) -> None:
        """Show what is new. Cheap; call it a few times a second."""
        events = self._tasks.read()
        progress_rows = self._progress.read()
        for event in events:
            name = str(event["task"])
            if event.get("event") == "started":
                self._start(name, float(event["time"]))
                continue
            # Before the task is taken off the list: its last words may say that it was reused.
            progress_rows = [row for row in progress_rows if not self._advance(row)]
            self._finish(name, str(event["event"]), float(event["time"]))
        for row in progress_rows:
            self._advance(row)
        if self._live is not None:
            self._live.update(self._render())

    def _start(self, name: str, started: float) -> None:
        if name in self._running:
            self._running[name].shards += 1
            return
        self._running[name] = Running(name, started)
        # In a log, where no line moves, this one says that the task is under way.
        if self._live is None and not name.startswith(QUIET_TASKS):
            self._console.print(Text(f"{name} …"))

    def _advance(self, row: Json) -> bool:
        """Take a row of progress; return False if its task is not under way."""
        shard = str(row["task"])
        task = self._task_of(shard)
        if task is None:
            return False
        text = str(row.get("text", ""))
        percent = float(row.get("percent", 0.0))
        task.reused = task.reused or text == "reused"
        if percent == WARNING:
            self._console.print(Text(f"  {shard}: {cut(text, 600)}", style="yellow"))
        if percent < 0:  # a note: the percentage stays
            if task.name == "prepare" and text != "reused":
                # What becomes of the data is to be read before hours are spent on it.
                self._console.print(Text(f"  {cut(text, 400)}", style="dim"))
            percent = task.shard_progress.get(shard, ShardProgress()).percent
        tokens_per_second = float(row.get("tokens_per_second", 0.0))
        task.shard_progress[shard] = ShardProgress(percent, tokens_per_second, text)
        return True

    def _task_of(self, shard: str) -> Running | None:
        for task in self._running.values():
            # With the hyphen, generate-r1 is not taken for generate-r10.
            if f"{shard}-".startswith(f"{task.name}-"):
                return task
        return None

    def _finish(self, name: str, status: str, ended: float) -> None:
        task = self._running.get(name)
        if task is None:
            return
        succeeded = status == "SUCCESS"
        task.shards -= 1
        if task.shards > 0 and succeeded:
            return
        del self._running[name]
        if name.startswith(QUIET_TASKS) and succeeded:
            return
        line = Text("✓ ", style="green") if succeeded else Text("✗ ", style="red")
        seconds = seconds_text(ended - task.since)
        line.append(f"{name:<13}", style="default")
        line.append(f" {seconds:>8}", style="dim")
        if not succeeded:
            line.append("  failed", style="red")
        elif task.reused:
            line.append("  reused", style="dim")
        self._console.print(line)

    def _render(self) -> RenderableType:
        """Return a line for each running task."""
        now_seconds = time.time()
        lines = []
        for task in self._running.values():
            seconds = seconds_text(now_seconds - task.since)
            line = Text("· ", style="cyan", no_wrap=True, overflow="ellipsis")
            line.append(f"{task.name:<13}", style="default")
            line.append(f" {seconds:>8}  {task.percent:3.0f} %", style="dim")
            if task.tokens_per_second:
                line.append(f"  {task.tokens_per_second:,.0f} tokens/s", style="dim")
            if task.text:
                line.append(f"  {cut(task.text, 60)}", style="dim")
            lines.append(line)
        return Group(*lines)
