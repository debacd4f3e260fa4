"""Release the best model as an immutable folder of the store, if it is better than what there is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from components.contracts.releases import BaseModelLine, Line
from components.contracts.summaries import PrepareSummary, PublishSummary
from components.publish.contents import write_files
from components.publish.publication import Publication, publication_of
from components.runtime.attempts import Attempt, attempting
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.ledger import append_line, model_files, read_lines, receipt_of
from components.runtime.receipts import Receipt, commit, fetch, read_summary


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

    Weights have the type of the base's, and the chat template begins with the recipe's system
    prompt. Each opening of the prompts is recorded before they are read, with what it may spend.

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
                return receipt
            context.progress.note(f"{line.name}: another release came first; comparing anew")


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
    # Outside of the work: files that a killed publish did not copy are copied by the next one.
    for name in model_files(receipt):
        if context.store.size(summary.prefix + name) is None:
            ref = receipt.objects[name]
            path = fetch(context, receipt, name)
            context.store.put_file(summary.prefix + name, path, ref.sha256)
    return receipt, _line(context, publication, receipt, summary, lines)


def _line(
    context: Context,
    publication: Publication,
    receipt: Receipt,
    summary: PublishSummary,
    lines: list[Line],
) -> Line:
    """Return the line of the ledger that makes this the release in force."""
    assert publication.opening is not None, "a release was compared"
    assert summary.scores is not None, "a release was compared"
    campaign = publication.campaign
    prepared = read_summary(campaign.prepared, PrepareSummary)
    return Line(
        name=summary.name,
        number=len(lines) + 1,
        action="release",
        version=summary.version,
        prefix=summary.prefix,
        publish=receipt.ref,
        publish_digest=receipt.digest,
        weights=publication.weights,
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
        opening=publication.opening[0],
        predecessor=len(lines) or None,
        asked_by=context.asked_by,
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(context.clock())),
    )


def prefix_of(published: Receipt) -> str:
    """Return the folder of a released model in the store, with a slash; empty if there is none."""
    return read_summary(published, PublishSummary).prefix
