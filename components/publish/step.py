"""Publish the best model as an immutable prefix, with its card and its numbers."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.state import RoundRecord
from components.errors import UserError
from components.publish.files import TRAINED, copy_checkpoint
from components.publish.vault import open_vault, vault_sha256
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch_folder, read_receipt
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
    if not campaign.state.champion:
        raise UserError(
            "nothing to publish: the campaign has no champion yet (round 0 did not finish)"
        )
    champion = read_receipt(context, campaign.state.champion)
    measured = read_receipt(context, campaign.state.champion_evaluation)
    name = campaign.recipe.publish.name
    version = f"r{campaign.state.champion_round}-{champion.digest[:12]}"
    prefix = keys.model_prefix(name, version)

    def work(folder: Path) -> dict[str, Any]:
        dtype = copy_checkpoint(
            fetch_folder(context, champion, "model"),
            folder,
            str(campaign.prepared.summary.get("dtype", TRAINED)),
            campaign.recipe.model.system_prompt,
        )
        summary = {
            "name": name,
            "version": version,
            "prefix": prefix,
            "dtype": dtype,
            "champion": champion.ref,
            "champion_round": campaign.state.champion_round,
            "target_met": campaign.state.stop == "target",
            "validation_accuracy": measured.summary["validation_accuracy"],
            "test_accuracy": measured.summary["test_accuracy"],
            "vault": open_vault(context, campaign, champion),
        }
        (folder / "metrics.json").write_text(
            json.dumps(measured.summary, indent=2, sort_keys=True) + "\n"
        )
        (folder / "README.md").write_text(model_card(campaign, champion, summary), encoding="utf-8")
        return summary

    receipt = commit_once(
        context,
        campaign.task("publish").model_copy(
            update={"name": "publish", "round": campaign.state.round}
        ),
        "publish",
        config={
            "name": name,
            "vault": vault_sha256(campaign.prepared),
            "system_prompt": campaign.recipe.model.system_prompt,
        },
        inputs={"state": campaign.state_receipt, "champion": champion, "evaluation": measured},
        seed=campaign.recipe.seed,
        work=work,
    )
    for file, ref in sorted(receipt.objects.items()):
        path = context.cache.get(context.store, keys.object_key(ref.sha256), ref.sha256, ref.size)
        context.store.put_file(prefix + file, path, ref.sha256)
    return receipt


def model_card(campaign: Campaign, champion: Receipt, summary: dict[str, Any]) -> str:
    """The model card: what it is, how it was made, how good it is and on what, in Hugging Face's
    form."""
    recipe, state = campaign.recipe, campaign.state
    best = next(record for record in state.history if record.round == state.champion_round)
    rows = "\n".join(_row(record) for record in state.history)
    goal = f"{recipe.decide.goal.threshold:.3f}" + (
        f" on {recipe.decide.goal.slice}" if recipe.decide.goal.slice else ""
    )
    met, vault = "met" if summary["target_met"] else "not met", _vault_row(summary["vault"])
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [ratchet, self-improvement]
---
# {summary["name"]} {summary["version"]}

Made by campaign `{state.run_id}` from base model `{recipe.model.source}`. This is the model of round
{state.champion_round}: the last one that was proved better than the one before it. Its weights are {summary["dtype"]}.
{_system_prompt(recipe.model.system_prompt)}
| measure | value |
|---|---|
| validation accuracy | {summary["validation_accuracy"]:.4f} |
| test accuracy | {summary["test_accuracy"]:.4f} |
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


def _vault_row(vault: dict[str, Any] | None) -> str:
    """A line of the card's table; none if the data has no vault."""
    if vault is None:
        return ""
    if "refused" in vault:
        return f"| vault accuracy | not measured: {vault['refused']} |\n"
    bounds = f"[{vault['low']:.4f}, {vault['high']:.4f}]"
    return (
        f"| vault accuracy (opened once, n = {vault['n']}) | {vault['accuracy']:.4f} {bounds} |\n"
    )


def _row(record: RoundRecord) -> str:
    scores = f"{record.overall:.4f} | {record.test_accuracy:.4f} | {record.accepted} / {record.generated}"
    return f"| {record.round} | {scores} | {record.verdict} | {record.why.replace('|', '/')} |"
