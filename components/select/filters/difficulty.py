"""Prompts that are neither solved nor hopeless teach most (2504.03380, 2503.14476)."""

from __future__ import annotations

from dataclasses import replace

from components.canonical import derived_seed
from components.select.filter_settings import Rules
from components.select.scored_samples import Block, Filter, Outcome, Remaining, ScoredSample, split


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers to solved prompts but for a replay share of the prompts, and weights the others
    by p(1-p) of the prompt's pass rate p, relative to the most at p = 1/2. Of a prompt that is
    never answered right (p = 0) nothing is left by the verifier but answers with a hint, whose
    weight stays. A replayed prompt counts as if half a sample had been wrong: its weight is not 0.
    """
    section = rules.section.difficulty
    if section is None:
        return None

    def refusal(one: ScoredSample) -> str:
        if one.hinted:
            return ""
        place = derived_seed(rules.seed, "replay", one.prompt.id) / 2**63
        return (
            f"all {one.num_samples} samples are right"
            if _rate(one) >= 1.0 and place >= section.replay
            else ""
        )

    def apply(block: Block) -> Outcome:
        kept, dropped = split(block, refusal, "solved")
        return [replace(one, weight=one.weight * _weight(one)) for one in kept], dropped

    return apply


def _rate(one: ScoredSample) -> float:
    assert one.pass_rate is not None, "the verifier comes first"
    return one.pass_rate


def _weight(one: ScoredSample) -> float:
    if one.hinted:
        return 1.0
    rate = min(_rate(one), 1 - 0.5 / one.num_samples)
    return 4 * rate * (1 - rate)
