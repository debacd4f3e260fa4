"""The models that a champion is compared with before it is released."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from components.contracts.releases import TRAINING_IDS, Line
from components.contracts.summaries.publish import RivalKind
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.ledger import fetch_release, receipt_of, weights_digest
from components.runtime.receipts import Receipt, fetch, fetch_folder

BASE = "model"
"""Folder of the base checkpoint in a prepare receipt."""


@dataclass(frozen=True)
class RivalModel:
    """A model that the champion is compared with."""

    kind: RivalKind
    name: str
    receipt: Receipt
    """Holds its files: a prepare receipt, or the publish receipt of a release."""
    weights: str
    """Digest of the weights as they are measured."""

    @contextmanager
    def checkpoint(self, context: Context) -> Iterator[Path]:
        """Yield a local folder of its files, deleted after the block."""
        if self.kind == "base":
            folder = fetch_folder(context, self.receipt, BASE)
        else:
            folder = fetch_release(context, self.receipt)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def trained_ids(self, context: Context) -> frozenset[str]:
        """Return ids of the prompts that it was trained on, as far as the ledger knows."""
        if TRAINING_IDS not in self.receipt.objects:
            return frozenset()
        text = fetch(context, self.receipt, TRAINING_IDS).read_text(encoding="utf-8")
        return frozenset(text.split())


def rivals_of(
    context: Context, campaign: Campaign, lines: list[Line], margin: float | None
) -> list[RivalModel]:
    """Return the base model, the release in force, and with a margin the anchor; each model once.

    Args:
        context: Store of the ledger.
        campaign: Its base model.
        lines: The ledger of the name.
        margin: Loss that a release may bring; None: it must be proved better.
    """
    base = RivalModel(
        kind="base",
        name=f"base model {campaign.recipe.model.source}",
        receipt=campaign.prepared,
        weights=weights_digest(campaign.prepared, BASE),
    )
    rivals = [base]
    for kind, line in _lines_to_beat(lines, margin):
        receipt = receipt_of(context, line)
        weights = weights_digest(receipt, "")
        # The last release may be the base of this campaign.
        if all(rival.weights != weights for rival in rivals):
            name = f"release {line.number} ({line.version})"
            rivals.append(RivalModel(kind, name, receipt, weights))
    return rivals


def rivals_document(rivals: Sequence[RivalModel]) -> list[JsonValue]:
    """Return the models of a comparison, as a publish receipt's config names them."""
    return [[rival.kind, rival.receipt.ref, rival.receipt.digest] for rival in rivals]


def _lines_to_beat(
    lines: list[Line], margin: float | None
) -> Iterator[tuple[RivalKind, Line]]:
    if not lines:
        return
    yield "release", lines[-1]
    if margin is None:
        return
    # Releases that may each be a little worse than the one before would lose any amount together:
    # the newest one that was proved better stays a rival.
    line = _release_of(lines, lines[-1])
    while line.predecessor is not None and not _was_proved_better(line):
        line = _release_of(lines, lines[line.predecessor - 1])
    if line.version != lines[-1].version:
        yield "anchor", line


def _release_of(lines: list[Line], line: Line) -> Line:
    """Return the line of the release that a rollback returns to, or the line itself."""
    return line if line.returns_to is None else lines[line.returns_to - 1]


def _was_proved_better(line: Line) -> bool:
    return all(rival.verdict == "better" for rival in line.rivals)
