"""The card of a published model, in the form of Hugging Face's model cards."""

from __future__ import annotations

import textwrap

from components.contracts.recipe import Goal
from components.contracts.state import RoundRecord
from components.contracts.summaries import PublishSummary
from components.contracts.summaries.publish import VaultRefusal
from components.contracts.summaries.summary import Share
from components.runtime.campaign import Campaign
from components.runtime.receipts import Receipt


def model_card(campaign: Campaign, champion: Receipt, summary: PublishSummary) -> str:
    """Return the Markdown of a published model: its origin, scores, rounds, data and limits.

    Args:
        campaign: The campaign that made it.
        champion: Receipt of its training.
        summary: Summary of its publication.
    """
    recipe = campaign.recipe
    state = campaign.state
    # The block between the dashes is what model hubs read.
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [ratchet, self-improvement]
---
# {summary.name} {summary.version}

Made by campaign `{state.run_id}` from base model `{recipe.model.source}`. This is the model of
round {state.champion_round}: the last one that was proved better than the one before it.
Its weights are {summary.dtype}.
{_system_prompt(recipe.model.system_prompt)}
| measure | value |
|---|---|
{_scores(campaign, summary)}

## Rounds

| round | validation | test | accepted / generated | verdict | why |
|---|---|---|---|---|---|
{_rounds(state.history)}

## Data

Labelled rows and verified answers of the model itself, accumulated over the rounds; no answer
entered training that the filters had not accepted.
Training receipt `{champion.ref}`, digest `{champion.digest}`.

## Limits

Measured on the recipe's own held-out splits only. Accuracy elsewhere is unknown.
"""


def _system_prompt(text: str) -> str:
    """Return the paragraph on the system prompt; empty without one."""
    if not text:
        return ""
    # Indented, so that Markdown in the prompt stays as it was written; blank lines too, which would
    # end the block.
    block = textwrap.indent(text, "    ", lambda line: True)
    return (
        "\nTrained and measured with this system prompt, "
        f"which the chat template puts before conversations that have none:\n\n{block}\n"
    )


def _scores(campaign: Campaign, summary: PublishSummary) -> str:
    state = campaign.state
    best = next(record for record in state.history if record.round == state.champion_round)
    low, high = best.interval
    outcome = "met" if summary.target_met else "not met"
    # Validation accuracy is flattered by the choice of the best round; the vault's is not.
    rows = [
        f"| validation accuracy | {summary.validation_accuracy:.4f} |",
        f"| test accuracy | {summary.test_accuracy:.4f} |",
    ]
    if summary.vault is not None:
        rows.append(_vault_row(summary.vault))
    goal = _goal_text(campaign.recipe.decide.goal)
    rows.append(f"| goal ({goal}) | {best.accuracy:.4f} [{low:.4f}, {high:.4f}], {outcome} |")
    return "\n".join(rows)


def _goal_text(goal: Goal) -> str:
    text = f"{goal.threshold:.3f}"
    return f"{text} on {goal.slice}" if goal.slice else text


def _vault_row(vault: Share | VaultRefusal) -> str:
    match vault:
        case VaultRefusal():
            return f"| vault accuracy | not measured: {vault.refused} |"
        case Share():
            bounds = f"[{vault.low:.4f}, {vault.high:.4f}]"
            name = f"vault accuracy (opened once, n = {vault.n})"
            return f"| {name} | {vault.accuracy:.4f} {bounds} |"


def _rounds(history: tuple[RoundRecord, ...]) -> str:
    return "\n".join(_round_row(record) for record in history)


def _round_row(record: RoundRecord) -> str:
    # A bar in the sentence would begin a column of its own.
    reason = record.why.replace("|", "/")
    samples = f"{record.accepted} / {record.generated}"
    scores = f"{record.overall:.4f} | {record.test_accuracy:.4f} | {samples}"
    return f"| {record.round} | {scores} | {record.verdict} | {reason} |"
