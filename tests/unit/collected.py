"""Finished runs of which garbage is collected, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.cli.collect.collection import Collection, collect
from components.cli.collect.marking import Policy
from components.contracts.releases import BaseModelLine, Line
from components.contracts.summaries import TrainSummary
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_receipt
from components.storage.objects import find
from components.storage.store import Store
from tests.conftest import context_in
from tests.promises.histories import line_of as any_line
from tests.unit.handmade import RECIPE, Campaign

EVERYTHING = Policy(keep_runs=1, small_bytes=0, unnamed_bytes=0)
"""A policy that spares no object for its size."""
WEIGHTS = "model/model.safetensors"
Make = Callable[[Store], Context]


def twice(
    context: Context, policy: Policy = EVERYTHING
) -> tuple[Collection, Collection]:
    """Condemn, then delete, as if the grace period had passed in between."""
    first = collect(context, policy, grace_seconds=0.0, delete=True)
    return first, collect(context, policy, grace_seconds=0.0, delete=True)


def trained(campaign: Campaign, number: int) -> Receipt:
    record = next(record for record in campaign.state.history if record.round == number)
    return read_receipt(campaign.context, record.receipts["train"])


def is_stored(context: Context, receipt: Receipt, name: str) -> bool:
    ref = receipt.objects[name]
    return find(context.store, ref.sha256, ref.size) is not None


def elsewhere(context: Context, folder: Path) -> Context:
    """Return the surroundings of another machine, with an empty cache."""
    return context_in(folder / "elsewhere", context.store)


class OwnRun(Campaign):
    """A campaign of two rounds whose weights nobody else has; the second candidate is rejected."""

    def __init__(self, context: Context, name: str, *, ends: bool = True) -> None:
        super().__init__(context, {**RECIPE, "name": name})
        # Each begins after those that are there.
        self.now += 1000.0 * len(list(context.store.list("attempts/")))
        self.prepare()
        self.round(0, 0.4, "promoted")
        self.round(1, 0.5, "rejected", stop="max_rounds")
        self.published = self.publish(target_met=False) if ends else None

    def step(self, step: str, name: str, *arguments: Any, **settings: Any) -> Receipt:
        """Commit a step that no other run has."""
        return super().step(step, f"{name}-{self.recipe.name}", *arguments, **settings)

    def _training(self, folder: Path, number: int) -> TrainSummary:
        summary = super()._training(folder, number)
        (folder / WEIGHTS).write_text(
            f"weights of round {number} of {self.recipe.name} " * 30_000
        )
        return summary


def line_of(made: Campaign, publish: Receipt, number: int, **changes: Any) -> Line:
    """A line of the ledger that releases what a campaign published."""
    about = {
        "publish": publish.ref,
        "publish_digest": publish.digest,
        "run_id": made.run_id,
        "state": made.last.ref if made.last is not None else "",
        "base": BaseModelLine(
            source="scratch", prepared=made.prepared.ref, digest="none"
        ),
    }
    line = any_line("by-hand", number, "v1")
    return line.model_copy(update={**about, **changes})
