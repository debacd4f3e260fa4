"""Logs of production to rows of a recipe: read, redact, sort, drop what is there already."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from components.canonical import JsonObject, canonical_json, whole_characters
from components.cli.intake.exchanges import Exchange, exchange_of, ids_of
from components.cli.intake.feedback import Feedback, Scale
from components.cli.intake.personal import Redact, Redaction
from components.contamination import Item, Overlap
from components.contracts.recipe import DataSource
from components.contracts.rows import Conversation, Dropped
from components.errors import UserError, one_line
from components.prepare.raw_rows import RawRow
from components.prepare.readers import raw_rows_of, read_source
from components.prepare.row_values import RejectedRow, parse_json

_LOGS = (".json", ".jsonl", ".ndjson", ".gz")
"""Endings of the files that are taken from a folder."""

Kind = Literal["labelled", "unlabelled"]


@dataclass(frozen=True)
class Wishes:
    """What is taken in, and how."""

    logs: Sequence[Path]
    feedback: Sequence[Path] = ()
    against: Sequence[Path] = ()
    """Evaluation data that nothing may be taken in of."""
    scale: Scale = field(default_factory=Scale)
    keep_personal: bool = False
    redact: str = ""
    """FILE.py:function of the user's own."""


@dataclass
class Account:
    """What became of every logged row."""

    rows: int = 0
    labelled: int = 0
    unlabelled: int = 0
    multi_turn: int = 0
    """Labelled rows with earlier turns of the assistant, which nobody has judged."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason → rows that are in no file."""
    answers_dropped: Counter[str] = field(default_factory=Counter)
    """Reason → rows whose prompt is taken and whose answer is not."""
    redacted: Counter[str] = field(default_factory=Counter)
    feedback_without_request: int = 0


def take_in(wishes: Wishes, folder: Path) -> Account:
    """Write `labelled.jsonl`, `unlabelled.jsonl` and `dropped.jsonl` to a folder that is new.

    A prompt whose answer a person called good, or corrected, is a labelled row; any other prompt an
    unlabelled one. The folder appears whole or not at all.

    Args:
        wishes: Files and settings.
        folder: Where to write.

    Raises:
        UserError: The folder exists, a file cannot be read, or nothing is usable.
    """
    if folder.exists():
        raise UserError(
            f"{folder} exists; name a new folder: what was taken in is never changed"
        )
    own_function = _own_function(wishes.redact)
    redaction = Redaction(
        by_pattern=not wishes.keep_personal, own_function=own_function
    )
    sorting = _Sorting(
        redaction,
        _feedback_by_id(wishes),
        Overlap(_evaluation_items(wishes.against)),
        wishes.scale,
    )
    rows: dict[Kind, dict[str, JsonObject]] = {"labelled": {}, "unlabelled": {}}
    dropped: list[JsonObject] = []
    for path in _files(wishes.logs):
        for raw in raw_rows_of(path, DataSource(uri=str(path))):
            sorting.account.rows += 1
            location = f"{path}, {raw.location}"
            with _naming(location):
                try:
                    kind, row = sorting.sort(raw)
                    _add(rows, kind, row)
                except RejectedRow as error:
                    sorting.account.dropped[error.reason] += 1
                    # Without the row itself: it may be what was to be removed.
                    detail = redaction.text(str(error))
                    dropped.append(
                        {"at": location, "reason": error.reason, "why": detail}
                    )
    account = sorting.finished(rows)
    if not account.labelled and not account.unlabelled:
        raise UserError(
            f"nothing to take in of {account.rows:,} rows{_most_often(dropped)}"
        )
    files: dict[str, Sequence[JsonObject]] = {
        "labelled.jsonl": list(rows["labelled"].values()),
        "unlabelled.jsonl": list(rows["unlabelled"].values()),
        "dropped.jsonl": dropped,
    }
    _write(folder, files)
    return account


@contextmanager
def _naming(location: str) -> Iterator[None]:
    """Name the row at which a function of the user's failed."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{location}: {error}; nothing was written") from None


class _Sorting:
    """Decides what a logged row is good for."""

    def __init__(
        self,
        redaction: Redaction,
        feedback: Mapping[str, Feedback],
        overlap: Overlap,
        scale: Scale,
    ) -> None:
        self.account = Account()
        self._redaction = redaction
        self._feedback = feedback
        self._overlap = overlap
        self._scale = scale
        self._matched: set[str] = set()

    def sort(self, raw: RawRow) -> tuple[Kind, JsonObject]:
        """Return (kind, row of the recipe's data) of a logged row. Raises RejectedRow."""
        if raw.problem is not None:
            raise raw.problem
        content = raw.content
        value = parse_json(content) if isinstance(content, bytes) else content
        exchange = exchange_of(value)
        feedback = self._feedback_on(
            exchange, value if isinstance(value, Mapping) else {}
        )
        prompt_turns = self._redaction.value(exchange.prompt_turns)
        text = Conversation(messages=tuple(prompt_turns)).as_text()
        if reason := self._overlap.of_prompt(text):
            raise RejectedRow("contamination", f"{reason} of the evaluation data")
        row: JsonObject = {"messages": prompt_turns}
        if exchange.tools:
            row["tools"] = self._redaction.value(exchange.tools)
        answer = self._answer(exchange, feedback)
        if answer is None:
            return "unlabelled", row
        return "labelled", {**row, "messages": [*prompt_turns, answer]}

    def _feedback_on(self, exchange: Exchange, row: Mapping[str, object]) -> Feedback:
        logged_feedback = self._scale.read(row)
        for name in exchange.ids:
            if name in self._feedback:
                self._matched.add(name)
                # What came later, in a file of its own, overrules what the log has.
                return self._feedback[name]
        return logged_feedback

    def _answer(self, exchange: Exchange, feedback: Feedback) -> JsonObject | None:
        """Return the turn that teaches; None if there is none, which is counted."""
        if feedback.correction:
            return {
                "role": "assistant",
                "content": self._redaction.text(feedback.correction),
            }
        reason = feedback.flaw or exchange.flaw
        if not reason and feedback.is_good is None:
            reason = "no_feedback"
        if not reason and not feedback.is_good:
            reason = "called_bad"
        if reason or exchange.answer is None:
            self.account.answers_dropped[reason] += 1
            return None
        answer: JsonObject = self._redaction.value(exchange.answer)
        return answer

    def finished(self, rows: dict[Kind, dict[str, JsonObject]]) -> Account:
        """Return the account, once prompts that are labelled too are taken from the unlabelled."""
        taught = {
            _prompt_digest(row["messages"][:-1]) for row in rows["labelled"].values()
        }
        for digest in taught & rows["unlabelled"].keys():
            del rows["unlabelled"][digest]
            self.account.dropped["labelled_too"] += 1
        self.account.labelled = len(rows["labelled"])
        self.account.unlabelled = len(rows["unlabelled"])
        self.account.multi_turn = sum(
            any(turn["role"] == "assistant" for turn in row["messages"][:-1])
            for row in rows["labelled"].values()
        )
        self.account.redacted = self._redaction.counts
        self.account.feedback_without_request = len(
            self._feedback.keys() - self._matched
        )
        return self.account


def _add(rows: dict[Kind, dict[str, JsonObject]], kind: Kind, row: JsonObject) -> None:
    """Add a row to those of its kind. Raises RejectedRow for one that is there."""
    digest = _prompt_digest(row["messages"])
    if digest in rows[kind]:
        raise RejectedRow("duplicate", "the same as an earlier row")
    rows[kind][digest] = row


def _prompt_digest(turns: Sequence[JsonObject]) -> str:
    return hashlib.sha256(canonical_json(list(turns))).hexdigest()


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, those of a folder in the order of their names."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = [
            file for file in path.rglob("*") if file.suffix in _LOGS and file.is_file()
        ]
        if not files:
            raise UserError(f"{path} has no file that ends in {', '.join(_LOGS)}")
        yield from sorted(files)


def _feedback_by_id(wishes: Wishes) -> dict[str, Feedback]:
    by_id: dict[str, Feedback] = {}
    for path in wishes.feedback:
        for raw in raw_rows_of(path, DataSource(uri=str(path))):
            location = f"{path}, {raw.location}"
            try:
                value = (
                    parse_json(raw.content)
                    if isinstance(raw.content, bytes)
                    else raw.content
                )
            except RejectedRow as error:
                raise UserError(f"{location}: {error}; correct the feedback") from None
            ids = ids_of(value) if isinstance(value, dict) else ()
            if not isinstance(value, dict) or not ids:
                raise UserError(
                    f"{location} names no request: give it the request's id as `id`"
                )
            # The newest line counts: people change their mind.
            by_id.update(dict.fromkeys(ids, wishes.scale.read(value)))
    return by_id


def _evaluation_items(paths: Sequence[Path]) -> list[Item]:
    items: list[Item] = []
    for path in paths:
        source = DataSource(uri=str(path), split="unlabelled")
        for example in read_source(path, source):
            if not isinstance(example, Dropped):
                items.append((example.as_prompt(), example.completion or ""))
    return items


def _own_function(name: str) -> Redact | None:
    """Return the function that FILE.py:function names."""
    if not name:
        return None
    file, _, function = name.rpartition(":")
    spec = (
        importlib.util.spec_from_file_location("own_redaction", file) if file else None
    )
    if spec is None or spec.loader is None:
        raise UserError(
            f"--redact {name}: give a file and a function, my_redaction.py:redact"
        )
    if not Path(file).is_file():
        raise UserError(f"--redact {name}: there is no file {Path(file).absolute()}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 — a user's module may raise anything.
        raise UserError(
            f"--redact {name}: {file} cannot be loaded: {_problem(error, file)}"
        ) from None
    redact: object = getattr(module, function, None)
    if not callable(redact):
        raise UserError(f"--redact {name}: {file} has no function {function}")

    def checked(text: str) -> str:
        try:
            redacted = redact(text)
        except (Exception, SystemExit) as error:  # noqa: BLE001 — so may the function.
            raise UserError(f"--redact {name} raised {_problem(error, file)}") from None
        if not isinstance(redacted, str):
            raise UserError(
                f"--redact {name} returned {type(redacted).__name__}, not a text"
            )
        # Half of a surrogate pair could not be written.
        return whole_characters(redacted)

    return checked


def _problem(error: BaseException, file: str) -> str:
    """Return an exception of the user's code in one line, with the line of the file it passed."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file and frame.lineno is not None
    ]
    location = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{location}: {one_line(error)}"


def _most_often(dropped: Sequence[JsonObject]) -> str:
    if not dropped:
        return ": they are empty"
    (reason, count), *_ = Counter(row["reason"] for row in dropped).most_common(1)
    first = next(row for row in dropped if row["reason"] == reason)
    return f", most often ({count:,}): {reason}, first at {first['at']} ({one_line(first['why'])})"


def _write(folder: Path, files: Mapping[str, Sequence[JsonObject]]) -> None:
    """Write JSON Lines files to a folder that appears once they are whole."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        for name, rows in files.items():
            with (unfinished / name).open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        unfinished.rename(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"{folder} cannot be written ({one_line(error)})") from None
