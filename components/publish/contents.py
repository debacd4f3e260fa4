"""The files of a release, or those that say why there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pydantic import Field

from components.contracts import artifacts
from components.contracts.releases import (
    COMPARISON,
    EVALUATION_IDS,
    LEDGER_FOLDER,
    TRAINING_IDS,
    Line,
    Opening,
)
from components.contracts.rows import Prompt, Result, Row, read_rows, write_rows
from components.contracts.summaries import (
    EvaluateSummary,
    PrepareSummary,
    PublishSummary,
)
from components.contracts.summaries.evaluate import Estimate
from components.contracts.summaries.publish import Rival
from components.measures import measure_of
from components.publish.comparison import Rule, compare, results_of
from components.publish.files import copy_checkpoint
from components.publish.model_card import model_card
from components.publish.publication import Publication
from components.publish.used_prompts import write_ids
from components.runtime.context import Context
from components.runtime.ledger import fetch_release, receipt_of
from components.runtime.receipts import fetch, fetch_folder, read_summary
from components.storage import keys


class ComparedPrompt(Row):
    """One prompt of the comparison, with the verdicts on the models' answers."""

    prompt_id: str
    right: dict[str, bool]
    """`champion`, `base`, `release`, `anchor` → verdict."""
    loss: dict[str, float | None] = Field(default_factory=dict)
    """The same → loss in nats per token, where the measure is a perplexity."""


def write_files(
    context: Context, publication: Publication, folder: Path
) -> PublishSummary:
    """Write the files of a release, or those that say why there is none, into the folder."""
    if publication.released_as is not None:
        return _same_release(context, publication, publication.released_as, folder)
    if publication.opening is None:
        dtype = read_summary(publication.campaign.prepared, PrepareSummary).dtype
        summary = _summary(publication, dtype, released=False, why=publication.refusal)
    else:
        _, opening = publication.opening
        summary = _decided(context, publication, opening, folder)
    write_ids(
        context, publication.campaign, folder / EVALUATION_IDS, folder / TRAINING_IDS
    )
    evaluation = read_summary(publication.evaluation, EvaluateSummary)
    # Sorted and indented, so that two versions can be compared line by line.
    metrics = json.dumps(evaluation.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / artifacts.METRICS).write_text(f"{metrics}\n", encoding="utf-8")
    card = model_card(publication.campaign, publication.champion, summary)
    (folder / artifacts.MODEL_CARD).write_text(card, encoding="utf-8")
    return summary


def _same_release(
    context: Context, publication: Publication, line: Line, folder: Path
) -> PublishSummary:
    """Link the files of the release that has these very weights: its folder is not written again."""
    receipt = receipt_of(context, line)
    files = fetch_release(context, receipt)
    try:
        _move_all(files, folder)
    finally:
        shutil.rmtree(files, ignore_errors=True)
    earlier = read_summary(receipt, PublishSummary)
    why = f"release {line.number} ({line.version}) has these very weights"
    summary = _summary(
        publication,
        earlier.dtype,
        released=True,
        why=why,
        scores=earlier.scores,
        rivals=earlier.rivals,
    )
    update = {
        "version": line.version,
        "prefix": line.prefix,
        "split": earlier.split,
        # It is in force already.
        "needs_approval": False,
    }
    return summary.model_copy(update=update)


def _decided(
    context: Context, publication: Publication, opening: Opening, folder: Path
) -> PublishSummary:
    """Compare the champion with its rivals, and write its files if it is released."""
    model = context.scratch / f"{folder.name}-model"
    checkpoint = fetch_folder(context, publication.champion, "model")
    try:
        model.mkdir()
        dtype = copy_checkpoint(
            checkpoint,
            model,
            read_summary(publication.campaign.prepared, PrepareSummary).dtype,
            publication.recipe.model.system_prompt,
        )
        scores, rivals, refusal = _compared(
            context, publication, opening.level, model, folder
        )
        if not refusal:
            _move_all(model, folder)
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(model, ignore_errors=True)
    return _summary(
        publication,
        dtype,
        released=not refusal,
        why=refusal or _reason_for(rivals),
        scores=scores,
        rivals=rivals,
    )


def _move_all(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        path.rename(folder / path.name)


def _summary(
    publication: Publication,
    dtype: str,
    *,
    released: bool,
    why: str,
    scores: Estimate | None = None,
    rivals: tuple[Rival, ...] = (),
) -> PublishSummary:
    evaluation = read_summary(publication.evaluation, EvaluateSummary)
    name = publication.recipe.publish.name
    version = publication.version if released else ""
    return PublishSummary(
        needs_approval=released and publication.recipe.publish.approval == "required",
        name=name,
        version=version,
        prefix=keys.model_prefix(name, version) if released else "",
        released=released,
        why=why,
        dtype=dtype,
        champion=publication.champion.ref,
        champion_round=publication.champion_round,
        target_met=publication.campaign.state.stop == "target",
        metric=evaluation.metric,
        validation_score=evaluation.measured["validation"][""].value,
        test_score=evaluation.measured["test"][""].value,
        split=publication.split,
        scores=scores,
        rivals=rivals,
        new_prompts_due=not released and publication.new_prompts_due,
    )


def _compared(
    context: Context, publication: Publication, level: float, model: Path, folder: Path
) -> tuple[Estimate | None, tuple[Rival, ...], str]:
    """Return (the champion's scores, results against its rivals, reason against the release)."""
    prompts = _prompts(context, publication)
    if not prompts:
        return (
            None,
            (),
            f"every {publication.split} prompt was trained on by the last release",
        )
    recipe = publication.recipe
    section = recipe.decide
    metric = section.goal.metric
    rule = Rule(
        level, recipe.publish.margin, metric, section.compared_by, section.family
    )
    split = publication.split
    champion = results_of(context, recipe, model, prompts, split)
    results = {"champion": champion}
    rivals = []
    for rival in publication.rivals:
        with rival.checkpoint(context) as checkpoint:
            results[rival.kind] = results_of(
                context, recipe, checkpoint, prompts, split
            )
        rivals.append(
            compare(rival.kind, rival.name, results[rival.kind], champion, rule)
        )
    (folder / LEDGER_FOLDER).mkdir()
    write_rows(folder / COMPARISON, _rows(results))
    unproved = [rival for rival in rivals if rival.verdict == "not proved"]
    reasons = [
        f"not proved better than {rival.name}: {rival.why}" for rival in unproved
    ]
    return measure_of(metric).estimate(champion), tuple(rivals), "; ".join(reasons)


def _prompts(context: Context, publication: Publication) -> list[Prompt]:
    """Return the prompts that decide, without those that a release was trained on."""
    name = artifacts.split_file(publication.split)
    path = fetch(context, publication.campaign.prepared, name)
    trained: set[str] = set()
    for rival in publication.rivals:
        trained |= rival.trained_ids(context)
    return [prompt for prompt in read_rows(path, Prompt) if prompt.id not in trained]


def _rows(results: dict[str, list[Result]]) -> list[ComparedPrompt]:
    rows = []
    for index, first in enumerate(results["champion"]):
        right = {name: model[index].correct for name, model in results.items()}
        loss = {}
        if first.loss is not None:
            loss = {name: model[index].loss for name, model in results.items()}
        rows.append(ComparedPrompt(prompt_id=first.prompt_id, right=right, loss=loss))
    return rows


def _reason_for(rivals: tuple[Rival, ...]) -> str:
    verdicts = {"better": "proved better than", "non-inferior": "non-inferior to"}
    parts = [
        f"{verdicts[rival.verdict]} {rival.name} ({rival.why})" for rival in rivals
    ]
    return "; ".join(parts)
