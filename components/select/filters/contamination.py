"""The firewall: nothing of an evaluation split may be trained on (2005.14165, appendix C)."""

from __future__ import annotations

from components.contamination import Overlap
from components.contracts.rows import Prompt, prompt_id
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    ScoredSample,
    split,
)


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers to evaluation prompts, and answers that contain one.

    Prompts are compared by id and by their words. With `contamination: overlap` the filter also
    drops samples that share a run of 13 words with an evaluation item (question or reference
    answer), and samples whose prompt is a rewording of one.
    """
    evaluation_ids = settings.evaluation_ids
    # Puzzles made from one template look contaminated by parts of each other.
    index = Overlap(
        settings.evaluation, parts=settings.section.contamination == "overlap"
    )
    refusal_by_prompt: dict[str, str] = {}

    def refusal_of_prompt(prompt: Prompt) -> str:
        # Ids in files of samples may be of any kind; that of the text is computed here.
        if {prompt.id, prompt_id(prompt.text)} & evaluation_ids:
            return "its prompt is in an evaluation split"
        return index.of_prompt(prompt.text)

    def refusal(scored: ScoredSample) -> str:
        if scored.prompt.id not in refusal_by_prompt:
            # Blocks come prompt by prompt, so one entry is enough.
            refusal_by_prompt.clear()
            refusal_by_prompt[scored.prompt.id] = refusal_of_prompt(scored.prompt)
        return refusal_by_prompt[scored.prompt.id] or index.of_text(scored.text)

    def apply(block: Block) -> Outcome:
        return split(block, refusal, "in_evaluation")

    return apply
