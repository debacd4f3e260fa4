"""Answers of a classification: the name of a class, or nothing that may be trained on."""

from __future__ import annotations

from components.select.filter_settings import FilterSettings
from components.select.scored_samples import Filter, Remaining, ScoredSample, split
from components.verifiers import answer_key


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers which are none of the classes of the labelled rows.

    None without rows of text and label. Where other labelled rows stand beside them, only prompts
    that have a label are held to the classes.
    """
    classes = settings.classes
    if not classes.names:
        return None
    names = sorted(classes.names)
    listed = ", ".join(names)
    keys_by_verifier: dict[str, set[str]] = {}

    def refusal(scored: ScoredSample) -> str:
        if not classes.are_all and "label" not in scored.prompt.tags:
            return ""
        # By the prompt's own verifier: what it takes for an answer is what would be trained on.
        verifier = scored.prompt.verifier
        if verifier not in keys_by_verifier:
            keys_by_verifier[verifier] = {
                answer_key(scored.prompt, name) for name in names
            }
        if scored.answer in keys_by_verifier[verifier]:
            return ""
        return f"{scored.answer[:100]!r} is none of {listed[:200]}"

    return lambda block: split(block, refusal, "no_class")
