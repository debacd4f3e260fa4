"""Ids of the prompts that a campaign has used, for the splits of the campaign that goes on from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.contracts.artifacts import DEV_PROMPTS, split_file
from components.contracts.releases import EVALUATION_IDS, TRAINING_IDS
from components.contracts.rows import Prompt, TrainingRow, prompt_id, read_rows
from components.contracts.summaries import PrepareSummary
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_receipt, read_summary

MEASURED_PROMPTS = ("vault", "test", "validation", "audit", DEV_PROMPTS)
MEASURED_ROWS = ("retention", "dev")


def write_ids(
    context: Context, campaign: Campaign, evaluation: Path, training: Path
) -> None:
    """Write the ids of all prompts that the champion and the releases it comes from have used.

    Args:
        context: Store of the splits.
        campaign: The campaign.
        evaluation: File of the ids that models were measured on, one a line.
        training: File of the ids that models were trained on.
    """
    measured: set[str] = set()
    for split in MEASURED_PROMPTS:
        measured |= _prompt_ids(context, campaign, split)
    for split in MEASURED_ROWS:
        measured |= _row_ids(context, campaign, split)
    trained = _row_ids(context, campaign, "train") | _prompt_ids(
        context, campaign, "unlabelled"
    )
    # A campaign that began from a release goes on from what that one had used.
    base_release = read_summary(campaign.prepared, PrepareSummary).base_release
    if base_release:
        receipt = read_receipt(context, base_release)
        measured.update(fetch(context, receipt, EVALUATION_IDS).read_text().split())
        trained.update(fetch(context, receipt, TRAINING_IDS).read_text().split())
    evaluation.parent.mkdir(exist_ok=True)
    _write_lines(evaluation, measured)
    _write_lines(training, trained)


def _prompt_ids(context: Context, campaign: Campaign, split: str) -> set[str]:
    if split_file(split) not in campaign.prepared.objects:
        return set()
    path = fetch(context, campaign.prepared, split_file(split))
    return {prompt.id for prompt in read_rows(path, Prompt)}


def _row_ids(context: Context, campaign: Campaign, split: str) -> set[str]:
    if split_file(split) not in campaign.prepared.objects:
        return set()
    path = fetch(context, campaign.prepared, split_file(split))
    # Of raw text, which asks nothing, the text's.
    return {
        prompt_id(row.prompt or row.completion) for row in read_rows(path, TrainingRow)
    }


def _write_lines(path: Path, ids: Iterable[str]) -> None:
    path.write_text("".join(f"{prompt}\n" for prompt in sorted(ids)), encoding="utf-8")
