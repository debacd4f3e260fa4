"""Signs of collapse: what a model's answers and its grasp of human text have lost against round 0.

A sign is found before accuracy falls (2305.17493, 2404.01413). Each measure has a bound that blocks
a round and, half as far from round 0, one that warns; they are data of the receipt, and `decide`
rules on them.
"""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.contracts.rows import Result, Sample, TextResult
from components.evaluate.diversity import distinct_share, entropy, ngrams, self_bleu, vendi_score
from components.evaluate.scores import mean_and_half
from components.statistics import Z_95, pass_at_k
from components.verifiers import MAX_ANSWER_CHARACTERS

LEAST_DISTINCT_2, MOST_PERPLEXITY, LENGTH_CHANGE = 0.85, 1.10, 0.30
PASS_K = 16
"""pass@k is compared at this k, or at the largest that was drawn if it is smaller."""
MIN_NGRAMS = 500
"""With fewer n-grams their distinct share says nothing."""
MIN_PROMPTS = 30
Z_80 = 1.2815515655446004
"""Two-sided 80 % point of the standard normal distribution: a fall so sure (one-sided 90 %) warns.
"""


@dataclass(frozen=True)
class Measured:
    """What one model did on the prompts and texts of a campaign."""

    results: list[Result]
    texts: list[TextResult]
    """Of the retention, else the dev split."""
    samples: list[Sample]
    """Drawn for pass@k."""


def diversity(measured: Measured, max_rows: int) -> dict[str, Any]:
    """How varied the greedy answers are, over `max_rows` prompts chosen by id: the same for every
    model."""
    answers = chosen_answers(measured.results, max_rows)
    drawn: dict[str, list[str]] = {}
    for sample in measured.samples:
        drawn.setdefault(sample.prompt_id, []).append(" ".join(sample.text.split()))
    return {
        "texts": len(answers),
        "distinct_1": distinct_share(ngrams(answers, 1)),
        "distinct_2": distinct_share(ngrams(answers, 2)),
        "self_bleu": self_bleu(answers),
        "vendi": vendi_score(answers),
        "answer_entropy": entropy(" ".join(text.split()) for text in answers),
        "sample_entropy": stats.fmean(map(entropy, drawn.values())) if drawn else None,
    }


def chosen_answers(results: Sequence[Result], max_rows: int) -> list[str]:
    """The greedy answers to `max_rows` prompts. Ids are digests, so their order is a fair draw."""
    rows = sorted(results, key=lambda row: (row.prompt_id, row.split))[:max_rows]
    return [row.text[:MAX_ANSWER_CHARACTERS] for row in rows]


def collapse_measures(first: Measured, now: Measured, max_rows: int) -> dict[str, dict[str, Any]]:
    """Each measure with its value now and in round 0, how they differ, and the bounds. What cannot
    be measured (too little text, no human text, no samples) is not in it."""
    found = {
        "distinct_2": _distinct(
            chosen_answers(first.results, max_rows), chosen_answers(now.results, max_rows)
        ),
        "perplexity": _perplexity(first.texts, now.texts),
        "pass_at_k": _pass_at_k(first.results, now.results),
        "length": _length(first.results, now.results),
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def alarms(
    measures: dict[str, dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Blocks and warnings: {"measure", "value", "limit", "why"}; what blocks does not warn as well."""
    blocks: list[dict[str, Any]] = []
    warnings: list[dict[str, Any]] = []
    for name, measure in measures.items():
        for found, bound in ((blocks, "block"), (warnings, "warn")):
            if (limit := _crossed(measure, bound)) is not None:
                value = measure["difference"] if name == "pass_at_k" else measure["ratio"]
                found.append(
                    {
                        "measure": name,
                        "value": value,
                        "limit": limit,
                        "why": _sentence(name, measure, limit),
                    }
                )
                break
    return blocks, warnings


def _distinct(first: Sequence[str], now: Sequence[str]) -> dict[str, Any] | None:
    """Of distinct-2 at an equal number of word pairs: longer answers are not less varied for being
    longer."""
    before, after = ngrams(first, 2), ngrams(now, 2)
    size = min(before.total(), after.total())
    if size < MIN_NGRAMS:
        return None
    old, new = distinct_share(before, size), distinct_share(after, size)
    assert old is not None
    assert new is not None
    return {"value": new, "first": old, "ratio": new / old, "n": size, **_below(LEAST_DISTINCT_2)}


def _perplexity(first: Sequence[TextResult], now: Sequence[TextResult]) -> dict[str, Any] | None:
    """Of perplexity per token on the same human texts."""
    old, new = {row.id: row for row in first}, {row.id: row for row in now}
    if not old or old.keys() != new.keys():
        return None
    before, after = (
        sum(row.loss * row.num_tokens for row in rows.values())
        / sum(row.num_tokens for row in rows.values())
        for rows in (old, new)
    )
    ratio = math.exp(min(after - before, 50.0))
    value, was = math.exp(min(after, 50.0)), math.exp(min(before, 50.0))
    return {"value": value, "first": was, "ratio": ratio, "n": len(new), **_above(MOST_PERPLEXITY)}


def _pass_at_k(first: Sequence[Result], now: Sequence[Result]) -> dict[str, Any] | None:
    """Difference of pass@k over the same prompts: what no sample finds any more, filtering cannot
    bring back."""
    old = {row.prompt_id: row for row in first if row.num_samples}
    pairs = [(old[row.prompt_id], row) for row in now if row.num_samples and row.prompt_id in old]
    if len(pairs) < MIN_PROMPTS:
        return None
    k = min(PASS_K, *(min(before.num_samples, after.num_samples) for before, after in pairs))
    scores = [
        tuple(pass_at_k(row.num_samples, row.num_correct, k) for row in (before, after))
        for before, after in pairs
    ]
    change, half = mean_and_half([after - before for before, after in scores])
    warn_half = half * Z_80 / Z_95
    return {
        "k": k,
        "value": stats.fmean(after for _, after in scores),
        "first": stats.fmean(one for one, _ in scores),
        "difference": change,
        "low": change - half,
        "high": change + half,
        "warn_high": change + warn_half,
        "n": len(pairs),
        "block": {"high_below": 0.0},
        "warn": {"warn_high_below": 0.0},
    }


def _length(first: Sequence[Result], now: Sequence[Result]) -> dict[str, Any] | None:
    """Of the mean answer length on the prompts that round 0 answered right.

    There a change is drift; on the others, learning may well change it (a ladder's longer problems
    have longer answers). With fewer than MIN_PROMPTS such prompts, on all.
    """
    new = {row.prompt_id: row.num_tokens for row in now}
    paired = [row for row in first if row.prompt_id in new]
    known = [row for row in paired if row.correct]
    rows = known if len(known) >= MIN_PROMPTS else paired
    before = sum(row.num_tokens for row in rows)
    if not before:
        return None
    after = sum(new[row.prompt_id] for row in rows)
    return {
        "value": after / len(rows),
        "first": before / len(rows),
        "ratio": after / before,
        "n": len(rows),
        "block": {"below": 1 - LENGTH_CHANGE, "above": 1 + LENGTH_CHANGE},
        "warn": {"below": 1 - LENGTH_CHANGE / 2, "above": 1 + LENGTH_CHANGE / 2},
    }


def _below(block: float) -> dict[str, Any]:
    return {"block": {"below": block}, "warn": {"below": (1 + block) / 2}}


def _above(block: float) -> dict[str, Any]:
    return {"block": {"above": block}, "warn": {"above": (1 + block) / 2}}


def _crossed(measure: dict[str, Any], bound: str) -> float | None:
    """The limit of `block` or `warn` that a measure is beyond."""
    return next(
        (float(limit) for side, limit in measure[bound].items() if _beyond(measure, side, limit)),
        None,
    )


def _beyond(measure: dict[str, Any], side: str, limit: float) -> bool:
    match side:
        case "above":
            return bool(measure["ratio"] > limit)
        case "below":
            return bool(measure["ratio"] < limit)
        case _:  # of pass@k: the upper end of an interval of the change
            return bool(measure[side.removesuffix("_below")] < limit)


def _sentence(name: str, measure: dict[str, Any], limit: float) -> str:
    now, first = f"{measure['value']:.4g}", f"{measure['first']:.4g}"
    if name == "pass_at_k":
        return (
            f"pass@{measure['k']} fell from {first} in round 0 to {now} on {measure['n']} prompts "
            f"(95 % interval of the change {measure['low']:+.3f} to {measure['high']:+.3f})"
        )
    what = {
        "distinct_2": "the share of different word pairs in answers",
        "perplexity": "perplexity on human text",
        "length": "the length of answers in tokens",
    }[name]
    return f"{what} is {now}, in round 0 {first}: {measure['ratio']:.3f} times, the limit is {limit:.3f}"
