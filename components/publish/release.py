"""A release comes into force: its folder is written, and after that its line of the ledger."""

from __future__ import annotations

import time

from pydantic import ValidationError

from components.contracts.releases import (
    Approval,
    BaseModelLine,
    Line,
    Opening,
    OpeningId,
)
from components.contracts.summaries import PrepareSummary, PublishSummary
from components.errors import Corrupt, UserError
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.ledger import model_files, weights_digest
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary


def write_folder(context: Context, receipt: Receipt) -> None:
    """Copy the files of a publish receipt that its folder does not hold yet."""
    prefix = read_summary(receipt, PublishSummary).prefix
    for name in model_files(receipt):
        if context.store.size(prefix + name) is None:
            ref = receipt.objects[name]
            path = fetch(context, receipt, name)
            context.store.put_file(prefix + name, path, ref.sha256)


def line_of(
    context: Context,
    campaign: Campaign,
    receipt: Receipt,
    lines: list[Line],
    approval: Approval | None,
) -> Line:
    """Return the line of the ledger that makes this the release in force.

    Args:
        context: Time and user.
        campaign: The campaign whose champion it is.
        receipt: Its publish receipt.
        lines: The ledger so far.
        approval: Consent to it; None where the recipe asks for none.
    """
    summary = read_summary(receipt, PublishSummary)
    assert summary.scores is not None, "a release was compared"
    prepared = read_summary(campaign.prepared, PrepareSummary)
    return Line(
        name=summary.name,
        number=len(lines) + 1,
        action="release",
        version=summary.version,
        prefix=summary.prefix,
        publish=receipt.ref,
        publish_digest=receipt.digest,
        weights=weights_digest(read_receipt(context, summary.champion), "model"),
        files={name: receipt.objects[name].sha256 for name in model_files(receipt)},
        run_id=campaign.state.run_id,
        state=campaign.state_receipt.ref,
        recipe=campaign.written.digest,
        base=BaseModelLine(
            source=campaign.recipe.model.source,
            prepared=campaign.prepared.ref,
            digest=prepared.base_digest,
        ),
        split=summary.split,
        metric=summary.metric,
        score=summary.scores.value,
        interval=(summary.scores.low, summary.scores.high),
        rivals=summary.rivals,
        opening=opening_of(receipt),
        predecessor=len(lines) or None,
        asked_by=context.asked_by,
        at=now(context),
        approval=approval,
    )


def opening_of(receipt: Receipt) -> OpeningId:
    """Return the opening of the prompts that a publish receipt was decided by.

    Raises:
        UserError: Another version of Ratchet stored it, in a form that this one refuses.
        Corrupt: There is none.
    """
    match receipt.config.get("opening"):
        case [dict() as opening_id, dict() as opening]:
            try:
                Opening.model_validate(opening)
                return OpeningId.model_validate(opening_id)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                field = ".".join(map(str, problem["loc"]))
                # A receipt is checked as it is read, so only the form differs.
                raise UserError(
                    f"{receipt.ref}: the opening of its prompts was stored by another version of "
                    f"Ratchet ({field}: {problem['msg']}); use that version, or publish in a new run"
                ) from None
    raise Corrupt(f"{receipt.ref}: a release without an opening of its prompts")


def now(context: Context) -> str:
    """Return the time as the ledger has it, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(context.clock()))
