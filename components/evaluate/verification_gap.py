"""The generation–verification gap: how much more often a majority of samples is right than one."""

from __future__ import annotations

import math
import statistics as stats
from collections import Counter, defaultdict
from collections.abc import Sequence

from components.contracts.rows import Prompt, Sample
from components.contracts.summaries.evaluate import VerificationGap
from components.evaluate.scores import mean_and_half
from components.verifiers import vote_keys


def generation_verification(
    prompts: Sequence[Prompt], samples: Sequence[Sample], verdicts: Sequence[bool]
) -> VerificationGap | None:
    """Return the generation–verification gap (2412.02674), with the majority as the verifier.

    The gap is the accuracy of the most frequent answer minus that of a single sample: what
    filtering by agreement can teach. None if no prompt has two samples.

    Args:
        prompts: Test prompts.
        samples: Their samples.
        verdicts: Of each sample, True if it is right.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    rights: dict[str, list[bool]] = defaultdict(list)
    for sample, right in zip(samples, verdicts, strict=True):
        texts[sample.prompt_id].append(sample.text)
        rights[sample.prompt_id].append(right)
    sample_accuracies: list[float] = []
    majority_accuracies: list[float] = []
    gaps: list[float] = []
    most_samples = 0
    for prompt in prompts:
        num_samples = len(texts[prompt.id])
        # Of a single sample the majority is the sample itself.
        if num_samples < 2:
            continue
        prompt_rights = rights[prompt.id]
        sample_accuracy = stats.fmean(prompt_rights)
        majority_right = _majority_is_right(prompt, texts[prompt.id], prompt_rights)
        sample_accuracies.append(sample_accuracy)
        majority_accuracies.append(float(majority_right))
        gaps.append(majority_right - sample_accuracy)
        most_samples = max(most_samples, num_samples)
    if not gaps:
        return None
    gap, half_width = mean_and_half(gaps)
    # A gap lies between -1 and 1: with one prompt the interval holds all of it, and stays finite.
    finite_half_width = half_width if math.isfinite(half_width) else 2.0
    return VerificationGap(
        k=most_samples,
        n=len(gaps),
        sample_accuracy=stats.fmean(sample_accuracies),
        majority_accuracy=stats.fmean(majority_accuracies),
        gap=gap,
        low=gap - finite_half_width,
        high=gap + finite_half_width,
    )


def _majority_is_right(
    prompt: Prompt, texts: Sequence[str], rights: Sequence[bool]
) -> bool:
    """Return True if the most frequent answer of a prompt's samples is right."""
    keys = vote_keys(prompt, texts)
    votes = Counter(key for key in keys if key)
    # No sample holds an answer, so there is none to be right: the prompt counts as wrong.
    if not votes:
        return False
    # Of equally frequent answers the first drawn counts.
    majority, _ = votes.most_common(1)[0]
    return rights[keys.index(majority)]
