"""Accepted samples as rows to train on: `accepted.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from components.contracts.rows import TrainingRow, answered
from components.runtime.campaign import Campaign
from components.select.row_files import write_line
from components.select.scored_sample_file import ScoredSampleFile
from components.select.scored_samples import ScoredSample, by_prompt
from components.select.worse_answers import worse_answer


@dataclass
class AcceptedPrompts:
    """Prompts with an accepted sample, and samples that got a wrong one beside them."""

    without_hint: int = 0
    with_hint: int = 0
    """A prompt that was solved in both ways counts in both."""
    pairs: int = 0
    """Accepted samples with a wrong one of the same prompt."""


def write_accepted(
    campaign: Campaign,
    samples: ScoredSampleFile,
    path: Path,
    worse: Mapping[str, list[str]] | None = None,
) -> AcceptedPrompts:
    """Write the samples as training rows, their weights relative to the mean weight.

    Args:
        campaign: Round and champion, for the provenance.
        samples: The samples that passed all filters; removed.
        path: Where the rows are written.
        worse: Prompt id → wrong answers, which the rows are paired with; None for no pairs.

    Returns:
        The numbers of prompts and pairs in the file.
    """
    # Two readings of the file: the mean weight is known only after the first one.
    total_weight = 0.0
    prompts = AcceptedPrompts()
    for block in samples.blocks():
        total_weight += sum(scored.weight for scored in block)
        for group in by_prompt(block):
            if group[0].hinted:
                prompts.with_hint += 1
            else:
                prompts.without_hint += 1
    mean_weight = total_weight / max(1, samples.count)
    with path.open("wb") as file:
        for block in samples.blocks():
            for group in by_prompt(block):
                for number, scored in enumerate(group):
                    answer = worse_answer(worse or {}, scored.prompt.id, number)
                    prompts.pairs += answer is not None
                    row = _training_row(
                        campaign, scored, scored.weight / mean_weight, answer
                    )
                    write_line(file, row)
    samples.remove()
    return prompts


def _training_row(
    campaign: Campaign, scored: ScoredSample, weight: float, worse: str | None
) -> TrainingRow:
    """Return the row of an accepted sample; its provenance says why it may teach."""
    provenance: dict[str, JsonValue] = {
        "champion": campaign.state.champion,
        "prompt_id": scored.prompt.id,
        "index": scored.sample.index,
        "seed": scored.sample.seed,
        "vote_share": scored.vote_share,
        "verdict": scored.prompt.verifier
        if campaign.recipe.select.verifier
        else "unverified",
    }
    # Absent where they say nothing, so that rows of plain rounds stay short.
    if campaign.teacher_ref is not None:
        provenance["teacher"] = campaign.teacher_ref
    if scored.scores:
        provenance["scores"] = dict(scored.scores)
    if scored.pass_rate is not None:
        provenance["pass_rate"] = scored.pass_rate
    if scored.hinted:
        provenance["hinted"] = True
    # The reference answer is nowhere in the row: the model learns from its own words alone.
    return TrainingRow(
        id=f"{scored.prompt.id}-r{campaign.next_round}-{scored.sample.index}",
        prompt=scored.prompt.text,
        completion=scored.text,
        worse=worse,
        # By a model that saw a hint they say nothing about the prompt without it.
        log_probabilities=() if scored.hinted else scored.sample.log_probabilities,
        conversation=answered(scored.prompt, scored.text),
        source="self",
        round=campaign.next_round,
        weight=weight,
        tags=scored.prompt.tags,
        provenance=provenance,
        is_text=scored.prompt.is_text,
        # Where sampling stopped, text and answer did not end.
        goes_on=not scored.sample.finished,
    )
