"""Release the best model as an immutable folder of the store, if it is better than what there is."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts.releases import Line
from components.contracts.summaries import PublishSummary
from components.publish.announcing.announce import announce_releases
from components.publish.approval import approval_of, standing_of
from components.publish.contents import write_files
from components.publish.publication import publication_of
from components.publish.release import line_of, write_folder
from components.runtime.attempts import Attempt, attempting
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.ledger import append_line, read_lines, receipt_of
from components.runtime.receipts import Receipt, commit, read_summary
from components.runtime.webhook import notify


@dataclass(frozen=True)
class PublishInputs:
    """The campaign whose champion is published."""

    state: str
    """URI of the campaign's last state."""


def run(inputs: PublishInputs, context: Context) -> Receipt:
    """Release the champion as `models/<name>/<version>/`, or say why it is not released.

    The champion, as it would be published, is compared with the base model and with the last
    release of the name: same prompts (the vault's, else test), same engine. It must be proved
    better than both; with `publish.margin` it may be non-inferior to the last release. Then its
    folder is written (safetensors, config, tokenizer, chat template, a model card and the metrics),
    and after that one line of the ledger `releases/<name>/`, which makes it the release in force.

    With `publish.approval: required` neither is written before a person has approved the release:
    the step ends, and `approve` writes both.

    Weights have the type of the base's, and the chat template begins with the recipe's system
    prompt. Each opening of the prompts is recorded before they are read, with what it may spend.

    Last, platforms that the recipe names under `announce` are told of the ledger.

    Raises:
        UserError: The campaign has no champion.
    """
    campaign = load_campaign(context, inputs.state)
    task = campaign.task("publish").model_copy(
        # The task belongs to the run, not to the round that would come next.
        update={"name": "publish", "round": campaign.state.round or 0}
    )
    with attempting(context, task, "publish") as attempt:
        while True:
            lines = read_lines(context, campaign.recipe.publish.name)
            receipt, line = _publish(context, attempt, campaign, lines)
            # The line comes last: before it the old release is in force, whatever was written.
            if line is None or append_line(context, line):
                break
            context.progress.note(
                f"{line.name}: another release came first; comparing anew"
            )
    if line is not None or not attempt.reused:
        _tell(context, campaign, receipt)
    # Also of work that is found done: an announcement that failed is made up for.
    announce_releases(context, campaign.written, campaign.written.publish.name)
    return receipt


def _tell(context: Context, campaign: Campaign, receipt: Receipt) -> None:
    """Tell the recipe's webhook what became of the champion."""
    summary = read_summary(receipt, PublishSummary)
    standing = standing_of(context, receipt)
    run_id = campaign.state.run_id
    release = f"{summary.name} {summary.version}"
    match standing:
        case "released":
            notify(
                context,
                campaign.recipe,
                "verdict",
                f"{run_id} released {release}: {summary.why}",
            )
        case "not released":
            notify(
                context,
                campaign.recipe,
                "verdict",
                f"{run_id} released nothing: {summary.why}",
            )
        case "waiting for approval":
            command = f"ratchet approve {run_id} --store {context.store.root}"
            text = f"{run_id}: {release} waits for approval ({summary.why}): {command}"
            notify(context, campaign.recipe, "waiting", text)


def _publish(
    context: Context, attempt: Attempt, campaign: Campaign, lines: list[Line]
) -> tuple[Receipt, Line | None]:
    """Return the receipt, and the line that is to be written; None if there is none to write."""
    state_ref = campaign.state_receipt.ref
    for line in reversed(lines):
        # This very state was released before; later releases change nothing about that.
        if line.state == state_ref and line.action == "release":
            attempt.reused = True
            attempt.receipt = line.publish
            return receipt_of(context, line), None
    publication = publication_of(context, campaign, lines)
    receipt = commit(
        context,
        attempt,
        "publish",
        config=publication.config,
        inputs=publication.inputs,
        seed=publication.recipe.seed,
        work=lambda folder: write_files(context, publication, folder),
    )
    summary = read_summary(receipt, PublishSummary)
    context.progress.note(summary.why)
    if not summary.released or publication.released_as is not None:
        return receipt, None
    approval = approval_of(context, receipt) if summary.needs_approval else None
    if summary.needs_approval and approval is None:
        context.progress.note(
            f"waiting for approval: `approve {campaign.state.run_id} --store {context.store.root}` "
            f"releases {summary.name} {summary.version}"
        )
        return receipt, None
    # Outside of the work: files that a killed publish did not copy are copied by the next one.
    write_folder(context, receipt)
    return receipt, line_of(context, campaign, receipt, lines, approval)


def outcome_of(context: Context, published: Receipt) -> dict[str, bool | str]:
    """Return what became of the champion, and its folder with a slash; empty if not released."""
    standing = standing_of(context, published)
    released = standing == "released"
    prefix = read_summary(published, PublishSummary).prefix if released else ""
    return {"status": standing, "released": released, "prefix": prefix}
