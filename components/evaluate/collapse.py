"""Signs of collapse: losses of a model against round 0, in its answers and on human text.

They show before accuracy falls (2305.17493, 2404.01413). Each measure has a bound that blocks a
round and, half as far from round 0, one that warns. The bounds are data of the receipt; `decide`
rules on them.
"""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from components.contracts.rows import Result, Sample, TextResult
from components.evaluate.diversity import distinct_share, entropy, ngrams, self_bleu, vendi_score
from components.evaluate.scores import mean_and_half
from components.statistics import Z_95, pass_at_k
from components.verifiers import MAX_ANSWER_CHARACTERS

LEAST_DISTINCT_2 = 0.85
"""Least ratio of distinct-2 to round 0; below, it blocks."""
MOST_PERPLEXITY = 1.10
"""Highest ratio of the perplexity to round 0; above, it blocks."""
LENGTH_CHANGE = 0.30
"""Largest relative change of the answer length, either way."""
PASS_K = 16
"""pass@k is compared at this k, or at the largest that was drawn if it is smaller."""
MIN_NGRAMS = 500
"""With fewer n-grams their distinct share says nothing."""
MIN_PROMPTS = 30
"""With fewer prompts pass@k is not compared, and the answer length not on solved prompts alone."""
Z_80 = 1.2815515655446004
"""Two-sided 80 % point of the standard normal distribution: a fall this sure (one-sided 90 %)
warns."""
MAX_LOG_PERPLEXITY = 50.0
"""Losses are cut here, so that the exponential of a diverged model's loss stays finite."""


@dataclass(frozen=True)
class Measured:
    """Rows of one model on the prompts and texts of a campaign."""

    results: list[Result]
    texts: list[TextResult]
    """Of the retention split, else the dev split."""
    samples: list[Sample]
    """Drawn for pass@k."""


def diversity(measured: Measured, max_rows: int) -> dict[str, Any]:
    """Return measures of how varied the greedy answers and the samples are.

    Args:
        measured: Rows of the model.
        max_rows: Number of prompts; chosen by id, so they are the same for every model.
    """
    answers = chosen_answers(measured.results, max_rows)
    samples_by_prompt: dict[str, list[str]] = {}
    for sample in measured.samples:
        samples_by_prompt.setdefault(sample.prompt_id, []).append(" ".join(sample.text.split()))
    sample_entropies = [entropy(texts) for texts in samples_by_prompt.values()]
    return {
        "texts": len(answers),
        "distinct_1": distinct_share(ngrams(answers, 1)),
        "distinct_2": distinct_share(ngrams(answers, 2)),
        "self_bleu": self_bleu(answers),
        "vendi": vendi_score(answers),
        "answer_entropy": entropy(" ".join(text.split()) for text in answers),
        "sample_entropy": stats.fmean(sample_entropies) if sample_entropies else None,
    }


def chosen_answers(results: Sequence[Result], max_rows: int) -> list[str]:
    """Return the greedy answers to `max_rows` prompts."""
    # Ids are digests, so their order is a fair draw.
    rows = sorted(results, key=lambda row: (row.prompt_id, row.split))[:max_rows]
    return [row.text[:MAX_ANSWER_CHARACTERS] for row in rows]


def collapse_measures(
    first: Measured, current: Measured, max_rows: int
) -> dict[str, dict[str, Any]]:
    """Return measure → its value now and in round 0, their ratio or difference, and the bounds.

    A measure that cannot be taken (too little text, no human text, no samples) is left out.

    Args:
        first: Rows of round 0's model.
        current: Rows of the candidate.
        max_rows: Number of prompts for distinct-2.
    """
    measures = {
        "distinct_2": _distinct(
            chosen_answers(first.results, max_rows), chosen_answers(current.results, max_rows)
        ),
        "perplexity": _perplexity(first.texts, current.texts),
        "pass_at_k": _pass_at_k(first.results, current.results),
        "length": _length(first.results, current.results),
    }
    return {name: measure for name, measure in measures.items() if measure is not None}


def alarms(
    measures: dict[str, dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (blocks, warnings), each {"measure", "value", "limit", "why"}.

    A measure that blocks does not warn as well.
    """
    blocks: list[dict[str, Any]] = []
    warnings: list[dict[str, Any]] = []
    for name, measure in measures.items():
        alarms_of_kind = blocks
        limit = _crossed_limit(measure, "block")
        if limit is None:
            alarms_of_kind = warnings
            limit = _crossed_limit(measure, "warn")
        if limit is not None:
            alarms_of_kind.append(
                {
                    "measure": name,
                    "value": measure["difference" if name == "pass_at_k" else "ratio"],
                    "limit": limit,
                    "why": _sentence(name, measure, limit),
                }
            )
    return blocks, warnings


def _distinct(first: Sequence[str], current: Sequence[str]) -> dict[str, Any] | None:
    """Compare distinct-2 at an equal number of word pairs.

    Longer answers repeat more pairs without being less varied.
    """
    first_pairs, current_pairs = ngrams(first, 2), ngrams(current, 2)
    size = min(first_pairs.total(), current_pairs.total())
    if size < MIN_NGRAMS:
        return None
    first_share = distinct_share(first_pairs, size)
    current_share = distinct_share(current_pairs, size)
    assert first_share is not None
    assert current_share is not None
    return {
        "value": current_share,
        "first": first_share,
        "ratio": current_share / first_share,
        "n": size,
        "block": {"below": LEAST_DISTINCT_2},
        "warn": {"below": (1 + LEAST_DISTINCT_2) / 2},
    }


def _perplexity(
    first: Sequence[TextResult], current: Sequence[TextResult]
) -> dict[str, Any] | None:
    """Compare the perplexity per token on the same human texts."""
    first_rows = {row.id: row for row in first}
    current_rows = {row.id: row for row in current}
    if not first_rows or first_rows.keys() != current_rows.keys():
        return None
    first_loss = _mean_loss(first_rows.values())
    current_loss = _mean_loss(current_rows.values())
    return {
        "value": math.exp(min(current_loss, MAX_LOG_PERPLEXITY)),
        "first": math.exp(min(first_loss, MAX_LOG_PERPLEXITY)),
        "ratio": math.exp(min(current_loss - first_loss, MAX_LOG_PERPLEXITY)),
        "n": len(current_rows),
        "block": {"above": MOST_PERPLEXITY},
        "warn": {"above": (1 + MOST_PERPLEXITY) / 2},
    }


def _mean_loss(rows: Collection[TextResult]) -> float:
    """Return the mean loss per token, in nats."""
    return sum(row.loss * row.num_tokens for row in rows) / sum(row.num_tokens for row in rows)


def _pass_at_k(first: Sequence[Result], current: Sequence[Result]) -> dict[str, Any] | None:
    """Compare pass@k over the same prompts.

    An answer that no sample finds any more cannot be brought back by filtering.
    """
    first_rows = {row.prompt_id: row for row in first if row.num_samples}
    pairs = [
        (first_rows[row.prompt_id], row)
        for row in current
        if row.num_samples and row.prompt_id in first_rows
    ]
    if len(pairs) < MIN_PROMPTS:
        return None
    k = min(PASS_K, *(row.num_samples for pair in pairs for row in pair))
    first_scores = [pass_at_k(row.num_samples, row.num_correct, k) for row, _ in pairs]
    current_scores = [pass_at_k(row.num_samples, row.num_correct, k) for _, row in pairs]
    differences = [new - old for old, new in zip(first_scores, current_scores, strict=True)]
    difference, half_width = mean_and_half(differences)
    return {
        "k": k,
        "value": stats.fmean(current_scores),
        "first": stats.fmean(first_scores),
        "difference": difference,
        "low": difference - half_width,
        "high": difference + half_width,
        "warn_high": difference + half_width * Z_80 / Z_95,
        "n": len(pairs),
        "block": {"high_below": 0.0},
        "warn": {"warn_high_below": 0.0},
    }


def _length(first: Sequence[Result], current: Sequence[Result]) -> dict[str, Any] | None:
    """Compare the mean answer length on the prompts that round 0 answered right.

    There a change is drift; on the others, learning may well change it (a ladder's longer problems
    have longer answers). With fewer than MIN_PROMPTS such prompts all prompts count.
    """
    current_lengths = {row.prompt_id: row.num_tokens for row in current}
    paired = [row for row in first if row.prompt_id in current_lengths]
    solved = [row for row in paired if row.correct]
    rows = solved if len(solved) >= MIN_PROMPTS else paired
    first_total = sum(row.num_tokens for row in rows)
    if not first_total:
        return None
    current_total = sum(current_lengths[row.prompt_id] for row in rows)
    return {
        "value": current_total / len(rows),
        "first": first_total / len(rows),
        "ratio": current_total / first_total,
        "n": len(rows),
        "block": {"below": 1 - LENGTH_CHANGE, "above": 1 + LENGTH_CHANGE},
        "warn": {"below": 1 - LENGTH_CHANGE / 2, "above": 1 + LENGTH_CHANGE / 2},
    }


def _crossed_limit(measure: dict[str, Any], bound: str) -> float | None:
    """Return the limit of `block` or `warn` that a measure is beyond, or None."""
    for side, limit in measure[bound].items():
        if _beyond(measure, side, limit):
            return float(limit)
    return None


def _beyond(measure: dict[str, Any], side: str, limit: float) -> bool:
    match side:
        case "above":
            return bool(measure["ratio"] > limit)
        case "below":
            return bool(measure["ratio"] < limit)
        case _:  # of pass@k: the upper end of an interval of the difference
            return bool(measure[side.removesuffix("_below")] < limit)


def _sentence(name: str, measure: dict[str, Any], limit: float) -> str:
    current, first = f"{measure['value']:.4g}", f"{measure['first']:.4g}"
    if name == "pass_at_k":
        return (
            f"pass@{measure['k']} fell from {first} in round 0 to {current} on {measure['n']} "
            f"prompts (95 % interval of the change {measure['low']:+.3f} to {measure['high']:+.3f})"
        )
    subject = {
        "distinct_2": "the share of different word pairs in answers",
        "perplexity": "perplexity on human text",
        "length": "the length of answers in tokens",
    }[name]
    return (
        f"{subject} is {current}, in round 0 {first}: {measure['ratio']:.3f} times, "
        f"the limit is {limit:.3f}"
    )
