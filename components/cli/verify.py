"""The `verify` verb: read every byte that a run rests on, and compare it with its receipt."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from components.cli.releases import lines_of
from components.cli.show import existing_receipt
from components.cli.stores import unknown_run
from components.contracts.artifacts import STATE
from components.contracts.releases import LEDGER_FOLDER, Line
from components.contracts.state import STATE_STEPS, State
from components.contracts.summaries import PrepareSummary, PublishSummary, StartSummary
from components.errors import Corrupt, Missing, UserError
from components.publish.approval import standing_of
from components.report.runs import load_run, named_receipts
from components.runtime.context import Context
from components.runtime.ledger import model_files
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary
from components.runtime.stored_files import ObjectRef
from components.storage import keys
from components.storage.objects import find, why_collected


@dataclass
class Findings:
    """Counts of what was looked at, and a line for each damage."""

    receipts: int = 0
    objects: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)
    """A line for each object that `gc` has deleted, which is no damage."""


def check_run(context: Context, run_id: str) -> Findings:
    """Verify all receipts that a run's attempts and latest state name.

    Of a run that goes on from an earlier one, those of the earlier one too, to the beginning of the
    campaign.

    Raises:
        UserError: There is no such run, or the store cannot be used.
        Transient: The store does not answer.
    """
    view = load_run(context, run_id)
    if not view.tasks:
        raise unknown_run(context, run_id)
    refs: list[str] = []
    for task in view.tasks:
        for attempt in task.attempts:
            # Earlier attempts too: those of other code have receipts of their own.
            refs += (
                [attempt.receipt, *attempt.other_receipts] if attempt.receipt else []
            )
    refs += named_receipts(view.tasks, view.state)
    receipts, findings = _read_receipts(context, refs)
    _add_way(context, receipts, findings, refs)
    # The digest of a receipt that cannot be read is unknown: those that were built on it would be
    # named beside the culprit.
    if not findings.damaged:
        findings.damaged += _broken_inputs(receipts)
    _check_objects(context, receipts, findings)
    return findings


def check_state(context: Context, ref: str) -> Findings:
    """Verify a receipt and, if it holds a state, all that led to it.

    Raises:
        UserError: There is no such receipt, or the store cannot be used.
        Transient: The store does not answer.
    """
    # A damaged one is a finding.
    with suppress(Corrupt):
        existing_receipt(context, ref)
    refs = [ref, *_receipts_of_state(context, ref)]
    receipts, findings = _read_receipts(context, refs)
    if receipts and receipts[0].step in STATE_STEPS:
        _add_way(context, receipts, findings, refs)
    _check_objects(context, receipts, findings)
    return findings


def check_releases(context: Context, name: str) -> Findings:
    """Verify all releases of a name: each line's receipt and folder, its champion, and all that led
    to it, down to the base model; a base that is a release itself too.

    Raises:
        UserError: Nothing was released under this name, or the store cannot be used.
        Transient: The store does not answer.
    """
    lines = lines_of(context, name)
    refs: list[str] = []
    for line in lines:
        refs += [line.publish, line.state, *_receipts_of_state(context, line.state)]
    receipts, findings = _read_receipts(context, refs)
    receipts_by_ref = {receipt.ref: receipt for receipt in receipts}
    for base_ref in dict.fromkeys(_base_releases(receipts)):
        if base_ref not in receipts_by_ref:
            base_receipts, base_findings = _read_receipts(context, [base_ref])
            receipts += base_receipts
            findings.receipts += base_findings.receipts
            findings.damaged += base_findings.damaged
    _add_way(context, receipts, findings, refs)
    if not findings.damaged:
        findings.damaged += _broken_inputs(receipts)
    for line in lines:
        receipt = receipts_by_ref.get(line.publish)
        # One that could not be read was named already.
        if receipt is not None and not _fits(line, receipt):
            findings.damaged.append(
                f"{keys.release_key(name, line.number)}: {line.publish} is not the receipt that was "
                "released"
            )
    _check_objects(context, receipts, findings)
    return findings


def _base_releases(receipts: list[Receipt]) -> Iterator[str]:
    """Yield the publish receipts whose models are the bases of these receipts' campaigns."""
    for receipt in receipts:
        if receipt.step in PrepareSummary.written_by:
            base_release = read_summary(receipt, PrepareSummary).base_release
            if base_release:
                yield base_release


def _fits(line: Line, receipt: Receipt) -> bool:
    """Return True if a line of the ledger is about this receipt and these files."""
    files = {name: receipt.objects[name].sha256 for name in model_files(receipt)}
    return (receipt.digest, files) == (line.publish_digest, line.files)


def _receipts_of_state(context: Context, ref: str) -> list[str]:
    try:
        receipt = read_receipt(context, ref)
        if receipt.step not in STATE_STEPS:
            return []
        state = State.model_validate_json(fetch(context, receipt, STATE).read_bytes())
    except (Corrupt, ValidationError):
        return []  # the check of `ref` itself says what is wrong with it
    return list(named_receipts((), state))


def _receipts_of_start(receipt: Receipt) -> Iterator[str]:
    """Yield what a start receipt names beside its state: the first mix and the teacher."""
    if receipt.step not in StartSummary.written_by:
        return
    summary = read_summary(receipt, StartSummary)
    yield summary.first_mix
    if summary.teacher is not None:
        yield summary.teacher.receipt


def _read_receipts(
    context: Context, refs: Iterable[str]
) -> tuple[list[Receipt], Findings]:
    """Return the receipts that can be read, and findings about the others."""
    findings = Findings()
    receipts = []
    for ref in dict.fromkeys(refs):
        findings.receipts += 1
        try:
            receipts.append(read_receipt(context, ref))
        except Corrupt as error:
            findings.damaged.append(str(error))
    return receipts, findings


def _add_way(
    context: Context, receipts: list[Receipt], findings: Findings, tried: Iterable[str]
) -> None:
    """Add the decisions that led to these receipts, and all that their states name.

    They are found by their digest among the inputs, back to the beginning of the campaign, in
    whichever run that was.

    Args:
        context: Store of the receipts.
        receipts: Gets those that are found.
        findings: Gets the damage that is found on the way.
        tried: Refs that were read before, so that damage is named once.
    """
    digests = {receipt.digest for receipt in receipts}
    if all(digests.issuperset(receipt.inputs.values()) for receipt in receipts):
        return
    states = _states_by_digest(context)
    known_refs = {receipt.ref for receipt in receipts} | set(tried)
    # It grows while it is walked through.
    for receipt in receipts:
        refs = list(_receipts_of_start(receipt))
        for digest in sorted(receipt.inputs.values()):
            state = states.pop(digest, None)
            if state is not None:
                refs += [state.ref, *_receipts_of_state(context, state.ref)]
        new_refs = [ref for ref in dict.fromkeys(refs) if ref not in known_refs]
        if new_refs:
            known_refs.update(new_refs)
            earlier, earlier_findings = _read_receipts(context, new_refs)
            receipts += earlier
            findings.receipts += earlier_findings.receipts
            findings.damaged += earlier_findings.damaged


def _states_by_digest(context: Context) -> dict[str, Receipt]:
    """Return digest → receipt of all receipts of the store that hold a state."""
    states: dict[str, Receipt] = {}
    for step in STATE_STEPS:
        prefix = keys.receipt_key(step, "key").removesuffix("key.json")
        for key in context.store.list(prefix):
            # One that cannot be read is named by the run that it is of.
            with suppress(Corrupt, UserError):
                receipt = read_receipt(context, f"{step}/{Path(key).stem}")
                states[receipt.digest] = receipt
    return states


def _broken_inputs(receipts: list[Receipt]) -> Iterator[str]:
    """Yield inputs that no receipt is: an input was changed after others were built on it."""
    digests = {receipt.digest for receipt in receipts}
    for receipt in receipts:
        for name, digest in sorted(receipt.inputs.items()):
            if digest not in digests:
                yield (
                    f"{_address(receipt)}: no receipt of the run has the digest of its input "
                    f"{name} ({digest})"
                )


def _address(receipt: Receipt) -> str:
    return keys.receipt_key(receipt.step, receipt.key)


def _check_objects(
    context: Context, receipts: list[Receipt], findings: Findings
) -> None:
    """Compare size and SHA-256 of every object, read from the store and never from the cache."""
    checked_keys: set[str] = set()
    for receipt in receipts:
        for key, name, expected in _objects(context, receipt):
            # Objects are named by their content: many receipts share the base model's.
            if key in checked_keys:
                continue
            checked_keys.add(key)
            findings.objects += 1
            findings.bytes += expected.size
            # Called damaged only if it looks so twice: bytes may change on their way.
            fault = _fault(context, key, expected) and _fault(context, key, expected)
            if fault is None:
                continue
            if context.store.size(key) is None and key == keys.object_key(
                expected.sha256
            ):
                # It may have been stored anew, or be gone for good by the rules of retention.
                fault = _fault_elsewhere(context, expected, fault)
                collection_reason = why_collected(context.store, expected.sha256)
                if fault is not None and collection_reason is not None:
                    findings.collected.append(
                        f"{key} ({receipt.ref} {name}): {collection_reason}"
                    )
                    continue
            if fault is not None:
                findings.damaged.append(f"{key} {fault} ({receipt.ref} {name})")


def _fault_elsewhere(context: Context, expected: ObjectRef, fault: str) -> str | None:
    """Return what is wrong with an object at its other addresses; `fault` if it has none."""
    address = find(context.store, expected.sha256, expected.size)
    if address is None:
        return fault
    return _fault(context, address, expected) and _fault(context, address, expected)


def _objects(
    context: Context, receipt: Receipt
) -> Iterator[tuple[str, str, ObjectRef]]:
    """Yield (key, file name, expected size and digest) of everything a receipt stands for."""
    published_prefix = _published_prefix(context, receipt)
    for name, expected in sorted(receipt.objects.items()):
        yield keys.object_key(expected.sha256), name, expected
        # A published model is there by name as well, without what its receipt holds for the ledger.
        if published_prefix and not name.startswith(LEDGER_FOLDER):
            yield published_prefix + name, name, expected


def _published_prefix(context: Context, receipt: Receipt) -> str | None:
    """Return the folder of the published model; None for other receipts, empty without a model."""
    try:
        if standing_of(context, receipt) == "waiting for approval":
            return ""
        return read_summary(receipt, PublishSummary).prefix
    except Corrupt:
        # It was changed so that it names none. Its digest is wrong then, which is reported.
        return None


def _fault(context: Context, key: str, expected: ObjectRef) -> str | None:
    """Return what is wrong with an object, or None."""
    with tempfile.TemporaryDirectory(prefix="ratchet-verify-") as folder:
        copy = Path(folder) / "object"
        try:
            size = context.store.size(key)
            if size is None:
                raise Missing("is gone")
            # The size first: a wrong one is known without reading gigabytes.
            if size != expected.size:
                return f"has {size:,} bytes instead of {expected.size:,}"
            context.store.get_file(key, copy)
        except Corrupt as error:
            return str(error)
        with copy.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected.sha256:
        return f"has SHA-256 {digest} instead of {expected.sha256}"
    return None
