"""Scores of one model: accuracy, pass@k, classification, numeric errors, by slice, with intervals.

Pure functions over rows. Intervals hold 95 %: Wilson's for shares, normal ones for means over
prompts.
"""

from __future__ import annotations

import math
import statistics as stats
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from components.contracts.rows import Result, TextResult
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
)
from components.contracts.summaries.summary import Share
from components.measures import as_perplexity
from components.statistics import Z_95, pass_at_k, wilson_interval
from components.verifiers.numeric_error import largest_counted

AnswerSplit = Literal["dev", "validation", "test"]
ANSWER_SPLITS: tuple[AnswerSplit, ...] = ("dev", "validation", "test")
"""Splits whose prompts every model answers."""
Results = Sequence[Result]
T = TypeVar("T")


@dataclass(frozen=True)
class AnswerScores:
    """Scores of one model's answers, as fields of `EvaluateSummary`."""

    validation_accuracy: float
    test_accuracy: float
    dev_accuracy: float | None
    slices: dict[str, SliceScores]
    test_slices: dict[str, SliceScores]
    dev_slices: dict[str, SliceScores]
    pass_at: dict[str, Estimate]
    pass_at_k: Estimate | None
    numeric: dict[str, NumericErrors]
    classification: dict[str, Classification]


def scores_of(results: Results, pass_k: int) -> AnswerScores:
    """Return the summary's scores of one model.

    Args:
        results: One row per prompt; validation and test need rows.
        pass_k: Samples per validation prompt; 0 without pass@k.
    """
    validation = [row for row in results if row.split == "validation"]
    test = [row for row in results if row.split == "test"]
    dev = [row for row in results if row.split == "dev"]
    rows_by_split: dict[AnswerSplit, list[Result]] = {
        "dev": dev,
        "validation": validation,
        "test": test,
    }
    sampled = [row for row in validation if row.num_samples]
    curve: dict[str, Estimate] = {}
    if sampled:
        curve = {str(k): pass_curve_point(sampled, k) for k in _orders(pass_k)}
    return AnswerScores(
        validation_accuracy=accuracy(validation),
        test_accuracy=accuracy(test),
        dev_accuracy=accuracy(dev) if dev else None,
        # Only validation prompts are sampled several times.
        slices=_slices(validation, pass_k),
        test_slices=_slices(test, 0),
        dev_slices=_slices(dev, 0),
        pass_at=curve,
        pass_at_k=curve.get(str(pass_k)),
        numeric=_by_split(rows_by_split, _numeric),
        classification=_by_split(rows_by_split, _classification),
    )


def model_scores(
    results: Results, scores: AnswerScores, texts: TextScores | None
) -> ModelScores:
    """Return the numbers of one model that a person compares.

    Args:
        results: One row per prompt.
        scores: `scores_of` the results.
        texts: Scores of human text; None without any.
    """
    classes = scores.classification.get("validation")
    # Field by field: a score that this function forgot would be an error, not a missing column.
    # As guards read them: they see no test row.
    shape = answer_shape([row for row in results if row.split == "validation"])
    return ModelScores(
        validation_accuracy=scores.validation_accuracy,
        test_accuracy=scores.test_accuracy,
        dev_accuracy=scores.dev_accuracy,
        pass_at_k=scores.pass_at_k.value if scores.pass_at_k is not None else None,
        perplexity=texts.perplexity if texts is not None else None,
        finished_share=shape.finished_share,
        mean_answer_tokens=shape.mean_answer_tokens,
        distinct_share=shape.distinct_share,
        label_accuracy=classes.accuracy if classes is not None else None,
        macro_f1=classes.macro_f1 if classes is not None else None,
        brier=classes.brier if classes is not None else None,
    )


def answer_shape(results: Results) -> AnswerShape:
    """Return the share of greedy answers that the model ended, their mean length, their variety."""
    total = len(results)
    num_finished = sum(row.finished for row in results)
    distinct_texts = {row.text for row in results}
    return AnswerShape(
        finished_share=num_finished / total,
        mean_answer_tokens=stats.fmean(row.num_tokens for row in results),
        distinct_share=len(distinct_texts) / total,
    )


def accuracy(rows: Results) -> float:
    """Return the share of right greedy answers."""
    return sum(row.correct for row in rows) / len(rows)


def share(verdicts: Sequence[bool]) -> Share:
    """Return an accuracy with its interval."""
    total = len(verdicts)
    num_right = sum(verdicts)
    # Wilson's interval, because it holds for shares near 0 and 1 too.
    low, high = wilson_interval(num_right, total)
    return Share(n=total, accuracy=num_right / total, low=low, high=high)


def pass_curve_point(sampled: Results, k: int) -> Estimate:
    """Return unbiased pass@k (2107.03374) with the interval of its mean over prompts.

    Args:
        sampled: Prompts with samples, at least k of each.
        k: Number of tries.
    """
    # Prompts are the sample, not tries: tries of one prompt are right or wrong together.
    values = [pass_at_k(row.num_samples, row.num_correct, k) for row in sampled]
    value, half_width = mean_and_half(values)
    # The normal interval may reach beyond what a probability can be.
    low = max(0.0, value - half_width)
    high = min(1.0, value + half_width)
    return Estimate(value=value, low=low, high=high, n=len(values))


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return (mean, half the width of its 95 % interval); infinite for a single value."""
    mean = stats.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    standard_error = stats.stdev(values) / math.sqrt(len(values))
    return mean, Z_95 * standard_error


def text_scores(rows: Sequence[TextResult]) -> TextScores | None:
    """Return perplexity and token accuracy over human texts; None without texts."""
    if not rows:
        return None
    tokens = sum(row.num_tokens for row in rows)
    total_loss = sum(row.loss * row.num_tokens for row in rows)
    loss = total_loss / tokens
    # Tokens of one text are not independent: the interval is that of a ratio estimate, clustered by
    # text.
    residuals = [(row.loss - loss) * row.num_tokens for row in rows]
    spread = sum(residual**2 for residual in residuals)
    total = len(rows)
    variance = spread * total / max(1, total - 1)
    half_width = Z_95 * math.sqrt(variance) / tokens
    return TextScores(
        split=rows[0].split,
        n=len(rows),
        tokens=tokens,
        loss=loss,
        perplexity=as_perplexity(loss),
        low=as_perplexity(loss - half_width),
        high=as_perplexity(loss + half_width),
        token_accuracy=sum(row.num_right for row in rows) / tokens,
        accuracy=sum(row.correct for row in rows) / len(rows),
    )


def intervals(
    results: Results, scores: AnswerScores, texts: TextScores | None
) -> Intervals:
    """Return the 95 % intervals of the summary's headline numbers that are measured.

    Args:
        results: One row per prompt.
        scores: `scores_of` the results.
        texts: Scores of human text; None without any.
    """
    validation = share([row.correct for row in results if row.split == "validation"])
    test = share([row.correct for row in results if row.split == "test"])
    sampled = scores.pass_at_k
    return Intervals(
        validation_accuracy=(validation.low, validation.high),
        test_accuracy=(test.low, test.high),
        pass_at_k=(sampled.low, sampled.high) if sampled is not None else None,
        perplexity=(texts.low, texts.high) if texts is not None else None,
    )


def _orders(pass_k: int) -> list[int]:
    """Return the powers of two below `pass_k`, and `pass_k` itself; none for 0."""
    orders = []
    order = 1
    while order < pass_k:
        orders.append(order)
        order *= 2
    return [*orders, pass_k] if pass_k else []


def _slices(rows: Results, pass_k: int) -> dict[str, SliceScores]:
    slices: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        for tag, value in row.tags.items():
            slices[f"{tag}={value}"].append(row)
    return {
        name: _slice(slice_rows, pass_k) for name, slice_rows in sorted(slices.items())
    }


def _slice(rows: Results, pass_k: int) -> SliceScores:
    # Measures that a slice has no rows for are None: the report shows a dash.
    shape = answer_shape(rows)
    accuracy_share = share([row.correct for row in rows])
    numeric = _numeric(rows)
    classes = _classification(rows)
    sampled = [row for row in rows if row.num_samples]
    pass_value = None
    if pass_k and sampled:
        pass_value = pass_curve_point(sampled, pass_k).value
    return SliceScores(
        **dict(accuracy_share),
        finished_share=shape.finished_share,
        mean_answer_tokens=shape.mean_answer_tokens,
        pass_at_k=pass_value,
        mse=numeric.mse if numeric is not None else None,
        label_accuracy=classes.accuracy if classes is not None else None,
    )


def _by_split(
    rows_by_split: Mapping[AnswerSplit, Results],
    measure: Callable[[Results], T | None],
) -> dict[str, T]:
    """Return split → measure of its rows, without splits that have none."""
    measured = {split: measure(rows) for split, rows in rows_by_split.items()}
    return {split: scores for split, scores in measured.items() if scores is not None}


def _numeric(rows: Results) -> NumericErrors | None:
    """Return the mean squared and absolute error of numeric answers; None without numeric prompts.

    Errors are clipped as those of the gate are. `low` and `high` are bounds of the mean squared
    error.
    """
    numeric_rows = [row for row in rows if row.numeric]
    if not numeric_rows:
        return None
    errors = [row.error for row in numeric_rows if row.error is not None]
    total = len(numeric_rows)
    # Answers without a number are counted, not guessed: any guess would decide the mean.
    num_unparsed = total - len(errors)
    if not errors:
        return NumericErrors(
            n=total, unparsed=num_unparsed, mse=None, mae=None, low=None, high=None
        )
    # One answer of 1e67 among a thousand would give a mean square of 1e131.
    largest = largest_counted(errors) or 0.0
    sizes = [min(abs(error), largest) for error in errors]
    mse, half_width = mean_and_half([size * size for size in sizes])
    has_interval = math.isfinite(half_width)
    return NumericErrors(
        n=total,
        unparsed=num_unparsed,
        mse=mse,
        mae=stats.fmean(sizes),
        low=max(0.0, mse - half_width) if has_interval else None,
        high=mse + half_width if has_interval else None,
    )


def _classification(rows: Results) -> Classification | None:
    """Return accuracy, macro-F1 and Brier score of labels by likelihood; None without labels.

    Macro-F1 is the mean of F1 over the labels that occur among the right or the chosen ones.
    """
    labelled = [row for row in rows if row.predicted]
    if not labelled:
        return None
    actual = Counter[str]()
    predicted = Counter[str]()
    hits = Counter[str]()
    verdicts: list[bool] = []
    for row in labelled:
        is_hit = row.label == row.predicted
        actual[row.label] += 1
        predicted[row.predicted] += 1
        hits[row.label] += is_hit
        verdicts.append(is_hit)
    names = sorted({*actual, *predicted})
    labels = {
        name: _label_scores(hits[name], actual[name], predicted[name]) for name in names
    }
    accuracy_share = share(verdicts)
    return Classification(
        **dict(accuracy_share),
        macro_f1=stats.fmean(scores.f1 for scores in labels.values()),
        brier=_mean_error(labelled),
        labels=labels,
    )


def _mean_error(labelled: Results) -> float | None:
    errors = [row.label_error for row in labelled if row.label_error is not None]
    # Rows of an older measurement have none.
    return stats.fmean(errors) if len(errors) == len(labelled) else None


def _label_scores(num_hits: int, num_actual: int, num_predicted: int) -> LabelScores:
    return LabelScores(
        n=num_actual,
        precision=num_hits / num_predicted if num_predicted else 0.0,
        recall=num_hits / num_actual if num_actual else 0.0,
        # A label is either right or chosen at least once, so this never divides by zero.
        f1=2 * num_hits / (num_actual + num_predicted),
    )
