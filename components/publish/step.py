"""Publish the best model as an immutable prefix, with its card and its numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from components.contracts import artifacts
from components.contracts.summaries import EvaluateSummary, PrepareSummary, PublishSummary
from components.errors import UserError
from components.publish.files import copy_checkpoint
from components.publish.model_card import model_card
from components.publish.vault import open_vault, vault_sha256
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch_folder,
    read_receipt,
    read_summary,
)
from components.storage import keys


@dataclass(frozen=True)
class PublishInputs:
    """The campaign whose champion is published."""

    state: str
    """URI of the campaign's last state."""


@dataclass(frozen=True)
class Publication:
    """A champion, and the name under which it is published."""

    name: str
    version: str
    """Round and digest, so that a version never changes its meaning."""
    champion: Receipt
    """Receipt of its training."""
    champion_round: int
    evaluation: Receipt

    @property
    def prefix(self) -> str:
        """Folder of the model in the store, with a slash at its end."""
        return keys.model_prefix(self.name, self.version)


def run(inputs: PublishInputs, context: Context) -> Receipt:
    """Copy the champion to `models/<name>/<version>/` and return the receipt that lists its files.

    Weights have the type of the base's, and the chat template begins with the recipe's system
    prompt. The prefix ends in a slash and holds only what a server of models needs (safetensors,
    config, tokenizer, chat template), a model card and the metrics. The version names round and
    digest, so it never changes its meaning. If the data has a vault, it is opened for this model,
    unless it was opened for another before: the summary and the card say which.

    Raises:
        UserError: The campaign has no champion.
    """
    campaign = load_campaign(context, inputs.state)
    publication = _publication(context, campaign)
    task = campaign.task("publish").model_copy(
        # The task belongs to the run, not to the round that would come next.
        update={"name": "publish", "round": campaign.state.round}
    )
    receipt = commit_once(
        context,
        task,
        "publish",
        config={
            "name": publication.name,
            "vault": vault_sha256(campaign.prepared),
            "system_prompt": campaign.recipe.model.system_prompt,
        },
        inputs={
            "state": campaign.state_receipt,
            "champion": publication.champion,
            "evaluation": publication.evaluation,
        },
        seed=campaign.recipe.seed,
        work=lambda folder: _publish(context, campaign, publication, folder),
    )
    # Outside of the work: files that a killed publish did not copy are copied by the next one.
    for name, ref in sorted(receipt.objects.items()):
        path = context.cache.get(context.store, keys.object_key(ref.sha256), ref.sha256, ref.size)
        context.store.put_file(publication.prefix + name, path, ref.sha256)
    return receipt


def _publication(context: Context, campaign: Campaign) -> Publication:
    state = campaign.state
    if state.champion is None or state.champion_evaluation is None or state.champion_round is None:
        raise UserError(
            "nothing to publish: the campaign has no champion yet (round 0 did not finish)"
        )
    champion = read_receipt(context, state.champion)
    return Publication(
        name=campaign.recipe.publish.name,
        version=f"r{state.champion_round}-{champion.digest[:12]}",
        champion=champion,
        champion_round=state.champion_round,
        evaluation=read_receipt(context, state.champion_evaluation),
    )


def _publish(
    context: Context, campaign: Campaign, publication: Publication, folder: Path
) -> PublishSummary:
    """Write the files of a published model into the folder."""
    champion = publication.champion
    dtype = copy_checkpoint(
        fetch_folder(context, champion, "model"),
        folder,
        read_summary(campaign.prepared, PrepareSummary).dtype,
        campaign.recipe.model.system_prompt,
    )
    scores = read_summary(publication.evaluation, EvaluateSummary)
    summary = PublishSummary(
        name=publication.name,
        version=publication.version,
        prefix=publication.prefix,
        dtype=dtype,
        champion=champion.ref,
        champion_round=publication.champion_round,
        target_met=campaign.state.stop == "target",
        validation_accuracy=scores.validation_accuracy,
        test_accuracy=scores.test_accuracy,
        vault=open_vault(context, campaign, champion),
    )
    # Sorted and indented, so that two versions can be compared line by line.
    metrics = json.dumps(scores.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / artifacts.METRICS).write_text(f"{metrics}\n", encoding="utf-8")
    card = model_card(campaign, champion, summary)
    (folder / artifacts.MODEL_CARD).write_text(card, encoding="utf-8")
    return summary


def prefix_of(published: Receipt) -> str:
    """Return the folder of a published model in the store, with a slash at its end."""
    return read_summary(published, PublishSummary).prefix
