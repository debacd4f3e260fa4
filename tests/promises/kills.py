"""R1: a process that is killed loses at most the shard or checkpoint in flight.

The kill points of a step are numbered: each file that it opens, links, renames or deletes, each
folder that it makes, each fsync and each optimizer step. A process kills itself (SIGKILL) just before
point n; the same step is carried out again, and the store has the bytes of an uninterrupted campaign.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.promises.counting import Case
from tests.promises.small_campaign import Ended, SmallCampaign

KILLED = -signal.SIGKILL
RESUMED = re.compile(r"going on from the checkpoint of step (\d+)")
KILLS_IN_A_ROW = 5
"""Kills at random times of one step, before it may end."""
LONGEST_SECONDS = 0.6
"""Of a step before such a kill; most take longer."""
_EVENTS = {
    "open",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
}


def kill_points(folder: Path, reached: Callable[[int], None]) -> Callable[[], None]:
    """Return a function that has `reached` called with the number of each kill point from then on.

    Args:
        folder: Only what happens to files below it counts; elsewhere modules are imported.
        reached: Called before the file, the disk or the model is touched.
    """
    numbers = itertools.count(1)
    prefix = str(folder)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or isinstance(arguments[0], int):
            return
        path = os.fsdecode(arguments[0])
        # Files below an open folder have a name relative to it.
        if path.startswith(prefix) or not path.startswith("/"):
            reached(next(numbers))

    def arm() -> None:
        sys.addaudithook(note)
        os.fsync = _counted(os.fsync, lambda: reached(next(numbers)))
        # Imported before, where a model is trained; elsewhere it is not worth the time.
        engine = sys.modules.get("deepspeed.runtime.engine")
        if engine is not None:
            optimize = _counted(
                engine.DeepSpeedEngine.step, lambda: reached(next(numbers))
            )
            engine.DeepSpeedEngine.step = optimize

    return arm


def _counted(
    function: Callable[..., Any], count: Callable[[], None]
) -> Callable[..., Any]:
    def counting(*arguments: Any, **named: Any) -> Any:
        count()
        return function(*arguments, **named)

    return counting


@dataclass(frozen=True)
class Counted:
    """A campaign whose kill points are counted."""

    campaign: SmallCampaign
    points: dict[str, int]
    """Step → number of its kill points."""


def counted(folder: Path, environment: Mapping[str, str]) -> Counted:
    """Return a campaign that was carried out once, with the number of each step's kill points."""
    campaign = SmallCampaign(folder, environment)
    counts = folder / "points"
    descriptor = os.open(counts, os.O_RDWR | os.O_CREAT, 0o644)

    def write(number: int) -> None:
        # Written here, since the process itself ends at once when it is done.
        os.pwrite(descriptor, f"{number:09d}".encode(), 0)

    points: dict[str, int] = {}
    for step in campaign.each_step(kill_points(folder, write)):
        points[step] = int(os.pread(descriptor, 9, 0))
    os.close(descriptor)
    return Counted(campaign, points)


def numbered_cases(counted: Counted, per_step: int) -> Iterator[Case]:
    """Yield kills at points that are spread evenly over each step."""
    for step, last in counted.points.items():
        # The middles of that many equal parts.
        for part in range(per_step):
            number = 1 + (2 * part + 1) * last // (2 * per_step)
            check = partial(_killed_at, counted.campaign, step, number)
            yield Case(f"{step}, point {number} of {last}", check)


def _killed_at(campaign: SmallCampaign, step: str, number: int) -> str:
    ended = kill_at(campaign, step, number)
    if ended.status != KILLED:
        return f"it ended with status {ended.status} instead of being killed: {ended.said[-300:]}"
    is_done = any((campaign.store / "steps" / step).glob("*.json"))
    saved_step = _saved_step(campaign) if step == "train" and not is_done else None
    saved_tokens = (
        _saved_tokens(campaign) if step == "generate" and not is_done else None
    )
    again = campaign.carry_out(step)
    if again.status:
        return f"again it ended with status {again.status}: {again.said[-300:]}"
    if saved_step is not None:
        went_on = RESUMED.search(again.said)
        if went_on is None or int(went_on[1]) < saved_step:
            return f"the checkpoint of step {saved_step} was not used"
    if saved_tokens is not None:
        lost = saved_tokens + _drawn_tokens(campaign) - _tokens_of_shard(campaign)
        if lost:
            return f"{lost} tokens were drawn again"
    return campaign.difference(step)


def kill_at(campaign: SmallCampaign, step: str, number: int) -> Ended:
    """Carry a step out up to a kill point; an earlier one if threads have passed fewer this time."""

    def kill(reached: int) -> None:
        if reached >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    while True:
        campaign.restore(step)
        ended = campaign.carry_out(step, kill_points(campaign.folder, kill))
        if ended.status or number == 1:
            return ended
        number = max(1, number - 10)


def _saved_step(campaign: SmallCampaign) -> int | None:
    """Return the step of the newest whole checkpoint that a killed training left; None if none."""
    receipts = (campaign.store / "progress" / "train").glob("*/step-*.json")
    return max(
        (json.loads(path.read_text())["step"] for path in receipts), default=None
    )


def _saved_tokens(campaign: SmallCampaign) -> int:
    """Return the number of tokens in the batches that a killed sampling left."""
    batches = (campaign.store / "progress" / "generate").glob("*/*.json")
    saved = [json.loads(path.read_text())["samples"] for path in batches]
    return sum(sample["num_tokens"] for samples in saved for sample in samples)


def _drawn_tokens(campaign: SmallCampaign) -> int:
    """Return the number of tokens that the sampling drew that was not killed."""
    records = (campaign.store / "attempts").glob("*/generate-*/*.json")
    costs = [json.loads(path.read_text())["costs"] for path in records]
    return int(sum(of_attempt.get("tokens_generated", 0) for of_attempt in costs))


def _tokens_of_shard(campaign: SmallCampaign) -> int:
    [receipt] = (campaign.store / "steps" / "generate").glob("*.json")
    return int(json.loads(receipt.read_text())["summary"]["tokens"])


def random_cases(counted: Counted, count: int, seed: int = 5) -> Iterator[Case]:
    """Yield kills at random times; each row of them is of one step, which then ends well."""
    draw = random.Random(seed)
    for number in range(count // KILLS_IN_A_ROW):
        step = draw.choice(list(counted.points))
        delays = [draw.uniform(0.0, LONGEST_SECONDS) for _ in range(KILLS_IN_A_ROW)]
        row = _Row(counted.campaign, step, delays)
        for place in range(KILLS_IN_A_ROW):
            yield Case(
                f"{step}, row {number}, kill {place}", partial(row.fault_of, place)
            )


class _Row:
    """Kills of one step in a row, and the store once the step could end."""

    def __init__(self, campaign: SmallCampaign, step: str, delays: list[float]) -> None:
        self.campaign = campaign
        self.step = step
        self.delays = delays

    def fault_of(self, place: int) -> str:
        """Kill the step once more. Return what is wrong: after the last kill, of the whole row."""
        if place == 0:
            self.campaign.restore(self.step)
        ended = self.campaign.carry_out(
            self.step, kill_after_seconds=self.delays[place]
        )
        # It may have been quicker than the kill.
        if ended.status not in (KILLED, 0):
            return f"it ended with status {ended.status}: {ended.said[-300:]}"
        if place + 1 < len(self.delays):
            return ""
        again = self.campaign.carry_out(self.step)
        return (
            again.said[-300:] if again.status else self.campaign.difference(self.step)
        )
