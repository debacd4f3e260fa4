"""The consent of a person to a release: `publish.approval: required`.

A campaign of such a recipe ends with its champion compared and stored, and not released. An
approval is one object of the store, written once, about one publish receipt: consent to one model
is none to another. The line of the ledger comes after it. A crash in between leaves an approval
that the next `approve`, or the next start of the run, finds and carries out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from components.canonical import canonical_json
from components.contracts.releases import Approval, Line
from components.contracts.summaries import PublishSummary
from components.errors import Corrupt, UserError
from components.publish.release import line_of, now, write_folder
from components.publish.rivals import rivals_document, rivals_of
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.ledger import (
    append_line,
    read_lines,
    released_line,
    weights_digest,
    withdrawn_release,
)
from components.runtime.receipts import Receipt, read_receipt, read_summary
from components.storage import keys

Standing = Literal["released", "not released", "waiting for approval"]
"""What became of a champion that `publish` has compared."""


def standing_of(context: Context, receipt: Receipt) -> Standing:
    """Return what became of the champion of a publish receipt."""
    summary = read_summary(receipt, PublishSummary)
    if not summary.released:
        return "not released"
    if (
        summary.needs_approval
        and released_line(context, summary.name, receipt.ref) is None
    ):
        return "waiting for approval"
    return "released"


def approval_of(context: Context, receipt: Receipt) -> Approval | None:
    """Return the consent to the release of a publish receipt; None as long as there is none.

    Raises:
        Corrupt: What is stored is no approval, or one of another receipt.
    """
    key = keys.approval_key(receipt.key)
    if context.store.size(key) is None:
        return None
    uri = f"{context.store.root}/{key}"
    try:
        approval = Approval.model_validate_json(context.store.get_bytes(key))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise Corrupt(
            f"{uri}: not an approval ({field}: {problem['msg']}); delete it"
        ) from None
    if (approval.publish, approval.publish_digest) != (receipt.ref, receipt.digest):
        raise Corrupt(f"{uri} is about {approval.publish}, another model; delete it")
    return approval


def approve(context: Context, campaign: Campaign, receipt: Receipt) -> Line:
    """Release the champion that waits for approval; return its line of the ledger.

    Approved twice, the first line stays and is returned.

    Args:
        context: Store, time and user.
        campaign: The campaign that has ended with this receipt.
        receipt: Its publish receipt.

    Raises:
        UserError: It does not wait, or was compared with other releases than there are now.
    """
    summary = read_summary(receipt, PublishSummary)
    while True:
        released = released_line(context, summary.name, receipt.ref)
        if released is not None:
            return released
        if not (summary.released and summary.needs_approval):
            raise UserError(f"{receipt.ref} does not wait for approval: {summary.why}")
        lines = read_lines(context, summary.name)
        _require_same_rivals(context, campaign, receipt, lines)
        approval = _recorded(context, receipt, summary.version)
        write_folder(context, receipt)
        # As in `publish`, the line comes last: before it the old release is in force.
        line = line_of(context, campaign, receipt, lines, approval)
        if append_line(context, line):
            return line


def _require_same_rivals(
    context: Context, campaign: Campaign, receipt: Receipt, lines: list[Line]
) -> None:
    """Raise UserError if the release in force is another one than at the comparison."""
    summary = read_summary(receipt, PublishSummary)
    rivals = rivals_of(context, campaign, lines, campaign.recipe.publish.margin)
    in_force = (
        f"release {lines[-1].number} ({lines[-1].version})" if lines else "no release"
    )
    if rivals_document(rivals) != receipt.config.get("rivals"):
        raise UserError(
            f"{summary.name} {summary.version} was compared before {in_force} was in force; start "
            "the run again to have it compared with that one, then approve it"
        )
    champion = read_receipt(context, summary.champion)
    withdrawn = withdrawn_release(lines, weights_digest(champion, "model"))
    if withdrawn is not None:
        raise UserError(
            f"these very weights are release {withdrawn.number} ({withdrawn.version}), which was "
            f"rolled back; `rollback {summary.name} {withdrawn.version}` puts it in force again"
        )


def _recorded(context: Context, receipt: Receipt, version: str) -> Approval:
    """Store the consent of this user and return it, or the one that came first."""
    approval = Approval(
        publish=receipt.ref,
        publish_digest=receipt.digest,
        version=version,
        approved_by=context.asked_by,
        at=now(context),
    )
    key = keys.approval_key(receipt.key)
    data = canonical_json(approval.model_dump(mode="json"))
    if context.store.put_bytes(key, data, if_absent=True):
        return approval
    first = approval_of(context, receipt)
    assert first is not None, "an approval was there first"
    return first
