"""Numbers of the results of one model: accuracy, pass@k, classification, errors of numbers, by
slice, with intervals.

Pure functions over rows. Intervals hold 95 %: Wilson's for shares, normal ones for means over
prompts.
"""

from __future__ import annotations

import math
import statistics as stats
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from components.contracts.rows import Prompt, Result, Sample, TextResult
from components.contracts.summaries.evaluate import (
    AnswerShape,
    Classification,
    Estimate,
    Intervals,
    LabelScores,
    ModelScores,
    NumericErrors,
    SliceScores,
    TextScores,
    VerificationGap,
)
from components.contracts.summaries.summary import Share
from components.statistics import Z_95, pass_at_k, wilson_interval
from components.verifiers import vote_keys

SPLITS = ("validation", "test")
T = TypeVar("T")


@dataclass(frozen=True)
class AnswerScores:
    """What the summary says of one model's answers, beside the headline numbers; see
    `EvaluateSummary`."""

    validation_accuracy: float
    test_accuracy: float
    slices: dict[str, SliceScores]
    test_slices: dict[str, SliceScores]
    pass_at: dict[str, Estimate]
    pass_at_k: Estimate | None
    numeric: dict[str, NumericErrors]
    classification: dict[str, Classification]


def scores_of(results: Sequence[Result], pass_k: int) -> AnswerScores:
    """Score one model's answers. `validation` and `test` both need rows."""
    by_split = {split: [row for row in results if row.split == split] for split in SPLITS}
    drawn = [row for row in by_split["test"] if row.num_samples]
    curve = {str(k): pass_curve_point(drawn, k) for k in _orders(pass_k)} if drawn else {}
    return AnswerScores(
        validation_accuracy=accuracy(by_split["validation"]),
        test_accuracy=accuracy(by_split["test"]),
        slices=_slices(by_split["validation"], 0),
        test_slices=_slices(by_split["test"], pass_k),
        pass_at=curve,
        pass_at_k=curve.get(str(pass_k)),
        numeric=_by_split(by_split, _numeric),
        classification=_by_split(by_split, _classification),
    )


def model_scores(
    results: Sequence[Result], scores: AnswerScores, texts: TextScores | None
) -> ModelScores:
    """The numbers of one model that a person compares."""
    return ModelScores(
        validation_accuracy=scores.validation_accuracy,
        test_accuracy=scores.test_accuracy,
        pass_at_k=scores.pass_at_k.value if scores.pass_at_k is not None else None,
        perplexity=texts.perplexity if texts is not None else None,
        **dict(answer_shape(results)),
    )


def answer_shape(results: Sequence[Result]) -> AnswerShape:
    """How the greedy answers look: ended by the model itself, length, how many differ."""
    return AnswerShape(
        finished_share=sum(row.finished for row in results) / len(results),
        mean_answer_tokens=stats.fmean(row.num_tokens for row in results),
        distinct_share=len({row.text for row in results}) / len(results),
    )


def accuracy(rows: Sequence[Result]) -> float:
    """Share of right greedy answers."""
    return sum(row.correct for row in rows) / len(rows)


def share(rights: Sequence[bool]) -> Share:
    """An accuracy with its interval."""
    low, high = wilson_interval(sum(rights), len(rights))
    return Share(n=len(rights), accuracy=sum(rights) / len(rights), low=low, high=high)


def pass_curve_point(drawn: Sequence[Result], k: int) -> Estimate:
    """pass@k over prompts with samples, unbiased (2107.03374), with the interval of the mean over
    prompts."""
    values = [pass_at_k(row.num_samples, row.num_correct, k) for row in drawn]
    value, half = mean_and_half(values)
    return Estimate(
        value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=len(values)
    )


def mean_and_half(values: Sequence[float], z: float = Z_95) -> tuple[float, float]:
    """The mean and half the width of its interval."""
    half = z * stats.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return stats.fmean(values), half


def text_scores(rows: Sequence[TextResult]) -> TextScores | None:
    """Perplexity per token over texts, with the interval of a ratio estimate clustered by text;
    None without texts."""
    if not rows:
        return None
    tokens = sum(row.num_tokens for row in rows)
    loss = sum(row.loss * row.num_tokens for row in rows) / tokens
    spread = sum(((row.loss - loss) * row.num_tokens) ** 2 for row in rows)
    half = Z_95 * math.sqrt(spread * len(rows) / max(1, len(rows) - 1)) / tokens
    return TextScores(
        split=rows[0].split,
        n=len(rows),
        tokens=tokens,
        loss=loss,
        perplexity=math.exp(min(loss, 50.0)),
        low=math.exp(min(loss - half, 50.0)),
        high=math.exp(min(loss + half, 50.0)),
        token_accuracy=sum(row.num_right for row in rows) / tokens,
        accuracy=sum(row.correct for row in rows) / len(rows),
    )


def generation_verification(
    prompts: Sequence[Prompt], samples: Sequence[Sample], verdicts: Sequence[bool]
) -> VerificationGap | None:
    """Generation–verification gap (2412.02674) with the model's own majority as the verifier.

    How much more often the most frequent of a prompt's k answers is right than one of them is; what
    filtering by agreement can teach. Of equally frequent answers the first drawn counts; a prompt
    whose samples hold no answer is wrong. `verdicts` belong to `samples`. None without two samples
    a prompt.
    """
    own: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for sample, right in zip(samples, verdicts, strict=True):
        own[sample.prompt_id].append((sample.text, right))
    asked = [prompt for prompt in prompts if len(own[prompt.id]) > 1]
    if not asked:
        return None
    single, majority = [], []
    for prompt in asked:
        rights = [right for _, right in own[prompt.id]]
        keys = vote_keys(prompt, [text for text, _ in own[prompt.id]])
        votes = Counter(key for key in keys if key)
        single.append(sum(rights) / len(rights))
        majority.append(float(bool(votes) and rights[keys.index(votes.most_common(1)[0][0])]))
    gap, half = mean_and_half([most - one for most, one in zip(majority, single, strict=True)])
    finite = half if math.isfinite(half) else 2.0
    return VerificationGap(
        k=max(len(own[prompt.id]) for prompt in asked),
        n=len(asked),
        sample_accuracy=stats.fmean(single),
        majority_accuracy=stats.fmean(majority),
        gap=gap,
        low=gap - finite,
        high=gap + finite,
    )


def intervals(
    results: Sequence[Result], scores: AnswerScores, texts: TextScores | None
) -> Intervals:
    """95 % intervals of the summary's headline numbers, where they are measured."""
    by_split = {
        split: share([row.correct for row in results if row.split == split]) for split in SPLITS
    }
    drawn = scores.pass_at_k
    return Intervals(
        validation_accuracy=(by_split["validation"].low, by_split["validation"].high),
        test_accuracy=(by_split["test"].low, by_split["test"].high),
        pass_at_k=(drawn.low, drawn.high) if drawn is not None else None,
        perplexity=(texts.low, texts.high) if texts is not None else None,
    )


def _orders(pass_k: int) -> list[int]:
    """1, 2, 4, … and pass_k itself."""
    powers = [2**place for place in range(pass_k.bit_length()) if 2**place < pass_k]
    return [*powers, pass_k] if pass_k else []


def _slices(rows: Sequence[Result], pass_k: int) -> dict[str, SliceScores]:
    slices: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        for tag, value in row.tags.items():
            slices[f"{tag}={value}"].append(row)
    return {name: _slice(own, pass_k) for name, own in sorted(slices.items())}


def _slice(rows: Sequence[Result], pass_k: int) -> SliceScores:
    shape = answer_shape(rows)
    drawn = [row for row in rows if row.num_samples]
    numeric, classes = _numeric(rows), _classification(rows)
    return SliceScores(
        **dict(share([row.correct for row in rows])),
        finished_share=shape.finished_share,
        mean_answer_tokens=shape.mean_answer_tokens,
        pass_at_k=pass_curve_point(drawn, pass_k).value if pass_k and drawn else None,
        mse=numeric.mse if numeric is not None else None,
        label_accuracy=classes.accuracy if classes is not None else None,
    )


def _by_split(
    by_split: Mapping[str, Sequence[Result]],
    measure: Callable[[Sequence[Result]], T | None],
) -> dict[str, T]:
    return {
        split: found for split, rows in by_split.items() if (found := measure(rows)) is not None
    }


def _numeric(rows: Sequence[Result]) -> NumericErrors | None:
    """Mean squared and absolute error of numbers; answers without a number are counted, not
    guessed."""
    asked = [row for row in rows if row.numeric]
    errors = [row.error for row in asked if row.error is not None]
    if not asked:
        return None
    num_unparsed = len(asked) - len(errors)
    if not errors:
        return NumericErrors(
            n=len(asked), unparsed=num_unparsed, mse=None, mae=None, low=None, high=None
        )
    mse, half = mean_and_half([error * error for error in errors])
    return NumericErrors(
        n=len(asked),
        unparsed=num_unparsed,
        mse=mse,
        mae=stats.fmean(map(abs, errors)),
        low=max(0.0, mse - half) if math.isfinite(half) else None,
        high=mse + half if math.isfinite(half) else None,
    )


def _classification(rows: Sequence[Result]) -> Classification | None:
    """Accuracy and macro-F1 of classes chosen by label likelihood: the mean of F1 over the classes
    that occur among the right or the chosen ones."""
    asked = [row for row in rows if row.predicted]
    if not asked:
        return None
    labels = {}
    for name in sorted({row.label for row in asked} | {row.predicted for row in asked}):
        hits = sum(row.label == name == row.predicted for row in asked)
        truly, said = (
            sum(row.label == name for row in asked),
            sum(row.predicted == name for row in asked),
        )
        labels[name] = LabelScores(
            n=truly,
            precision=hits / said if said else 0.0,
            recall=hits / truly if truly else 0.0,
            f1=2 * hits / (truly + said),
        )
    return Classification(
        **dict(share([row.label == row.predicted for row in asked])),
        macro_f1=stats.fmean(scores.f1 for scores in labels.values()),
        labels=labels,
    )
