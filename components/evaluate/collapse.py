"""Signs of collapse: losses of a model against earlier ones, in its answers and on human text.

They show before accuracy falls (2305.17493, 2404.01413). The earlier models are the champions since
the first candidate that was promoted, or the base until there is one. Each measure has a bound that
blocks a round and, half as far, one that warns. Answers that come nearer to those of labelled rows,
in length or variety, are no collapse: the bounds lie beyond both. They are data of the receipt;
`decide` rules on them.
"""

from __future__ import annotations

import statistics as stats
from collections.abc import Collection, Mapping, Sequence
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
from components.evaluate.diversity import (
    distinct_share,
    entropy,
    ngrams,
    self_bleu,
    vendi_score,
)
from components.evaluate.scores import Results, mean_and_half
from components.measures import as_perplexity
from components.statistics import Z_95, pass_at_k
from components.verifiers import MAX_ANSWER_CHARACTERS

Sign = RatioSign | PassAtKSign
Limit = float | None
LEAST_DISTINCT_2 = 0.85
"""Least ratio of distinct-2; below, it blocks."""
MOST_PERPLEXITY = 1.10
"""Highest ratio of the perplexity; above, it blocks."""
LENGTH_CHANGE = 0.30
"""Largest relative change of the answer length, either way."""
PASS_K = 16
"""pass@k is compared at this k, or at the largest that was drawn if it is smaller."""
# The expectation at few n-grams is near 1 for any text.
MIN_NGRAMS = 500
"""With fewer n-grams their distinct share says nothing."""
MIN_PROMPTS = 30
"""With fewer prompts pass@k is not compared, and the answer length not on solved prompts alone."""
SUBJECTS: dict[CollapseSign, str] = {
    "distinct_2": "the share of different word pairs in answers",
    "perplexity": "perplexity on human text",
    "length": "the length of answers in tokens",
}
"""Ratio → its measure in words."""
# A fall that is this sure on one side (90 %) warns; one at Z_95 (97.5 %) blocks.
Z_80 = 1.2815515655446004
"""Two-sided 80 % point of the standard normal distribution."""


@dataclass(frozen=True)
class Measured:
    """Rows of one model on the prompts and texts of a campaign."""

    results: list[Result]
    texts: list[TextResult]
    """Texts of the retention split, else of the dev split."""
    samples: list[Sample]
    """Drawn for pass@k."""


def diversity(measured: Measured, max_rows: int) -> Diversity:
    """Return measures of how varied the greedy answers and the samples are.

    Args:
        measured: Rows of the model.
        max_rows: Number of prompts; chosen by id, so they are the same for every model.
    """
    answers = chosen_answers(measured.results, max_rows)
    samples_by_prompt: dict[str, list[str]] = {}
    for sample in measured.samples:
        samples_by_prompt.setdefault(sample.prompt_id, []).append(_spaced(sample.text))
    sample_entropies = [entropy(texts) for texts in samples_by_prompt.values()]
    return Diversity(
        texts=len(answers),
        distinct_1=distinct_share(ngrams(answers, 1)),
        distinct_2=distinct_share(ngrams(answers, 2)),
        self_bleu=self_bleu(answers),
        vendi=vendi_score(answers),
        answer_entropy=entropy(_spaced(text) for text in answers),
        sample_entropy=stats.fmean(sample_entropies) if sample_entropies else None,
    )


def _spaced(text: str) -> str:
    """Return a text with one space between words: another layout is no other answer."""
    return " ".join(text.split())


def chosen_answers(results: Results, max_rows: int) -> list[str]:
    """Return the greedy answers to `max_rows` prompts."""
    # Ids are digests, so their order is a fair draw.
    rows = sorted(results, key=lambda row: (row.prompt_id, row.split))[:max_rows]
    return [row.text[:MAX_ANSWER_CHARACTERS] for row in rows]


def collapse_signs(
    first: Measured, current: Measured, max_rows: int, labelled: Sequence[str] = ()
) -> Collapse:
    """Return each sign with its value now and at first, how they differ, and the bounds.

    A sign that cannot be measured (too little text, no human text, no samples) is None.

    Args:
        first: Rows of the earlier model.
        current: Rows of the candidate.
        max_rows: Number of prompts for distinct-2.
        labelled: Answers of labelled rows.
    """
    # Signs block candidates: they see no test row, or the test split would decide.
    first_results = [row for row in first.results if row.split == "validation"]
    current_results = [row for row in current.results if row.split == "validation"]
    first_answers = chosen_answers(first_results, max_rows)
    current_answers = chosen_answers(current_results, max_rows)
    return Collapse(
        distinct_2=_distinct(first_answers, current_answers, labelled),
        perplexity=_perplexity(first.texts, current.texts),
        pass_at_k=_pass_at_k(first_results, current_results),
        length=_length(first_results, current_results, labelled),
    )


def worst_signs(
    earlier: Mapping[int, Measured],
    current: Measured,
    max_rows: int,
    labelled: Sequence[str] = (),
) -> Collapse:
    """Return each sign against the model that was best by it: losses must not add up.

    The length is compared with the first of them alone: it has no best.

    Args:
        earlier: Round → rows of its model (-1: the base), for the first that was promoted and the
            champions since, all measured under the same conditions and in their order.
        current: Rows of the candidate.
        max_rows: Number of prompts for distinct-2.
        labelled: Answers of labelled rows.
    """
    collapses = {
        number: collapse_signs(model, current, max_rows, labelled)
        for number, model in earlier.items()
    }
    distinct: list[RatioSign] = []
    perplexities: list[RatioSign] = []
    passes: list[PassAtKSign] = []
    for number, collapse in collapses.items():
        against = {"against": number}
        if collapse.distinct_2 is not None:
            distinct.append(collapse.distinct_2.model_copy(update=against))
        if collapse.perplexity is not None:
            perplexities.append(collapse.perplexity.model_copy(update=against))
        if collapse.pass_at_k is not None:
            passes.append(collapse.pass_at_k.model_copy(update=against))
    first_round, first = next(iter(collapses.items()))
    length = first.length
    if length is not None:
        length = length.model_copy(update={"against": first_round})
    # `min` and `max` take the earliest of equal ones.
    return Collapse(
        distinct_2=min(distinct, key=_above_bound, default=None),
        perplexity=max(perplexities, key=lambda sign: sign.ratio, default=None),
        # By its value and not by the size of the fall: of many comparisons one is large by chance.
        pass_at_k=max(passes, key=lambda sign: sign.first, default=None),
        length=length,
    )


def model_of(round_number: int) -> str:
    """Return the model that a round trained in words; -1 is the base."""
    return "the base model" if round_number < 0 else f"round {round_number}"


def _above_bound(sign: RatioSign) -> float:
    # The bounds differ: people's answers may be less varied than those of one model.
    assert sign.block.below is not None, "distinct-2 has a lower bound"
    return sign.ratio / sign.block.below


def alarms(collapse: Collapse) -> tuple[list[CollapseAlarm], list[CollapseAlarm]]:
    """Return (blocks, warnings); a sign that blocks does not warn as well."""
    blocks: list[CollapseAlarm] = []
    warnings: list[CollapseAlarm] = []
    for name, sign in collapse.signs.items():
        block_limit, warning_limit = _crossed_limits(sign)
        if block_limit is not None:
            blocks.append(_alarm(name, sign, block_limit))
        elif warning_limit is not None:
            warnings.append(_alarm(name, sign, warning_limit))
    return blocks, warnings


def _crossed_limits(sign: Sign) -> tuple[Limit, Limit]:
    """Return the limits of (block, warning) that a sign is beyond; None for one it is not."""
    if isinstance(sign, RatioSign):
        block_limit = _crossed_bound(sign.ratio, sign.block)
        return block_limit, _crossed_bound(sign.ratio, sign.warn)
    # Upper ends of intervals of the change of pass@k: below 0 it is sure to be a fall.
    block_limit = 0.0 if sign.high < 0 else None
    warning_limit = 0.0 if sign.warn_high < 0 else None
    return block_limit, warning_limit


def _crossed_bound(ratio: float, bounds: Bounds) -> Limit:
    if bounds.below is not None and ratio < bounds.below:
        return bounds.below
    if bounds.above is not None and ratio > bounds.above:
        return bounds.above
    return None


def _alarm(name: CollapseSign, sign: Sign, limit: float) -> CollapseAlarm:
    current = f"{sign.value:.4g}"
    first = f"{sign.first:.4g}"
    if isinstance(sign, PassAtKSign):
        interval = f"{sign.low:+.3f} to {sign.high:+.3f}"
        reason = (
            f"pass@{sign.k} fell from {first} in {model_of(sign.against)} to {current} on {sign.n} "
            f"prompts "
            f"(95 % interval of the change {interval})"
        )
        return CollapseAlarm(
            measure=name, value=sign.difference, limit=limit, why=reason
        )
    reason = (
        f"{SUBJECTS[name]} is {current}, in {model_of(sign.against)} {first}: "
        f"{sign.ratio:.3f} times, the limit is {limit:.3f}"
    )
    return CollapseAlarm(measure=name, value=sign.ratio, limit=limit, why=reason)


def _distinct(
    first: Sequence[str], current: Sequence[str], labelled: Sequence[str]
) -> RatioSign | None:
    """Compare distinct-2 at an equal number of word pairs."""
    first_pairs = ngrams(first, 2)
    current_pairs = ngrams(current, 2)
    labelled_pairs = ngrams((text[:MAX_ANSWER_CHARACTERS] for text in labelled), 2)
    # Longer answers repeat more pairs without being less varied.
    size = min(first_pairs.total(), current_pairs.total())
    if size < MIN_NGRAMS:
        return None
    has_labelled = labelled_pairs.total() >= MIN_NGRAMS
    if has_labelled:
        size = min(size, labelled_pairs.total())
    first_share = distinct_share(first_pairs, size)
    current_share = distinct_share(current_pairs, size)
    assert first_share is not None
    assert current_share is not None
    # An untrained model babbles, and never says the same twice: people's answers may be less varied.
    labelled_ratio = 1.0
    if has_labelled:
        labelled_share = distinct_share(labelled_pairs, size)
        assert labelled_share is not None
        labelled_ratio = min(1.0, labelled_share / first_share)
    return RatioSign(
        value=current_share,
        first=first_share,
        ratio=current_share / first_share,
        n=size,
        block=Bounds(below=LEAST_DISTINCT_2 * labelled_ratio),
        warn=Bounds(below=(1 + LEAST_DISTINCT_2) / 2 * labelled_ratio),
    )


def _perplexity(
    first: Sequence[TextResult], current: Sequence[TextResult]
) -> RatioSign | None:
    """Compare the perplexity per token on the same human texts."""
    first_rows = {row.id: row for row in first}
    current_rows = {row.id: row for row in current}
    # Perplexities of different texts say nothing about the models.
    if not first_rows or first_rows.keys() != current_rows.keys():
        return None
    first_loss = _mean_loss(first_rows.values())
    current_loss = _mean_loss(current_rows.values())
    return RatioSign(
        value=as_perplexity(current_loss),
        first=as_perplexity(first_loss),
        ratio=as_perplexity(current_loss - first_loss),
        n=len(current_rows),
        block=Bounds(above=MOST_PERPLEXITY),
        warn=Bounds(above=(1 + MOST_PERPLEXITY) / 2),
    )


def _mean_loss(rows: Collection[TextResult]) -> float:
    """Return the mean loss per token, in nats."""
    num_tokens = sum(row.num_tokens for row in rows)
    total_loss = sum(row.loss * row.num_tokens for row in rows)
    return total_loss / num_tokens


def _pass_at_k(first: Results, current: Results) -> PassAtKSign | None:
    """Compare pass@k over the same prompts."""
    # An answer that no sample finds any more cannot be brought back by filtering: pass@k at a large
    # k falls before accuracy does.
    first_by_prompt = {row.prompt_id: row for row in first if row.num_samples}
    first_rows: list[Result] = []
    current_rows: list[Result] = []
    for row in current:
        if row.num_samples and row.prompt_id in first_by_prompt:
            first_rows.append(first_by_prompt[row.prompt_id])
            current_rows.append(row)
    if len(current_rows) < MIN_PROMPTS:
        return None
    fewest_samples = min(row.num_samples for row in (*first_rows, *current_rows))
    k = min(PASS_K, fewest_samples)
    first_scores = [_pass_score(row, k) for row in first_rows]
    current_scores = [_pass_score(row, k) for row in current_rows]
    changes = [new - old for old, new in zip(first_scores, current_scores, strict=True)]
    change, half_width = mean_and_half(changes)
    warn_half_width = half_width * Z_80 / Z_95
    return PassAtKSign(
        k=k,
        value=stats.fmean(current_scores),
        first=stats.fmean(first_scores),
        difference=change,
        low=change - half_width,
        high=change + half_width,
        warn_high=change + warn_half_width,
        n=len(changes),
    )


def _pass_score(row: Result, k: int) -> float:
    return pass_at_k(row.num_samples, row.num_correct, k)


def _length(
    first: Results, current: Results, labelled: Sequence[str]
) -> RatioSign | None:
    """Compare the mean answer length on the prompts that the earlier model answered right.

    With fewer than MIN_PROMPTS such prompts all prompts count.
    """
    current_lengths = {row.prompt_id: row.num_tokens for row in current}
    paired = [row for row in first if row.prompt_id in current_lengths]
    # On solved prompts a change of length is drift. On the others learning may well change it: a
    # ladder's longer problems have longer answers.
    solved = [row for row in paired if row.correct]
    rows = solved if len(solved) >= MIN_PROMPTS else paired
    first_total = sum(row.num_tokens for row in rows)
    if not first_total:
        return None
    current_total = sum(current_lengths[row.prompt_id] for row in rows)
    # In characters: labelled rows have no tokens here. An untrained model says nothing, or babbles
    # to the end; training teaches it the length of people's answers.
    labelled_ratio = 1.0
    first_characters = sum(len(row.text) for row in rows) / len(rows)
    if labelled and first_characters:
        labelled_ratio = stats.fmean(len(text) for text in labelled) / first_characters
    return RatioSign(
        value=current_total / len(rows),
        first=first_total / len(rows),
        ratio=current_total / first_total,
        n=len(rows),
        block=_around(labelled_ratio, LENGTH_CHANGE),
        warn=_around(labelled_ratio, LENGTH_CHANGE / 2),
    )


def _around(ratio: float, change: float) -> Bounds:
    """Return bounds that are beyond 1 and beyond the ratio by the relative change."""
    return Bounds(
        below=min(1.0, ratio) * (1 - change), above=max(1.0, ratio) * (1 + change)
    )
