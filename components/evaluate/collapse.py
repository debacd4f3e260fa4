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

from components.contracts.rows import Result, Sample, TextResult
from components.contracts.summaries.evaluate import (
    Bounds,
    Collapse,
    CollapseAlarm,
    CollapseSign,
    Diversity,
    PassAtKSign,
    RatioSign,
)
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
MEASURED: dict[CollapseSign, str] = {
    "distinct_2": "the share of different word pairs in answers",
    "perplexity": "perplexity on human text",
    "length": "the length of answers in tokens",
}
"""Ratio → what it is of, in words."""
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


def diversity(measured: Measured, max_rows: int) -> Diversity:
    """How varied the greedy answers are, over `max_rows` prompts chosen by id: the same for every
    model."""
    answers = chosen_answers(measured.results, max_rows)
    drawn: dict[str, list[str]] = {}
    for sample in measured.samples:
        drawn.setdefault(sample.prompt_id, []).append(" ".join(sample.text.split()))
    return Diversity(
        texts=len(answers),
        distinct_1=distinct_share(ngrams(answers, 1)),
        distinct_2=distinct_share(ngrams(answers, 2)),
        self_bleu=self_bleu(answers),
        vendi=vendi_score(answers),
        answer_entropy=entropy(" ".join(text.split()) for text in answers),
        sample_entropy=stats.fmean(map(entropy, drawn.values())) if drawn else None,
    )


def chosen_answers(results: Sequence[Result], max_rows: int) -> list[str]:
    """The greedy answers to `max_rows` prompts. Ids are digests, so their order is a fair draw."""
    rows = sorted(results, key=lambda row: (row.prompt_id, row.split))[:max_rows]
    return [row.text[:MAX_ANSWER_CHARACTERS] for row in rows]


def collapse_signs(first: Measured, now: Measured, max_rows: int) -> Collapse:
    """Each sign with its value now and in round 0, how they differ, and the bounds."""
    return Collapse(
        distinct_2=_distinct(
            chosen_answers(first.results, max_rows), chosen_answers(now.results, max_rows)
        ),
        perplexity=_perplexity(first.texts, now.texts),
        pass_at_k=_pass_at_k(first.results, now.results),
        length=_length(first.results, now.results),
    )


def alarms(collapse: Collapse) -> tuple[list[CollapseAlarm], list[CollapseAlarm]]:
    """Return blocks and warnings; what blocks does not warn as well."""
    blocks: list[CollapseAlarm] = []
    warnings: list[CollapseAlarm] = []
    for name, sign in collapse.signs.items():
        block, warning = _limits_crossed(sign)
        if block is not None:
            blocks.append(_alarm(name, sign, block))
        elif warning is not None:
            warnings.append(_alarm(name, sign, warning))
    return blocks, warnings


def _limits_crossed(sign: RatioSign | PassAtKSign) -> tuple[float | None, float | None]:
    """The limits of block and warning that a sign is beyond."""
    if isinstance(sign, RatioSign):
        return _crossed(sign.ratio, sign.block), _crossed(sign.ratio, sign.warn)
    # The upper end of an interval of the change: below 0 it is sure to be a fall.
    return (0.0 if sign.high < 0 else None), (0.0 if sign.warn_high < 0 else None)


def _crossed(ratio: float, bounds: Bounds) -> float | None:
    if bounds.below is not None and ratio < bounds.below:
        return bounds.below
    if bounds.above is not None and ratio > bounds.above:
        return bounds.above
    return None


def _alarm(name: CollapseSign, sign: RatioSign | PassAtKSign, limit: float) -> CollapseAlarm:
    now, first = f"{sign.value:.4g}", f"{sign.first:.4g}"
    if isinstance(sign, PassAtKSign):
        why = (
            f"pass@{sign.k} fell from {first} in round 0 to {now} on {sign.n} prompts "
            f"(95 % interval of the change {sign.low:+.3f} to {sign.high:+.3f})"
        )
        return CollapseAlarm(measure=name, value=sign.difference, limit=limit, why=why)
    why = (
        f"{MEASURED[name]} is {now}, in round 0 {first}: {sign.ratio:.3f} times, the limit is "
        f"{limit:.3f}"
    )
    return CollapseAlarm(measure=name, value=sign.ratio, limit=limit, why=why)


def _distinct(first: Sequence[str], now: Sequence[str]) -> RatioSign | None:
    """Of distinct-2 at an equal number of word pairs: longer answers are not less varied for being
    longer."""
    before, after = ngrams(first, 2), ngrams(now, 2)
    size = min(before.total(), after.total())
    if size < MIN_NGRAMS:
        return None
    old, new = distinct_share(before, size), distinct_share(after, size)
    assert old is not None
    assert new is not None
    return RatioSign(
        value=new,
        first=old,
        ratio=new / old,
        n=size,
        block=Bounds(below=LEAST_DISTINCT_2),
        warn=Bounds(below=(1 + LEAST_DISTINCT_2) / 2),
    )


def _perplexity(first: Sequence[TextResult], now: Sequence[TextResult]) -> RatioSign | None:
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
    return RatioSign(
        value=math.exp(min(after, 50.0)),
        first=math.exp(min(before, 50.0)),
        ratio=ratio,
        n=len(new),
        block=Bounds(above=MOST_PERPLEXITY),
        warn=Bounds(above=(1 + MOST_PERPLEXITY) / 2),
    )


def _pass_at_k(first: Sequence[Result], now: Sequence[Result]) -> PassAtKSign | None:
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
    return PassAtKSign(
        k=k,
        value=stats.fmean(after for _, after in scores),
        first=stats.fmean(before for before, _ in scores),
        difference=change,
        low=change - half,
        high=change + half,
        warn_high=change + warn_half,
        n=len(pairs),
    )


def _length(first: Sequence[Result], now: Sequence[Result]) -> RatioSign | None:
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
    return RatioSign(
        value=after / len(rows),
        first=before / len(rows),
        ratio=after / before,
        n=len(rows),
        block=Bounds(below=1 - LENGTH_CHANGE, above=1 + LENGTH_CHANGE),
        warn=Bounds(below=1 - LENGTH_CHANGE / 2, above=1 + LENGTH_CHANGE / 2),
    )
