"""Release the best model as an immutable folder of the store, if it is better than what there is."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from components.canonical import JsonObject
from components.contracts import artifacts
from components.contracts.recipe import Recipe
from components.contracts.releases import (
    COMPARISON,
    EVALUATION_IDS,
    LEDGER_FOLDER,
    TRAINING_IDS,
    BaseModelLine,
    Line,
    Opening,
    OpeningId,
)
from components.contracts.rows import Prompt, Row, read_rows, write_rows
from components.contracts.summaries import EvaluateSummary, PrepareSummary, PublishSummary
from components.contracts.summaries.publish import Rival, Split
from components.contracts.summaries.summary import Share
from components.errors import UserError
from components.publish.comparison import Answers, Rule, answers_of, compare
from components.publish.files import copy_checkpoint
from components.publish.model_card import model_card
from components.publish.openings import Label, account_of, deciding_split, nearly_worn_out, opened
from components.publish.rivals import RivalModel, rivals_of
from components.publish.used_prompts import write_ids
from components.runtime.attempts import Attempt, attempting
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.ledger import (
    append_line,
    fetch_release,
    model_files,
    read_lines,
    receipt_of,
    weights_digest,
)
from components.runtime.receipts import (
    Receipt,
    commit,
    digests_of,
    fetch,
    fetch_folder,
    read_receipt,
    read_summary,
    step_key,
)
from components.storage import keys


@dataclass(frozen=True)
class PublishInputs:
    """The campaign whose champion is published."""

    state: str
    """URI of the campaign's last state."""


@dataclass(frozen=True)
class Publication:
    """A champion, and everything that its release depends on."""

    campaign: Campaign
    champion: Receipt
    """Receipt of its training."""
    champion_round: int | None
    """Round that trained it; None if it is the base."""
    evaluation: Receipt
    weights: str
    """Digest of its weights."""
    split: Split
    """Prompts that decide."""
    prompts: str
    """SHA-256 of their file."""
    rivals: tuple[RivalModel, ...]
    released_as: Line | None
    """The line in force, if it has these very weights."""
    opening: tuple[OpeningId, Opening] | None
    """None if no prompts need to be opened, or may be."""
    refusal: str
    """Reason against a release that needs no comparison; empty if there is none."""

    @property
    def recipe(self) -> Recipe:
        """Recipe of the campaign."""
        return self.campaign.recipe

    @property
    def inputs(self) -> dict[str, Receipt]:
        """Receipts that the result depends on."""
        return {
            "state": self.campaign.state_receipt,
            "champion": self.champion,
            "evaluation": self.evaluation,
        }

    @property
    def config(self) -> JsonObject:
        """Everything else that the result depends on."""
        recipe = self.recipe
        opening: JsonValue = None
        if self.opening is not None:
            opening = [part.model_dump(mode="json") for part in self.opening]
        return {
            "publish": recipe.publish.model_dump(mode="json"),
            "system_prompt": recipe.model.system_prompt,
            "prompts": self.prompts,
            # Releases are receipts of other runs, so they are no inputs, which are of this run.
            "rivals": [
                [rival.kind, rival.receipt.ref, rival.receipt.digest] for rival in self.rivals
            ],
            "released_as": self.released_as.publish if self.released_as is not None else None,
            "opening": opening,
            "refusal": self.refusal,
        }

    @property
    def new_prompts_due(self) -> bool:
        """True if a refusal leaves the prompts one opening, or none."""
        return self.opening is None or nearly_worn_out(self.opening[1])

    @property
    def version(self) -> str:
        """Name of the folder: the round, and a digest of everything that its files depend on."""
        # Two receipts never share a folder, so no file of a published one is ever written again.
        code = code_digest("publish")
        seed = self.recipe.seed
        key = step_key("publish", code, self.config, digests_of(self.inputs), seed)
        return f"r{self.champion_round}-{key[:12]}"


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
    publication = _publication(context, campaign, lines)
    receipt = commit(
        context,
        attempt,
        "publish",
        config=publication.config,
        inputs=publication.inputs,
        seed=publication.recipe.seed,
        work=lambda folder: _write(context, publication, folder),
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


def _publication(context: Context, campaign: Campaign, lines: list[Line]) -> Publication:
    state = campaign.state
    if state.champion is None or state.champion_evaluation is None:
        raise UserError(
            "nothing to publish: the campaign has no champion yet (the base model is not measured)"
        )
    champion = read_receipt(context, state.champion)
    recipe = campaign.recipe
    name = recipe.publish.name
    weights = weights_digest(champion, "model")
    split, prompts = deciding_split(campaign.prepared)
    rivals = rivals_of(context, campaign, lines, recipe.publish.margin)
    released_as = None
    refusal = ""
    opening = None
    # First: a base that is the release in force has its very weights too.
    if any(rival.kind == "base" and rival.weights == weights for rival in rivals):
        refusal = "the champion is the base model: no round was proved better than it"
    elif lines and lines[-1].weights == weights:
        released_as = lines[-1]
    else:
        opening = opened(
            context,
            prompts,
            recipe.decide.alpha,
            weights,
            tuple(rival.weights for rival in rivals),
            Label(name, campaign.state.run_id),
        )
        if opening is None:
            refusal = (
                f"the {split} prompts are worn out: they were opened "
                f"{account_of(context, prompts, recipe.decide.alpha).spent_openings} times without "
                f"a release; give new ones"
            )
    return Publication(
        campaign=campaign,
        champion=champion,
        champion_round=state.champion_round,
        evaluation=read_receipt(context, state.champion_evaluation),
        weights=weights,
        split=split,
        prompts=prompts,
        rivals=tuple(rivals),
        released_as=released_as,
        opening=opening,
        refusal=refusal,
    )


def _write(context: Context, publication: Publication, folder: Path) -> PublishSummary:
    """Write the files of a release, or those that say why there is none, into the folder."""
    released_as = publication.released_as
    if released_as is not None:
        return _same_release(context, publication, released_as, folder)
    recipe = publication.recipe
    model = context.scratch / f"{folder.name}-model"
    model.mkdir()
    checkpoint = fetch_folder(context, publication.champion, "model")
    try:
        dtype = copy_checkpoint(
            checkpoint,
            model,
            read_summary(publication.campaign.prepared, PrepareSummary).dtype,
            recipe.model.system_prompt,
        )
        scores, rivals, why = _compared(context, publication, model, folder)
        released = not why
        if released:
            for path in sorted(model.iterdir()):
                path.rename(folder / path.name)
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(model, ignore_errors=True)
    summary = _summary(publication, released=released, dtype=dtype).model_copy(
        update={
            "scores": scores,
            "rivals": rivals,
            "why": why or _reason_for(rivals),
            "new_prompts_due": not released and publication.new_prompts_due,
        }
    )
    write_ids(context, publication.campaign, folder / EVALUATION_IDS, folder / TRAINING_IDS)
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
        for path in sorted(files.iterdir()):
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(files, ignore_errors=True)
    earlier = read_summary(receipt, PublishSummary)
    return _summary(publication, released=True, dtype=earlier.dtype).model_copy(
        update={
            "version": line.version,
            "prefix": line.prefix,
            "split": earlier.split,
            "scores": earlier.scores,
            "rivals": earlier.rivals,
            "why": f"release {line.number} ({line.version}) has these very weights",
        }
    )


def _summary(publication: Publication, *, released: bool, dtype: str) -> PublishSummary:
    evaluation = read_summary(publication.evaluation, EvaluateSummary)
    name = publication.recipe.publish.name
    version = publication.version if released else ""
    return PublishSummary(
        name=name,
        version=version,
        prefix=keys.model_prefix(name, version) if released else "",
        released=released,
        why="",
        dtype=dtype,
        champion=publication.champion.ref,
        champion_round=publication.champion_round,
        target_met=publication.campaign.state.stop == "target",
        validation_accuracy=evaluation.validation_accuracy,
        test_accuracy=evaluation.test_accuracy,
        split=publication.split,
        scores=None,
    )


class ComparedPrompt(Row):
    """One prompt of the comparison, with the verdicts on the models' answers."""

    prompt_id: str
    right: dict[str, bool]
    """`champion`, `base`, `release`, `anchor` → verdict."""


def _compared(
    context: Context, publication: Publication, model: Path, folder: Path
) -> tuple[Share | None, tuple[Rival, ...], str]:
    """Return (the champion's scores, results against its rivals, reason against the release)."""
    if publication.opening is None:
        return None, (), publication.refusal
    prompts = _prompts(context, publication)
    if not prompts:
        return None, (), f"every {publication.split} prompt was trained on by the last release"
    recipe = publication.recipe
    section = recipe.decide
    level = publication.opening[1].level
    rule = Rule(level, recipe.publish.margin, section.score, section.family)
    champion = answers_of(context, recipe, model, prompts)
    answers: dict[str, Answers] = {"champion": champion}
    rivals = []
    for rival in publication.rivals:
        with rival.checkpoint(context) as checkpoint:
            answers[rival.kind] = answers_of(context, recipe, checkpoint, prompts)
        rivals.append(compare(rival.kind, rival.name, answers[rival.kind], champion, prompts, rule))
    (folder / LEDGER_FOLDER).mkdir()
    write_rows(folder / COMPARISON, _rows(prompts, answers))
    unproved = [rival for rival in rivals if rival.verdict == "not proved"]
    reasons = [f"not proved better than {rival.name}: {rival.why}" for rival in unproved]
    return champion.scores, tuple(rivals), "; ".join(reasons)


def _prompts(context: Context, publication: Publication) -> list[Prompt]:
    """Return the prompts that decide, without those that a release was trained on."""
    name = artifacts.split_file(publication.split)
    path = fetch(context, publication.campaign.prepared, name)
    trained: set[str] = set()
    for rival in publication.rivals:
        trained |= rival.trained_ids(context)
    return [prompt for prompt in read_rows(path, Prompt) if prompt.id not in trained]


def _rows(prompts: list[Prompt], answers: dict[str, Answers]) -> list[ComparedPrompt]:
    rows = []
    for index, prompt in enumerate(prompts):
        right = {name: model.right[index] for name, model in answers.items()}
        rows.append(ComparedPrompt(prompt_id=prompt.id, right=right))
    return rows


def _reason_for(rivals: tuple[Rival, ...]) -> str:
    verdicts = {"better": "proved better than", "non-inferior": "non-inferior to"}
    parts = [f"{verdicts[rival.verdict]} {rival.name} ({rival.why})" for rival in rivals]
    return "; ".join(parts)


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
        accuracy=summary.scores.accuracy,
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
