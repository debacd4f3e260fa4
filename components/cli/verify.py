"""The `verify` verb: read every byte that a run rests on and name what is not what its receipt
says."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from components.contracts.artifacts import STATE
from components.contracts.state import STATE_STEPS, State
from components.contracts.summaries import PublishSummary
from components.errors import Corrupt, Missing, UserError
from components.report.runs import load_run, named_receipts
from components.runtime.context import Context
from components.runtime.receipts import (
    ObjectRef,
    Receipt,
    fetch,
    read_receipt,
    read_summary,
)
from components.storage import keys


@dataclass
class Findings:
    """What was looked at, and what is wrong with it."""

    receipts: int = 0
    objects: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)


def receipts_of_run(context: Context, run_id: str) -> list[str]:
    """References of all receipts that a run's attempts and latest state name. UserError if there is
    no such run."""
    view = load_run(context, run_id)
    if not view.tasks:
        raise UserError(
            f"{context.store.root} knows no run {run_id!r}; `status` without an argument shows the latest"
        )
    attempts = (one.receipt for task in view.tasks for one in task.attempts if one.receipt)
    return list(dict.fromkeys([*attempts, *named_receipts(view.tasks, view.state)]))


def receipts_of_state(context: Context, ref: str) -> list[str]:
    """A receipt and, if it holds a state, all that the state names (not the decisions on the way)."""
    try:
        receipt = read_receipt(context, ref)
        if receipt.step not in STATE_STEPS:
            return [ref]
        state = State.model_validate_json(fetch(context, receipt, STATE).read_bytes())
    except (Corrupt, ValidationError):
        return [ref]  # `check` will say what is wrong with it
    return list(dict.fromkeys([ref, *named_receipts((), state)]))


def check(context: Context, refs: Iterable[str], *, whole_run: bool) -> Findings:
    """Verify receipts, their keys, for a whole run that all inputs are among them, and size and
    SHA-256 of every object, read from the store and never from the cache. Raises Transient or
    UserError only if the store cannot be used."""
    found, receipts = Findings(), []
    for ref in refs:
        found.receipts += 1
        try:
            receipts.append(read_receipt(context, ref))
        except Corrupt as error:
            found.damaged.append(str(error))
    if whole_run and not found.damaged:
        # The digest of a receipt that cannot be read is unknown: those that were built on it would
        # be named beside the culprit.
        found.damaged += _broken_inputs(receipts)
    seen: set[str] = set()
    for receipt in receipts:
        for address, name, expected in _objects(receipt):
            if address not in seen:
                seen.add(address)
                found.objects += 1
                found.bytes += expected.size
                found.damaged += _wrong_object(context, address, f"{receipt.ref} {name}", expected)
    return found


def _broken_inputs(receipts: list[Receipt]) -> Iterator[str]:
    """Inputs that no receipt is: an input was changed after others were built on it. A run that
    goes on from another run's state is left out: that run has the rest."""
    if any(receipt.step == "start" and "resume" in receipt.inputs for receipt in receipts):
        return
    digests = {receipt.digest for receipt in receipts}
    for receipt in receipts:
        for name, digest in sorted(receipt.inputs.items()):
            if digest not in digests:
                yield f"{_address(receipt)}: no receipt of the run has the digest of its input {name} ({digest})"


def _address(receipt: Receipt) -> str:
    return keys.receipt_key(receipt.step, receipt.key)


def _objects(receipt: Receipt) -> Iterator[tuple[str, str, ObjectRef]]:
    """(key, file name, expected) of everything a receipt stands for; a published model is there by
    name as well."""
    prefix = _published_prefix(receipt)
    for name, ref in sorted(receipt.objects.items()):
        yield keys.object_key(ref.sha256), name, ref
        if prefix is not None:
            yield prefix + name, name, ref


def _published_prefix(receipt: Receipt) -> str | None:
    """Folder of the published model; None for other receipts, and for one that was changed so that
    it names none (its digest is wrong then, which is reported)."""
    try:
        return read_summary(receipt, PublishSummary).prefix
    except Corrupt:
        return None


def _wrong_object(context: Context, key: str, whose: str, ref: ObjectRef) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ratchet-verify-") as folder:
        copy = Path(folder) / "object"
        try:
            size = context.store.size(key)
            if size is None:
                raise Missing("is gone")
            if size != ref.size:
                yield f"{key} has {size:,} bytes instead of {ref.size:,} ({whose})"
                return
            context.store.get_file(key, copy)
        except Corrupt as error:
            yield f"{key} {error} ({whose})"
            return
        with copy.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != ref.sha256:
            yield f"{key} has SHA-256 {digest} instead of {ref.sha256} ({whose})"
