"""Verdicts of people in the store: objects by their content, named by run, round and number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydantic import ValidationError

from components.canonical import canonical_json, sealed, unsealed
from components.contracts.reviews import ReviewBatch, ReviewRow
from components.errors import Corrupt, one_line
from components.runtime.context import Context
from components.storage import keys


def add_verdicts(
    context: Context, run_id: str, round_number: int, rows: Sequence[ReviewRow]
) -> ReviewBatch:
    """Store verdicts as the next batch of a round; the same file once more is the batch it was.

    Args:
        context: The store, and who asks.
        run_id: The run.
        round_number: The round whose answers they are about.
        rows: Verdicts; those without one are left out.
    """
    # No more than the verdict: prompts and answers are in the store already.
    verdicts = [
        {"id": row.id, "right": row.right} for row in rows if row.right is not None
    ]
    data = b"\n".join(canonical_json(verdict) for verdict in verdicts) + b"\n"
    digest = hashlib.sha256(data).hexdigest()
    batches = read_batches(context, run_id, round_number)
    for batch in batches:
        if batch.sha256 == digest:
            return batch
    context.store.put_bytes(keys.object_key(digest), data)
    number = len(batches) + 1
    while True:
        batch = ReviewBatch(
            run_id=run_id,
            round=round_number,
            number=number,
            sha256=digest,
            verdicts=len(verdicts),
            by=context.asked_by,
        )
        line = sealed(batch.model_dump(mode="json"))
        key = keys.review_key(run_id, round_number, number)
        if context.store.put_bytes(key, line, if_absent=True):
            return batch
        # Somebody else imported at the same time, or the answer to our own write was lost.
        if context.store.get_bytes(key) == line:
            return batch
        number += 1


def read_batches(context: Context, run_id: str, round_number: int) -> list[ReviewBatch]:
    """Return the batches of a round, the oldest first. Raises Corrupt for one that is damaged."""
    # By number and not by a listing, which some stores give late.
    batches: list[ReviewBatch] = []
    while True:
        key = keys.review_key(run_id, round_number, len(batches) + 1)
        if context.store.size(key) is None:
            return batches
        batches.append(read_batch(context, key))


def read_batch(context: Context, key: str) -> ReviewBatch:
    """Return the batch at a key. Raises Missing, or Corrupt for one that is damaged."""
    try:
        return ReviewBatch.model_validate(unsealed(context.store.get_bytes(key)))
    except ValueError as error:
        raise Corrupt(
            f"{context.store.root}/{key}: no batch of verdicts ({one_line(error)}); restore it"
        ) from None


def verdicts_in(context: Context, batches: Sequence[ReviewBatch]) -> dict[str, bool]:
    """Return answer id → whether people call it right; a later batch overrules an earlier one.

    Raises Corrupt for an object that is not what was imported.
    """
    verdicts: dict[str, bool] = {}
    for batch in batches:
        key = keys.object_key(batch.sha256)
        data = context.store.get_bytes(key)
        if hashlib.sha256(data).hexdigest() != batch.sha256:
            raise Corrupt(
                f"{context.store.root}/{key}: not the verdicts that were imported"
            )
        for row in _rows_of(data, f"{context.store.root}/{key}"):
            if row.right is not None:
                verdicts[row.id] = row.right
    return verdicts


def _rows_of(data: bytes, uri: str) -> list[ReviewRow]:
    try:
        return [ReviewRow.model_validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        raise Corrupt(
            f"{uri}: verdicts of another version of Ratchet ({one_line(error)}); import them anew"
        ) from None
