"""R4: histories of many writers of one ledger, checked against what one writer after the other gives.

Each writer reads the ledger, appends the line after the last that it saw, and tries again where it
came too late; some only read. Every call is noted with the moments of its begin and its end. A
history is right if an order of the calls explains all answers: each number was won once, a reader
saw all lines that were won before it began and none that nobody had begun to write, and what two
readers saw is the same as far as both saw it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as counter

from components.contracts.releases import BaseModelLine, Line
from components.runtime.context import Context
from components.runtime.ledger import append_line, read_lines
from components.storage.store import Store
from tests.promises.counting import Case

NUM_WRITERS = 16
CALLS_PER_WRITER = 3


@dataclass(frozen=True)
class Call:
    """One call of a writer, with moments that all writers share."""

    begun: int
    ended: int
    writer: int
    number: int
    """Line that was to be appended; 0: the ledger was read."""
    won: bool
    seen: tuple[str, ...]
    """Versions of the lines that were read."""


def cases(context: Context, stores: dict[str, Store], count: int) -> Iterator[Case]:
    """Yield that many histories over the stores, in turn."""
    names = list(stores)
    for number in range(count):
        kind = names[number % len(names)]
        in_store = replace(context, store=stores[kind])
        yield Case(f"{kind}, history {number}", partial(_history, in_store, number))


def _history(context: Context, number: int) -> str:
    name = f"history-{number}"
    moments = counter()
    begin = threading.Barrier(NUM_WRITERS)
    writer = partial(_write, context, name, moments, begin)
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        calls = [
            call for calls in pool.map(writer, range(NUM_WRITERS)) for call in calls
        ]
    final = tuple(line.version for line in read_lines(context, name))
    return judge(calls, final)


def _write(
    context: Context,
    name: str,
    moments: Iterator[int],
    begin: threading.Barrier,
    writer: int,
) -> list[Call]:
    draw = random.Random(f"{name} {writer}")
    calls = []
    begin.wait()
    for turn in range(CALLS_PER_WRITER):
        begun = next(moments)
        seen = tuple(line.version for line in read_lines(context, name))
        calls.append(Call(begun, next(moments), writer, 0, False, seen))
        if draw.random() < 0.25:
            continue
        number = len(seen) + 1
        line = line_of(name, number, f"w{writer}-{turn}")
        begun = next(moments)
        won = append_line(context, line)
        calls.append(Call(begun, next(moments), writer, number, won, (line.version,)))
    return calls


def judge(calls: list[Call], final: tuple[str, ...]) -> str:
    """Return what no order of the calls explains; empty if one does."""
    appended = [call for call in calls if call.number]
    winners = {call.number: call for call in appended if call.won}
    if len(winners) != sum(call.won for call in appended):
        return "two writers won one number"
    if tuple(winners[number].seen[0] for number in sorted(winners)) != final:
        return f"the ledger holds {final}, which is not what was won"
    for call in appended:
        winner = winners.get(call.number)
        if not call.won and (winner is None or winner.begun > call.ended):
            return f"writer {call.writer} was refused number {call.number} before anybody had it"
    for call in calls:
        if call.number:
            continue
        if call.seen != final[: len(call.seen)]:
            return f"writer {call.writer} read {call.seen}, which is no beginning of the ledger"
        must_see = sum(winner.ended < call.begun for winner in winners.values())
        may_see = sum(winner.begun < call.ended for winner in winners.values())
        if not must_see <= len(call.seen) <= may_see:
            return f"{len(call.seen)} lines were read, of {must_see} to {may_see} there could be"
    return ""


def line_of(name: str, number: int, version: str) -> Line:
    """Return a line of the ledger, of a release that nobody made."""
    return Line(
        name=name,
        number=number,
        action="release",
        version=version,
        prefix=f"models/{name}/{version}/",
        publish="publish/none",
        publish_digest="none",
        weights="none",
        files={},
        run_id="run",
        state=f"decide/{version}",
        recipe="none",
        base=BaseModelLine(source="scratch", prepared="prepare/none", digest="none"),
        split="test",
        score=0.5,
        interval=(0.4, 0.6),
        opening=None,
        predecessor=None,
        asked_by=version,
        at="2026-01-01T00:00:00Z",
    )
