"""What helps where a round has too few accepted samples, by the reason that dropped most."""

from __future__ import annotations

from collections.abc import Mapping

_WEAK = (
    "use easier prompts, train the first stage longer (train.first.steps), or draw more "
    "(generate.samples_per_prompt)"
)

REMEDIES: Mapping[str, str] = {
    "verifier": (
        f"the model answers too few of these prompts: {_WEAK}; if the answers look right, another "
        "`verifier` of the source fits better"
    ),
    "function": (
        "your function refuses them: give prompts that it accepts more of, or a lower threshold"
    ),
    "no_class": (
        "the model answers with something else than a class: train the first stage longer "
        "(train.first.steps), or name the classes in model.system_prompt"
    ),
    "no_answer": (
        "the endpoint refused them: `ratchet samples --dropped --reason no_answer` shows its words "
        "(content policy, context length)"
    ),
    "unfinished": (
        "answers are cut off: raise generate.max_new_tokens, or train the first stage longer, so "
        "that the model learns to end"
    ),
    "empty": "the model says nothing: train the first stage longer (train.first.steps)",
    "vote": (
        "a prompt's samples disagree: lower select.min_vote_share or generate.temperature, or draw "
        "more (generate.samples_per_prompt)"
    ),
    "length": "answers are far from the usual length: widen select.max_length_ratio (and min)",
    "solved": (
        "the model solves these prompts always: give harder ones, or raise select.difficulty.replay"
    ),
    "duplicate": (
        "right answers repeat labelled rows or each other: give unlabelled prompts that no labelled "
        "row answers (data.fractions.unlabelled, or a source with split: unlabelled), or more of "
        "them (generate.prompts_per_round)"
    ),
    "near_duplicate": (
        "rows resemble each other, as those of one template do: raise select.minhash_threshold (1 "
        "drops equal rows alone)"
    ),
    "same_path": "answers repeat one solution: leave select.distinct_paths off",
    "cap": "prompts have more answers than are kept: raise select.max_per_prompt or give more prompts",
    "in_evaluation": (
        "the prompts are those of evaluation splits: give others, or select.contamination: exact if "
        "they are made from one template"
    ),
    "people": f"people call them wrong: {_WEAK}",
    "unmarked": "nobody marked them: mark more (`ratchet review export`), or draw fewer",
    "judge": "the judge grades them low: lower select.judge.min_score, or train longer",
    "reward": "the reward model scores them low: lower select.reward.min_score",
    "likelihood": "they lie outside the bands: widen select.likelihood",
    "unscored": "a scorer gave no score: see the log of the select step for the reason",
    "influence": "they would raise the loss on the dev split: leave select.influence out",
    "choice": "fewer are chosen than are needed: raise select.keep.share (or rows)",
    "leaked_hint": "answers repeat the hint: change generate.hints.template",
    "parroted_hint": "answers repeat the hint: change generate.hints.template",
}
"""Reason that samples are dropped for → the cause in words, and what helps."""


def remedy_for(dropped: Mapping[str, int]) -> str:
    """Return what helps against the reason that dropped most samples.

    Args:
        dropped: Reason → samples.
    """
    if not dropped:
        return "give more prompts, or lower select.min_accepted"
    reason = max(dropped, key=lambda name: dropped[name])
    remedy = REMEDIES.get(
        reason, f"look at `ratchet samples --dropped --reason {reason}`"
    )
    return f"most were dropped as `{reason}`: {remedy}"
