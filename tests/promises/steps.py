"""Promises that are proved by the steps of a small campaign: R1, R5, R6, S5 and S8.

They share one campaign, and a process that is ready to be forked for each of their cases.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.runtime.code_digest import code_digest
from tests import mounts
from tests.pipeline.campaigns import PAYLOAD_STEPS
from tests.promises import canaries, kills, lies, room, strangers
from tests.promises.counting import Case

OUTCOMES = "cases.jsonl"


@dataclass(frozen=True)
class Amount:
    """Numbers of cases; those that are not named here are all carried out."""

    kills_per_step: int
    random_kills: int
    listings_per_way: int
    every: int
    """One of so many of R5 and R6."""


FEW = Amount(kills_per_step=1, random_kills=5, listings_per_way=1, every=23)
ALL = Amount(kills_per_step=40, random_kills=200, listings_per_way=5, every=1)


def why_not(promise: str) -> str:
    """Return the reason why a promise cannot be proved on this machine; empty if it can."""
    if promise == "R6":
        return mounts.why_not()
    if promise == "S8" and os.getuid():
        return "only root can be another user"
    return ""


def cases_of(counted: kills.Counted, amount: Amount) -> dict[str, Iterator[Case]]:
    """Return promise → its cases, which share the campaign's folders: one at a time."""
    lying = itertools.chain(
        lies.listing_cases(counted, amount.listings_per_way),
        lies.clock_cases(counted),
        lies.repetition_cases(counted),
    )
    return {
        "S5": canaries.cases(counted.campaign),
        "S8": strangers.cases(counted.campaign),
        "R1": itertools.chain(
            kills.numbered_cases(counted, amount.kills_per_step),
            kills.random_cases(counted, amount.random_kills),
        ),
        "R5": itertools.islice(lying, 0, None, amount.every),
        "R6": itertools.islice(room.cases(counted.campaign), 0, None, amount.every),
    }


def carry_out(folder: Path, amount: Amount) -> None:
    """Carry out all cases, and write `[promise, name, fault]` of each to a line of `OUTCOMES`."""
    import torch

    # Threads that wait for each other take more time than these models.
    os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    torch.set_num_threads(1)
    for step in PAYLOAD_STEPS:
        code_digest(step)
    counted = kills.counted(folder, canaries.environment())
    gc.collect()
    gc.freeze()
    with (folder / OUTCOMES).open("w") as file:
        for promise, cases in cases_of(counted, amount).items():
            for case in cases if not why_not(promise) else ():
                file.write(json.dumps([promise, case.name, case.check()]) + "\n")
                file.flush()
