"""The parts of a trial that sample: some questions of an evaluation, some prompts of a round."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from components.cli.estimate.calibration import Cost, Part, Trial
from components.cli.estimate.trial_campaign import (
    MAX_ROWS,
    campaign_in_rounds,
    context_of,
    evenly,
    fetched_checkpoint,
    known_answer,
    rows_file,
)
from components.contracts.artifacts import DRAWN, RESULTS, RETENTION
from components.contracts.rows import Prompt, Sample, TrainingRow, write_rows
from components.evaluate.measure import measure
from components.evaluate.questions import Questions, read_questions
from components.generate.batches import Ask
from components.generate.engines.choice import batch_rows, open_engine
from components.generate.shard_plan import plan_shard
from components.modeling.inference.answers import row_of


def evaluate_part(
    trial: Trial, start: str, num_prompts: int, max_new_tokens: int | None
) -> Part:
    """Measure the base on some of the campaign's questions, by the code of the evaluate step.

    Args:
        trial: The trial.
        start: URI of its start receipt.
        num_prompts: Prompts to ask.
        max_new_tokens: Longest answer; None: as the recipe says.
    """
    context = context_of(trial)
    campaign = campaign_in_rounds(trial, start, max_new_tokens)
    questions = _some_of(read_questions(context, campaign), num_prompts)
    begin = context.clock()
    measured, account = measure(
        context, campaign, campaign.prepared, questions, harness=False
    )
    seconds = context.clock() - begin
    with tempfile.TemporaryDirectory(dir=trial.folder) as name:
        files: dict[str, Sequence[BaseModel]] = {
            RESULTS: measured.results,
            RETENTION: measured.texts,
            DRAWN: measured.samples,
        }
        for file_name, rows in files.items():
            write_rows(Path(name) / file_name, rows)
        stored_bytes = sum(path.stat().st_size for path in Path(name).iterdir())
    cost = Cost(
        seconds=seconds, tokens_sampled=account.tokens, stored_bytes=stored_bytes
    )
    return Part(num_units=len(questions.prompts), cost=cost)


def _some_of(questions: Questions, num_prompts: int) -> Questions:
    """Return questions with so many of their prompts, and as great a share of their texts."""
    share = min(1.0, num_prompts / max(1, len(questions.prompts)))
    pairs = evenly(
        list(zip(questions.prompts, questions.splits, strict=True)), num_prompts
    )
    num_texts = max(1, round(share * len(questions.texts)))
    return replace(
        questions,
        prompts=[prompt for prompt, _ in pairs],
        splits=[split for _, split in pairs],
        texts=evenly(questions.texts, num_texts),
    )


def sample_part(
    trial: Trial, start: str, shard: int, num_prompts: int, max_new_tokens: int | None
) -> Part:
    """Sample some prompts of a shard of round 1 by the engine that the round would take.

    The samples are written to the trial's folder, as rows to train on.

    Args:
        trial: The trial.
        start: URI of its start receipt.
        shard: Number of the shard.
        num_prompts: Prompts to ask, all samples of each.
        max_new_tokens: Longest answer; None: as the recipe says.
    """
    context = context_of(trial)
    campaign = campaign_in_rounds(trial, start, max_new_tokens)
    plan = plan_shard(context, campaign, shard)
    batches = plan.asks_of_peer(0, 1)
    asks = [ask for number in batches for ask in batches[number]]
    if not asks:
        # Prompts that the model writes itself come later: others stand for them.
        prompts = read_questions(context, campaign).prompts
        indices = range(campaign.recipe.generate.samples_per_prompt)
        asks = [Ask(prompt, index, index) for prompt in prompts for index in indices]
    chosen = {ask.prompt.id for ask in evenly(asks, num_prompts)}
    chosen_asks = [ask for ask in asks if ask.prompt.id in chosen]
    size = batch_rows(plan.engine, campaign)
    samples: list[Sample] = []
    with fetched_checkpoint(context, plan.model) as folder:
        begin = context.clock()
        engine = open_engine(plan.engine, context, campaign, folder)
        for first in range(0, len(chosen_asks), size):
            samples += engine.answer(
                chosen_asks[first : first + size], lambda num_answers: None
            )
        seconds = context.clock() - begin
    asked = {ask.prompt.id: ask.prompt for ask in chosen_asks}
    in_pairs = campaign.recipe.train.method in ("dpo", "rpo")
    rows = [
        _as_row(asked[sample.prompt_id], sample, in_pairs=in_pairs)
        for sample in samples
    ]
    write_rows(rows_file(trial, shard), evenly(rows, MAX_ROWS))
    # As often as they are stored: in the samples, and accepted or dropped.
    stored_bytes = 2 * sum(len(sample.model_dump_json()) for sample in samples)
    tokens = sum(sample.num_tokens for sample in samples)
    cost = Cost(seconds=seconds, tokens_sampled=tokens, stored_bytes=stored_bytes)
    return Part(num_units=len(samples), cost=cost)


def _as_row(prompt: Prompt, sample: Sample, *, in_pairs: bool) -> TrainingRow:
    """Return a sample as the row that it will be once the model has learnt to answer.

    Args:
        prompt: Its prompt.
        sample: The sample.
        in_pairs: A wrong answer stands beside the right one.
    """
    answer = known_answer(prompt)
    text = sample.text if answer is None or prompt.is_text else answer
    row = row_of(
        prompt, sample.model_copy(update={"text": text or "-", "finished": True})
    )
    worse = (
        sample.text if sample.text not in ("", row.completion) else f"-{row.completion}"
    )
    return row.model_copy(update={"worse": worse}) if in_pairs else row
