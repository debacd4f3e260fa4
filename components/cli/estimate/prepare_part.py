"""The part of a trial that prepares the campaign: data, base, and the amounts of work in them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from components.cli.estimate.calibration import Cost, Frozen, Trial
from components.cli.estimate.trial_campaign import (
    campaign_in_rounds,
    context_of,
    evenly,
    fetched_checkpoint,
    known_answer,
    labelled_rows,
)
from components.contracts.rows import Prompt
from components.contracts.summaries import PrepareSummary
from components.evaluate.questions import read_questions
from components.generate.round_prompts import round_prompts
from components.modeling.encoding import load_codec
from components.prepare.step import PrepareInputs
from components.prepare.step import run as prepare
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import read_receipt, read_summary, receipt_uri

MAX_MEASURED = 500
"""Answers whose length is counted."""


class AnswerLengths(Frozen):
    """Tokens of the answers to some prompts, the end among them."""

    mean: float
    longest: int


class Prepared(Frozen):
    """The campaign's data and base, as the real step makes them, and the amounts of work in them."""

    cost: Cost
    start: str
    """URI of the start receipt."""
    model_bytes: int
    """Checkpoint of one model."""
    num_evaluated: int
    """Prompts that each candidate answers."""
    num_sampled: int
    """Those of them that pass@k draws several samples of, if the recipe asks for it."""
    num_released: int
    """Prompts that a release is decided on."""
    num_round_prompts: int
    num_dev_rows: int
    evaluated: AnswerLengths | None
    """Answers of a model that has learnt from the labelled rows; None if nothing tells."""
    sampled: AnswerLengths | None
    """The same of a round's samples."""


def prepare_part(trial: Trial) -> Prepared:
    """Prepare the campaign by the real step; raises what that raises."""
    context = context_of(trial)
    document = trial.recipe.model_dump(mode="json", by_alias=True)
    begin = context.clock()
    start = prepare(PrepareInputs(document, {}, "", ""), context)
    seconds = context.clock() - begin
    uri = receipt_uri(context, start)
    campaign = campaign_in_rounds(trial, uri, max_new_tokens=None)
    counts = read_summary(campaign.prepared, PrepareSummary).counts
    sizes = {name: ref.size for name, ref in campaign.prepared.objects.items()}
    sampled_prompts: list[Prompt] = []
    if trial.rounds and trial.recipe.generate.source != "model":
        sampled_prompts = round_prompts(context, campaign)
    questions = read_questions(context, campaign)
    model_bytes = sum(size for name, size in sizes.items() if name.startswith("model/"))
    mix = read_receipt(context, str(start.summary["first_mix"]))
    mix_bytes = sum(ref.size for ref in mix.objects.values())
    lengths = _Lengths(context, campaign)
    return Prepared(
        cost=Cost(seconds=seconds, stored_bytes=sum(sizes.values()) + mix_bytes),
        start=uri,
        model_bytes=model_bytes,
        num_evaluated=len(questions.prompts),
        num_sampled=len(questions.sampled_prompts),
        num_released=counts.get("vault") or counts.get("test", 0),
        num_round_prompts=len(sampled_prompts)
        or trial.recipe.generate.prompts_per_round,
        num_dev_rows=counts.get("dev", 0),
        evaluated=lengths.of(questions.prompts),
        sampled=lengths.of(sampled_prompts or questions.prompts),
    )


class _Lengths:
    """Lengths of the answers that a supervised model gives: as long as those it was taught."""

    def __init__(self, context: Context, campaign: Campaign) -> None:
        self._limit = campaign.recipe.generate.max_new_tokens
        with fetched_checkpoint(context, campaign.prepared) as folder:
            self._codec = load_codec(folder, campaign.recipe.model.system_prompt)
        labelled = [row for row in labelled_rows(context, campaign) if row.prompt]
        self._taught = [
            self._length(row.completion) for row in evenly(labelled, MAX_MEASURED)
        ]

    def of(self, prompts: Sequence[Prompt]) -> AnswerLengths | None:
        """Return the lengths of the answers to prompts; None if no answer was taught."""
        if not self._taught or not prompts:
            return None
        lengths: list[float] = []
        longest = 0
        for prompt in evenly(prompts, MAX_MEASURED):
            answer = known_answer(prompt)
            if prompt.is_text:
                # Raw text may stop anywhere, so a model hardly ever ends it.
                lengths.append(self._limit)
                longest = self._limit
            elif answer is None:
                lengths.append(statistics.fmean(self._taught))
                longest = max(longest, *self._taught)
            else:
                lengths.append(self._length(answer))
                longest = max(longest, self._length(answer))
        return AnswerLengths(mean=statistics.fmean(lengths), longest=longest)

    def _length(self, answer: str) -> int:
        return min(self._limit, len(self._codec.completion_ids(answer)))
