"""R5: stale or reordered listings, clocks and repetitions change no result.

Each step is carried out over a store whose listings are late, and with a clock that was set; the
store then has the bytes of a campaign to which nothing happened.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from components.runtime.context import Context
from components.storage.entry import Entry
from components.storage.store import Store
from tests.promises.counting import Case
from tests.promises.kills import KILLED, Counted, kill_at
from tests.promises.small_campaign import SmallCampaign, in_a_process

YEAR_SECONDS = 365 * 24 * 3600.0
Listing = Callable[[list[str], str, random.Random], list[str]]
Clock = Callable[[int, float], float]
"""(number of this look at the clock, true time) → time that it shows."""


@dataclass(frozen=True)
class LyingStore:
    """A store whose listings are not those of this moment; all else is the store's own."""

    store: Store
    listing: Listing
    draw: random.Random

    @property
    def root(self) -> str:
        """URI of the store."""
        return self.store.root

    def put_file(
        self, key: str, path: Path, sha256: str, *, give: bool = False
    ) -> None:
        """Store a file."""
        self.store.put_file(key, path, sha256, give=give)

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store a document."""
        return self.store.put_bytes(key, data, if_absent=if_absent)

    def get_bytes(self, key: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Return an object."""
        return self.store.get_bytes(key, max_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a file."""
        self.store.get_file(key, path)

    def size(self, key: str) -> int | None:
        """Return the size of an object."""
        return self.store.size(key)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what the listing tells."""
        entries = {entry.key: entry for entry in self.store.entries(prefix)}
        listed = self.listing(sorted(entries), prefix, self.draw)
        return (entries[key] for key in listed if key in entries)

    def version(self, key: str) -> str | None:
        """Return a word for the content of an object."""
        return self.store.version(key)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a listing that is not true."""
        return iter(self.listing(list(self.store.list(prefix)), prefix, self.draw))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.store.delete(key)

    def enforces_write_once(self, key: str) -> bool:
        """Return True if a second writer is refused."""
        return self.store.enforces_write_once(key)


def _nothing_yet(keys: list[str], prefix: str, draw: random.Random) -> list[str]:
    return []


def _half_of_it(keys: list[str], prefix: str, draw: random.Random) -> list[str]:
    return [key for key in keys if draw.random() < 0.5]


def _without_the_newest(keys: list[str], prefix: str, draw: random.Random) -> list[str]:
    return sorted(keys)[: len(keys) * 2 // 3]


def _backwards(keys: list[str], prefix: str, draw: random.Random) -> list[str]:
    return sorted(keys, reverse=True)


def _shuffled_and_twice(keys: list[str], prefix: str, draw: random.Random) -> list[str]:
    twice = [*keys, *keys]
    draw.shuffle(twice)
    return twice


def _with_what_is_deleted(
    keys: list[str], prefix: str, draw: random.Random
) -> list[str]:
    # Only progress is ever deleted.
    gone = [f"{prefix}step-99999999-0badc0de.json", f"{prefix}9999.json"]
    return [*keys, *gone] if prefix.startswith("progress/") else keys


LISTINGS: tuple[Listing, ...] = (
    _nothing_yet,
    _half_of_it,
    _without_the_newest,
    _backwards,
    _shuffled_and_twice,
    _with_what_is_deleted,
)


def listing_cases(counted: Counted, per_way: int) -> Iterator[Case]:
    """Yield steps that go on after a kill, with listings that are not true."""
    for step, listing in itertools.product(counted.points, LISTINGS):
        for number in range(per_way):
            draw = random.Random(f"{step} {listing.__name__} {number}")
            point = draw.randrange(1, counted.points[step])
            check = partial(_goes_on, counted.campaign, step, point, listing, draw)
            yield Case(
                f"{step}, listing {listing.__name__.strip('_')}, {number}", check
            )


def _goes_on(
    campaign: SmallCampaign,
    step: str,
    point: int,
    listing: Listing,
    draw: random.Random,
) -> str:
    ended = kill_at(campaign, step, point)
    if ended.status != KILLED:
        return f"not killed: {ended.said[-300:]}"
    again = campaign.carry_out(
        step, surroundings=partial(_with_listings, listing, draw)
    )
    fault = again.said[-300:] if again.status else ""
    # What a listing does not show yet is not tidied up.
    return fault or campaign.difference(step, progress_may_stay=True)


def _with_listings(listing: Listing, draw: random.Random, context: Context) -> Context:
    return replace(context, store=LyingStore(context.store, listing, draw))


def _ahead(number: int, true: float) -> float:
    return true + YEAR_SECONDS


def _behind(number: int, true: float) -> float:
    return true - YEAR_SECONDS


def _still(number: int, true: float) -> float:
    return 1_700_000_000.0


def _jumping_ahead(number: int, true: float) -> float:
    return true + 3600.0 * number


def _running_backwards(number: int, true: float) -> float:
    return true - 60.0 * number


def _set_once(number: int, true: float) -> float:
    return true + (YEAR_SECONDS if number > 3 else 0.0)


CLOCKS = (_ahead, _behind, _still, _jumping_ahead, _running_backwards, _set_once)


def clock_cases(counted: Counted) -> Iterator[Case]:
    """Yield each step with each clock that is wrong."""
    for clock, step in itertools.product(CLOCKS, counted.points):
        check = partial(_at_another_time, counted.campaign, step, clock)
        yield Case(f"{step}, clock {clock.__name__.strip('_')}", check)


def _at_another_time(campaign: SmallCampaign, step: str, clock: Clock) -> str:
    campaign.restore(step)
    ended = campaign.carry_out(step, surroundings=partial(_with_clock, clock))
    return ended.said[-300:] if ended.status else campaign.difference(step)


def _with_clock(clock: Clock, context: Context) -> Context:
    numbers = itertools.count()
    return replace(context, clock=lambda: clock(next(numbers), context.clock()))


def repetition_cases(counted: Counted) -> Iterator[Case]:
    """Yield each step carried out twice: side by side, and in a row."""
    for step in counted.points:
        yield Case(
            f"{step}, side by side", partial(_side_by_side, counted.campaign, step)
        )
    for step in counted.points:
        yield Case(f"{step}, twice in a row", partial(_twice, counted.campaign, step))


def _twice(campaign: SmallCampaign, step: str) -> str:
    campaign.restore(step)
    fault = ""
    for _ in range(2):
        ended = campaign.carry_out(step)
        fault = fault or (
            ended.said[-300:] if ended.status else campaign.difference(step)
        )
    return fault


def _side_by_side(campaign: SmallCampaign, step: str) -> str:
    campaign.restore(step)
    log = campaign.folder / "said-beside.txt"
    beside = os.fork()
    if beside == 0:
        os._exit(in_a_process(partial(campaign.do, step), log).status & 0xFF)
    ended = campaign.carry_out(step)
    _, status = os.waitpid(beside, 0)
    if ended.status:
        return ended.said[-300:]
    return log.read_text()[-300:] if status else campaign.difference(step)
