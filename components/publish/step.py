"""Publish the best model as an immutable prefix, with its card and its numbers."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

from components.contracts import artifacts
from components.contracts.state import RoundRecord
from components.contracts.summaries import EvaluateSummary, PrepareSummary, PublishSummary
from components.contracts.summaries.publish import VaultRefusal
from components.contracts.summaries.summary import Share
from components.errors import UserError
from components.publish.files import copy_checkpoint
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
    """What is published."""

    state: str
    """URI of the campaign's last state."""


def run(inputs: PublishInputs, context: Context) -> Receipt:
    """Copy the champion to `models/<name>/<version>/` and return the receipt that lists its files.

    Weights have the type of the base's, and the chat template begins with the recipe's system prompt.
    The prefix ends in a slash and holds only what a server of models needs (safetensors, config,
    tokenizer, chat template), a model card and the metrics. The version names round and digest, so
    it never changes its meaning. If the data has a vault, it is opened for this model, unless it
    was opened for another before: the summary and the card say which. Raises UserError if the
    campaign has no champion.
    """
    campaign = load_campaign(context, inputs.state)
    state = campaign.state
    if state.champion is None or state.champion_evaluation is None or state.champion_round is None:
        raise UserError(
            "nothing to publish: the campaign has no champion yet (round 0 did not finish)"
        )
    champion = read_receipt(context, state.champion)
    evaluation = read_receipt(context, state.champion_evaluation)
    scores = read_summary(evaluation, EvaluateSummary)
    version = f"r{state.champion_round}-{champion.digest[:12]}"
    name = campaign.recipe.publish.name
    prefix = keys.model_prefix(name, version)
    champion_round = state.champion_round

    def work(folder: Path) -> PublishSummary:
        dtype = copy_checkpoint(
            fetch_folder(context, champion, "model"),
            folder,
            read_summary(campaign.prepared, PrepareSummary).dtype,
            campaign.recipe.model.system_prompt,
        )
        summary = PublishSummary(
            name=name,
            version=version,
            prefix=prefix,
            dtype=dtype,
            champion=champion.ref,
            champion_round=champion_round,
            target_met=state.stop == "target",
            validation_accuracy=scores.validation_accuracy,
            test_accuracy=scores.test_accuracy,
            vault=open_vault(context, campaign, champion),
        )
        metrics = json.dumps(scores.model_dump(mode="json"), indent=2, sort_keys=True)
        (folder / artifacts.METRICS).write_text(f"{metrics}\n", encoding="utf-8")
        card = model_card(campaign, champion, summary)
        (folder / artifacts.MODEL_CARD).write_text(card, encoding="utf-8")
        return summary

    task = campaign.task("publish").model_copy(update={"name": "publish", "round": state.round})
    receipt = commit_once(
        context,
        task,
        "publish",
        config={
            "name": name,
            "vault": vault_sha256(campaign.prepared),
            "system_prompt": campaign.recipe.model.system_prompt,
        },
        inputs={"state": campaign.state_receipt, "champion": champion, "evaluation": evaluation},
        seed=campaign.recipe.seed,
        work=work,
    )
    for file, ref in sorted(receipt.objects.items()):
        path = context.cache.get(context.store, keys.object_key(ref.sha256), ref.sha256, ref.size)
        context.store.put_file(prefix + file, path, ref.sha256)
    return receipt


def prefix_of(published: Receipt) -> str:
    """Return the folder of a published model in the store, with a slash at its end."""
    return read_summary(published, PublishSummary).prefix


def model_card(campaign: Campaign, champion: Receipt, summary: PublishSummary) -> str:
    """The model card: what it is, how it was made, how good it is and on what, in Hugging Face's
    form."""
    recipe, state = campaign.recipe, campaign.state
    best = next(record for record in state.history if record.round == state.champion_round)
    rows = "\n".join(_row(record) for record in state.history)
    goal = f"{recipe.decide.goal.threshold:.3f}" + (
        f" on {recipe.decide.goal.slice}" if recipe.decide.goal.slice else ""
    )
    met = "met" if summary.target_met else "not met"
    vault = _vault_row(summary.vault)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [ratchet, self-improvement]
---
# {summary.name} {summary.version}

Made by campaign `{state.run_id}` from base model `{recipe.model.source}`. This is the model of round
{state.champion_round}: the last one that was proved better than the one before it. Its weights are {summary.dtype}.
{_system_prompt(recipe.model.system_prompt)}
| measure | value |
|---|---|
| validation accuracy | {summary.validation_accuracy:.4f} |
| test accuracy | {summary.test_accuracy:.4f} |
{vault}| goal ({goal}) | {best.accuracy:.4f} [{best.interval[0]:.4f}, {best.interval[1]:.4f}], {met} |

## Rounds

| round | validation | test | accepted / generated | verdict | why |
|---|---|---|---|---|---|
{rows}

## Data

Labelled rows and verified answers of the model itself, accumulated over the rounds; no answer entered training that the
filters had not accepted. Training receipt `{champion.ref}`, digest `{champion.digest}`.

## Limits

Measured on the recipe's own held-out splits only. Accuracy elsewhere is unknown.
"""


def _system_prompt(text: str) -> str:
    """What the card tells of the system prompt; a blank line alone without one."""
    if not text:
        return ""
    return (
        "\nTrained and measured with this system prompt, which the chat template puts before conversations that have "
        f"none:\n\n{textwrap.indent(text, '    ', lambda line: True)}\n"
    )


def _vault_row(vault: Share | VaultRefusal | None) -> str:
    """A line of the card's table; none if the data has no vault."""
    match vault:
        case None:
            return ""
        case VaultRefusal():
            return f"| vault accuracy | not measured: {vault.refused} |\n"
        case Share():
            bounds = f"[{vault.low:.4f}, {vault.high:.4f}]"
            return (
                f"| vault accuracy (opened once, n = {vault.n}) | {vault.accuracy:.4f} {bounds} |\n"
            )


def _row(record: RoundRecord) -> str:
    scores = f"{record.overall:.4f} | {record.test_accuracy:.4f} | {record.accepted} / {record.generated}"
    return f"| {record.round} | {scores} | {record.verdict} | {record.why.replace('|', '/')} |"
