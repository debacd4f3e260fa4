"""S9: a collection of garbage takes nothing that is needed, whatever writers do meanwhile.

Writers and collections share one store. After every call of it, chance decides whose turn is next, so
a collection may come between any two calls of a writer. Writers store bytes that old runs stored
before, find old work done, are killed and started again. Time passes by one second a call; the grace
period is a few calls only, or nothing where no writer is killed.

What a writer had when its step ended must be there, byte by byte, when all have ended.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import RootModel

from components.cli.collect.collection import collect
from components.cli.collect.marking import Policy
from components.contracts.summaries import PublishSummary
from components.runtime.attempts import Task
from components.runtime.context import Context, make_context
from components.runtime.receipts import Receipt, commit_once
from components.storage.entry import Entry
from components.storage.objects import find
from components.storage.store import Store
from tests.promises.counting import Case

NUM_OLD_RUNS = 3
NUM_WRITERS = 3
NUM_COLLECTIONS = 6
STEPS_PER_WRITER = 3
BLOBS = [bytes([number]) * 300 for number in range(9)]
"""Contents that runs have in common."""
POLICY = Policy(keep_runs=1, small_bytes=64, unnamed_bytes=64)
GRACE_WITH_KILLS = 400.0
"""Between its last look at the marks and its receipt a writer makes two calls; of five actors, each
gets a turn within this time."""
LONGEST_WAIT_WITH_KILLS = 60
"""Turns of others after which an actor is next."""
NAP_TURNS = (50, 600)
"""Turns of others while an actor sleeps: enough for two collections."""
NAP_CHANCE = 0.25


class Nothing(RootModel[dict[str, int]]):
    """The summary of a step without one."""


class Killed(BaseException):
    """The end of an actor in the midst of a call."""


class Turns:
    """Lets one thread go on at a time, from one call of the store to its next one."""

    def __init__(self, draw: random.Random, longest_wait: float) -> None:
        """`longest_wait`: turns of others after which an actor is next."""
        self._draw = draw
        self._longest_wait = longest_wait
        self._lock = threading.Lock()
        self._gates: dict[str, threading.Semaphore] = {}
        self._waited: dict[str, int] = {}
        """Actor that stands before a call → turns that others had meanwhile."""
        self._asleep: dict[str, int] = {}
        """The same → turns that others have first."""
        self.now = 1_000_000.0

    def carry_out(self, actors: dict[str, Callable[[], None]]) -> None:
        """Carry out all actors; raise the first failure."""
        self._gates = {name: threading.Semaphore(0) for name in actors}
        failures: list[BaseException] = []

        def act(name: str, work: Callable[[], None]) -> None:
            try:
                self.wait(name)
                work()
            except BaseException as error:  # noqa: BLE001 (it is raised again below)
                failures.append(error)
            finally:
                with self._lock:
                    del self._gates[name]
                    self._choose()

        threads = [
            threading.Thread(target=act, args=actor, name=actor[0])
            for actor in actors.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def wait(self, name: str, *, sleeps: bool = False) -> None:
        """Wait for the next turn of an actor; a call of somebody who is none is done at once.

        Args:
            name: The actor.
            sleeps: It is overtaken by a great many calls of others first.
        """
        gate = self._gates.get(name)
        if gate is not None:
            with self._lock:
                self._waited[name] = 0
                self._asleep[name] = self._draw.randrange(*NAP_TURNS) if sleeps else 0
                self._choose()
            gate.acquire()
        self.now += 1.0

    def _choose(self) -> None:
        """Give the next turn, once all actors stand before a call."""
        if not self._gates or self._waited.keys() != self._gates.keys():
            return
        names = sorted(self._waited)
        awake = [
            name for name in names if self._asleep[name] <= self._waited[name]
        ] or names
        longest = max(awake, key=lambda name: self._waited[name])
        is_overdue = self._waited[longest] >= self._longest_wait
        chosen = longest if is_overdue else self._draw.choice(awake)
        for name in names:
            self._waited[name] += 1
        del self._waited[chosen]
        self._gates[chosen].release()


@dataclass
class SteppedStore:
    """A store whose calls wait for their turn, and whose clock is that of the turns."""

    store: Store
    turns: Turns
    modified: dict[str, float]
    """Key → time of the last write."""
    draw: random.Random | None = None
    """Decides whether a call sleeps, most of all one that a receipt hangs on; None: none does."""
    calls_left: float = math.inf
    """Calls before the process of this store is killed. A dead one makes no more."""

    @property
    def root(self) -> str:
        """URI of the store."""
        return self.store.root

    def _turn(self, chance: float = 0.02) -> None:
        if self.calls_left > 0:
            sleeps = self.draw is not None and self.draw.random() < chance
            self.turns.wait(threading.current_thread().name, sleeps=sleeps)
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Killed

    def put_file(
        self, key: str, path: Path, sha256: str, *, give: bool = False
    ) -> None:
        """Store a file, in the two calls that it takes on a bucket: a look, and the upload."""
        self._turn()
        if key.endswith(sha256) and self.store.size(key) == path.stat().st_size:
            return
        self._turn(NAP_CHANCE)
        self.store.put_file(key, path, sha256, give=give)
        self.modified[key] = self.turns.now

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store a document."""
        self._turn(
            NAP_CHANCE
            if key.startswith(("steps/", "attempts/", "condemned/"))
            else 0.02
        )
        is_written = self.store.put_bytes(key, data, if_absent=if_absent)
        if is_written:
            self.modified[key] = self.turns.now
        return is_written

    def get_bytes(self, key: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Return an object."""
        self._turn()
        return self.store.get_bytes(key, max_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a file."""
        self._turn()
        self.store.get_file(key, path)

    def size(self, key: str) -> int | None:
        """Return the size of an object."""
        self._turn()
        return self.store.size(key)

    def version(self, key: str) -> str | None:
        """Return a word for the content of an object."""
        self._turn()
        return self.store.version(key)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a folder, as they are at this moment."""
        self._turn()
        return iter(list(self.store.list(prefix)))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the same with sizes and times."""
        self._turn()
        entries = [
            replace(entry, modified=self.modified[entry.key])
            for entry in self.store.entries(prefix)
        ]
        return iter(entries)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._turn(NAP_CHANCE)
        self.store.delete(key)

    def enforces_write_once(self, key: str) -> bool:
        """Return True: it is a folder."""
        return self.store.enforces_write_once(key)


@dataclass
class History:
    """One history: what every writer had when a step of its own ended."""

    plain: Context
    """Without turns."""
    had: dict[tuple[str, str], set[tuple[str, int]]] = field(default_factory=dict)
    """(run, step/key) → (digest, size) of the objects that were there."""

    def write(
        self, context: Context, run_id: str, *, steps: int = STEPS_PER_WRITER
    ) -> None:
        """Carry out some steps of a run; the same steps again after a kill."""
        draw = random.Random(run_id)
        for number in range(steps):
            # Few settings and few contents: much of it was done, or stored, by others before.
            setting = draw.randrange(3)
            blobs = [draw.randrange(len(BLOBS))]
            receipt = _commit(context, run_id, number, setting, blobs)
            present = {
                (ref.sha256, ref.size)
                for ref in receipt.objects.values()
                if find(self.plain.store, ref.sha256, ref.size) is not None
            }
            self.had[run_id, receipt.ref] = present

    def lost(self) -> Iterator[str]:
        """Yield what a writer had and the store has no more."""
        for (run_id, ref), objects in self.had.items():
            for sha256, size in objects:
                address = find(self.plain.store, sha256, size)
                if address is None:
                    yield f"{run_id}: {sha256[:8]} of {ref} is lost"
                elif (
                    hashlib.sha256(self.plain.store.get_bytes(address)).hexdigest()
                    != sha256
                ):
                    yield f"{run_id}: {address} has other bytes"


def write_alone(
    uri: str, environment: dict[str, str], folder: str, run_id: str
) -> None:
    """Carry out a run in a process of its own, and write what it had to `folder/RUN_ID.json`."""
    cache = {"RATCHET_CACHE": str(Path(folder) / run_id)}
    context = make_context(uri, {**environment, **cache})
    history = History(context)
    history.write(context, run_id, steps=7)
    had = [[ref, sorted(objects)] for (_, ref), objects in history.had.items()]
    (Path(folder) / f"{run_id}.json").write_text(json.dumps(had))


def had_by(folder: Path, run_id: str) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Return what a run had that `write_alone` carried out."""
    had = json.loads((folder / f"{run_id}.json").read_text())
    return {
        (run_id, ref): {(digest, size) for digest, size in objects}
        for ref, objects in had
    }


def _commit(
    context: Context, run_id: str, number: int, setting: int, blobs: list[int]
) -> Receipt:
    def work(folder: Path) -> Nothing:
        for blob in blobs:
            (folder / f"blob-{blob}").write_bytes(BLOBS[blob])
        return Nothing({})

    task = Task(run_id=run_id, name=f"mix-{number}", round=0)
    config: dict[str, Any] = {"setting": setting, "blobs": [*blobs]}
    return commit_once(
        context, task, "mix", config=config, inputs={}, seed=0, work=work
    )


def end_run(context: Context, run_id: str) -> None:
    """End a run, which may be given up from then on."""

    def work(folder: Path) -> PublishSummary:
        return PublishSummary(
            name="none",
            version="",
            prefix="",
            released=False,
            why="not proved better",
            dtype="float32",
            champion="prepare/none",
            champion_round=None,
            target_met=False,
            metric="accuracy",
            validation_score=0.0,
            test_score=0.0,
            split="test",
            scores=None,
        )

    task = Task(run_id=run_id, name="publish", round=0)
    commit_once(
        context, task, "publish", config={"run": run_id}, inputs={}, seed=0, work=work
    )


def cases(
    make_context: Callable[[str], Context], count: int, *, begin: int = 0
) -> Iterator[Case]:
    """Yield that many histories, each in an empty store.

    Args:
        make_context: Returns the surroundings of a step over the empty store of a name.
        count: Number of histories.
        begin: Number of the first.
    """
    for number in range(begin, begin + count):
        yield Case(f"history {number}", partial(_history, make_context, number))


def _history(make_context: Callable[[str], Context], number: int) -> str:
    draw = random.Random(f"collections {number}")
    with_kills = number % 2 == 1
    plain = make_context(f"history-{number}")
    history = History(plain)
    turns = Turns(draw, LONGEST_WAIT_WITH_KILLS if with_kills else math.inf)
    grace = GRACE_WITH_KILLS if with_kills else 0.0
    modified: dict[str, float] = {}

    def process(calls: float = math.inf) -> Context:
        """Return the surroundings of a process that is killed after so many calls."""
        naps = None if with_kills else draw
        store = SteppedStore(plain.store, turns, modified, naps, calls)
        return replace(plain, store=store, clock=lambda: turns.now, started=turns.now)

    # Old runs end before anything else begins, so all of them but one may be given up.
    for old in range(NUM_OLD_RUNS):
        run_id = f"old-{number}-{old}"
        history.write(process(), run_id, steps=6)
        end_run(process(), run_id)
    history.had.clear()

    def write(run_id: str) -> None:
        if with_kills:
            with suppress(Killed):
                history.write(process(draw.randrange(1, 100)), run_id)
        history.write(process(), run_id)

    def collect_often() -> None:
        for _ in range(NUM_COLLECTIONS):
            collect(process(), POLICY, grace_seconds=grace, delete=True)
            turns.wait(threading.current_thread().name, sleeps=not with_kills)
            if with_kills:
                turns.now += draw.choice((0.0, grace / 2))

    actors: dict[str, Callable[[], None]] = {
        f"writer-{writer}": partial(write, f"run-{number}-{writer}")
        for writer in range(NUM_WRITERS)
    }
    turns.carry_out({**actors, "gc-1": collect_often, "gc-2": collect_often})
    for _ in range(2):
        collect(process(), POLICY, grace_seconds=0.0, delete=True)
    return "; ".join(history.lost())
