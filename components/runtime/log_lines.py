"""Lines of a log as JSON objects, each with the run, round and step that it belongs to.

A step writes its own lines so. Those of libraries, of compiled code and of processes that it
started get the same form from whoever reads the step's output: the supervisor in its container,
or the `run` verb.

The standard library alone is imported here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from components.errors import UserError, without_passwords

FORMAT_VARIABLE = "RATCHET_LOG_FORMAT"
LogFormat = Literal["text", "json"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_BEGIN = '{"timestamp": '
_LEVEL_WORDS = re.compile(
    r"(?:\[rank\d+\]:)?[\W\d]{0,40}(?:T[\d:.,]{5,20}Z?)?[\W\d]{0,9}(?:[\w.]{1,99} - )?"
    r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b"
)
"""What libraries begin a line with: torchrun's rank, a time, the logger's name, the level. Each part
has a longest length: a line of a table may have a million digits."""
_LEVEL_LETTERS = re.compile(r"\[?([IWEF])\d{4} \d\d:")
"""As torchrun and NCCL begin a line: `W1130 16:20:41`."""
_FAILURES = ("error (", "error: ", "Traceback (most recent call last)")
_LEVELS: dict[str, Level] = {
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "I": "INFO",
    "WARNING": "WARNING",
    "W": "WARNING",
    "ERROR": "ERROR",
    "E": "ERROR",
    "CRITICAL": "ERROR",
    "F": "ERROR",
}


@dataclass(frozen=True)
class LogSubject:
    """The task of a run that a line of a log belongs to."""

    run: str = ""
    """Id of the run; empty before it is known."""
    round: int | None = None
    """As in attempt records: -1 where the base model is measured. None before it is known."""
    step: str = ""
    task: str = ""
    """Name in attempt records, `generate-r1-s0`."""


def format_from(
    environment: Mapping[str, str], default: LogFormat = "text"
) -> LogFormat:
    """Return the format that RATCHET_LOG_FORMAT names. Raises UserError if it names another."""
    name = environment.get(FORMAT_VARIABLE, "").strip()
    match name:
        case "":
            return default
        case "text" | "json":
            return name
    raise UserError(f"{FORMAT_VARIABLE}={name}: there are text and json")


def json_line(message: str, level: Level, subject: LogSubject, seconds: float) -> str:
    """Return one line of a log, without its end.

    Args:
        message: May have several lines, as a traceback has.
        level: How serious it is.
        subject: What it is about.
        seconds: Its time, since the epoch.
    """
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    fields = {
        "timestamp": moment.replace("+00:00", "Z"),
        "level": level,
        "message": without_passwords(message),
        **asdict(subject),
    }
    if level == "ERROR":
        # Of an archived line that is a JSON object the API of Kubeflow Pipelines (2.17,
        # apiserver/archive/log.go) returns the field of this name alone.
        fields["log"] = fields["message"]
    return json.dumps(fields, ensure_ascii=False)


def message_of(line: str) -> str:
    """Return the message of a line of a log in either format."""
    before, own_line = _parted(line)
    fields = _fields_of(own_line)
    if fields is None:
        return line
    message = str(fields["message"])
    return f"{before}\n{message}" if before else message


class LineStamper:
    """Gives the lines of one step's output the form of `json_line`.

    A line of the step's own has it already, and says which task all others belong to.
    """

    def __init__(self, subject: LogSubject, *, follows: bool = True) -> None:
        """Begin with what is known before the step has said anything.

        Args:
            subject: What lines of others belong to.
            follows: They belong to what the last line that names a run is about.
        """
        self.subject = subject
        self._follows = follows

    def stamp(self, line: str, seconds: float) -> str:
        """Return a line that was read at a time (seconds since the epoch) in the form.

        Two lines where a process left its last one without an end before another one spoke.
        """
        before, own_line = _parted(line)
        fields = _fields_of(own_line)
        if fields is None:
            return json_line(line, _level_of(line), self.subject, seconds)
        if before:
            return f"{self.stamp(before, seconds)}\n{self.stamp(own_line, seconds)}"
        own_subject = _subject_of(fields)
        if own_subject.run and not self._follows:
            return own_line
        # The step's name is known from its command before it says it itself.
        step = own_subject.step or self.subject.step
        if own_subject.run:
            self.subject = replace(own_subject, step=step)
        fields.update(asdict(replace(self.subject, step=step)))
        return json.dumps(fields, ensure_ascii=False)


class LineSplitter:
    """Cuts a stream of bytes into lines of text."""

    MAX_BYTES = 1 << 20

    def __init__(self) -> None:
        self._unfinished = b""

    def add(self, block: bytes) -> list[str]:
        """Return the lines that the next bytes end. A carriage return ends one too."""
        text = (self._unfinished + block).replace(b"\r", b"\n")
        *lines, self._unfinished = text.split(b"\n")
        # A task that writes without line ends must not fill this process's memory.
        if len(self._unfinished) > self.MAX_BYTES:
            lines.append(self._unfinished)
            self._unfinished = b""
        return [line.decode(errors="replace") for line in lines]

    def end(self) -> list[str]:
        """Return what stands after the last line end, if anything does."""
        rest = self._unfinished.decode(errors="replace")
        self._unfinished = b""
        return [rest] if rest else []


def _parted(line: str) -> tuple[str, str]:
    """Return (what stands before, the object that may end a line)."""
    start = max(line.find(_BEGIN), 0)
    return line[:start], line[start:]


def _fields_of(line: str) -> dict[str, object] | None:
    """Return the fields of a line that has the form, else None."""
    # A cheap look first: most lines of a training are progress bars and tables.
    if not line.startswith(_BEGIN):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    needed = {"timestamp", "level", "message", "run", "round", "step"}
    return fields if isinstance(fields, dict) and needed <= fields.keys() else None


def _subject_of(fields: Mapping[str, object]) -> LogSubject:
    number = fields["round"]
    return LogSubject(
        run=str(fields["run"]),
        round=number if isinstance(number, int) else None,
        step=str(fields["step"]),
        task=str(fields.get("task", "")),
    )


def _level_of(line: str) -> Level:
    """Return how serious a line is by its first word."""
    if line.lstrip().startswith(_FAILURES):
        return "ERROR"
    match = _LEVEL_WORDS.match(line) or _LEVEL_LETTERS.match(line)
    return "INFO" if match is None else _LEVELS[match[1]]
