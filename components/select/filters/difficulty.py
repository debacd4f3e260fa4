"""Preference for prompts that are neither solved nor hopeless (2504.03380, 2503.14476)."""

from __future__ import annotations

from dataclasses import replace

from components.canonical import derived_seed
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
    """Return a filter that drops answers to solved prompts and weights the others.

    Without a verifier the share of samples that agree stands for the pass rate.
    A replay share of the solved prompts stays. The weight is 4p(1-p), with p the pass rate of the
    prompt: 1 at p = 1/2. Where p = 0 the verifier has dropped all answers but those with a hint,
    whose weight stays as it is. A replayed prompt counts as if half a sample had been wrong:
    otherwise its weight would be 0.
    """
    section = settings.section.difficulty
    if section is None:
        return None

    def refusal(scored: ScoredSample) -> str:
        if scored.hinted or _pass_rate(scored) < 1.0:
            return ""
        # Derived from the prompt: all samples of a prompt are replayed or none of them.
        draw = derived_seed(settings.seed, "replay", scored.prompt.id) / 2**63
        verdict = "agree" if scored.pass_rate is None else "are right"
        return (
            ""
            if draw < section.replay
            else f"all {scored.num_samples} samples {verdict}"
        )

    def apply(block: Block) -> Outcome:
        passed, dropped = split(block, refusal, "solved")
        weighted = [
            replace(scored, weight=scored.weight * indecision(scored))
            for scored in passed
        ]
        return weighted, dropped

    return apply


def _pass_rate(scored: ScoredSample) -> float:
    return scored.vote_share if scored.pass_rate is None else scored.pass_rate


def indecision(scored: ScoredSample) -> float:
    """Return 4p(1-p) of the prompt's pass rate p, or of the share of samples that agree.

    1 where the model is undecided, and for samples with a hint.
    """
    if scored.hinted:
        return 1.0
    rate = min(_pass_rate(scored), 1 - 0.5 / scored.num_samples)
    # The variance of right and wrong, scaled to 1: largest where the model is undecided.
    return 4 * rate * (1 - rate)
