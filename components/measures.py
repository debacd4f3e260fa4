"""Measures of a model on prompts, one notion for goal, gate, release and report.

A measure has a value with an interval on any set of results, a direction, and gains prompt by
prompt, by which two models are compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from components.contracts.recipe import Metric
from components.contracts.rows import Result
from components.contracts.summaries.evaluate import Estimate
from components.errors import UserError
from components.macro_f1 import influences, macro_f1
from components.statistics import cluster_totals, student_quantile, wilson_interval

# The exponential of a diverged model's loss would overflow, and JSON has no infinity.
MAX_LOSS = 50.0
"""Nats per token up to which a loss becomes a perplexity."""

MAX_BRIER = 2.0
"""Brier score of a model that is sure of a wrong class."""


@dataclass(frozen=True)
class Measure:
    """A measure of a model."""

    name: Metric
    estimate: Callable[[Sequence[Result]], Estimate]
    """Returns the value over at least one result, with its 95 % interval."""
    higher_is_better: bool
    text: Callable[[float | None], str]
    """Returns a value as people read it; a dash for None."""

    def improves(self, new: float, old: float) -> bool:
        """Return True if a value is better than another."""
        return new > old if self.higher_is_better else new < old

    def reaches(self, value: float, goal: float) -> bool:
        """Return True if a value is as good as the goal, or better."""
        return not self.improves(goal, value)

    def interval_text(self, interval: tuple[float, float]) -> str:
        """Return an interval in brackets, as people read it."""
        low, high = (self.text(bound).removesuffix(" %") for bound in interval)
        return f"[{low}–{high}]"


@dataclass(frozen=True)
class Scores:
    """One model's values on one split, over all prompts and by slice."""

    measure: Measure
    estimates: dict[str, Estimate]
    """Slice (`tag=value`; empty: all prompts) → value."""

    @classmethod
    def of(cls, results: Iterable[Result], metric: Metric = "accuracy") -> Scores:
        """Return the values on one split's results."""
        measure = measure_of(metric)
        # A prompt has a tag for its task and one for its length, and belongs to both slices.
        rows_by_slice: defaultdict[str, list[Result]] = defaultdict(list)
        for row in results:
            slices = [f"{tag}={value}" for tag, value in row.tags.items()]
            for name in ("", *slices):
                rows_by_slice[name].append(row)
        return cls(
            measure,
            {
                name: measure.estimate(rows)
                for name, rows in sorted(rows_by_slice.items())
            },
        )

    @property
    def slices(self) -> dict[str, float]:
        """Value by slice, without the overall one."""
        return {
            name: estimate.value for name, estimate in self.estimates.items() if name
        }

    def value(self, name: str = "") -> float:
        """Return the value over a slice.

        Raises:
            UserError: No prompt belongs to the slice.
        """
        if name not in self.estimates:
            slice_names = ", ".join(self.slices) or "none: the prompts carry no tags"
            raise UserError(
                f"no evaluation prompt belongs to slice {name!r} (there are: {slice_names}); "
                "mend decide.goal.slice, or raise the task's `validation` "
                "so that every length has prompts"
            )
        return self.estimates[name].value

    def interval(self, name: str = "") -> tuple[float, float]:
        """Return the 95 % interval of the value over a slice."""
        estimate = self.estimates[name]
        return estimate.low, estimate.high


def measure_of(metric: Metric) -> Measure:
    """Return the measure of a name."""
    return _MEASURES[metric]


def accuracy_of(rows: Sequence[Result]) -> Estimate:
    """Return the share of right greedy answers, with Wilson's interval."""
    num_right = sum(row.correct for row in rows)
    low, high = wilson_interval(num_right, len(rows))
    return Estimate(value=num_right / len(rows), low=low, high=high, n=len(rows))


def perplexity_of(rows: Sequence[Result]) -> Estimate:
    """Return the perplexity per token of the reference answers or texts.

    Tokens of one text, and texts of one stretch, are not independent: the interval is that of the
    ratio of sums over stretches, by Student's t (Cochran 1977, chapter 6).
    """
    num_tokens = sum(row.loss_tokens for row in rows)
    loss = math.fsum(total_loss(row) for row in rows) / num_tokens
    residuals = [total_loss(row) - loss * row.loss_tokens for row in rows]
    totals = cluster_totals(residuals, [unit_of(row) for row in rows])
    half_width = MAX_LOSS
    if len(totals) > 1:
        variance = (
            math.fsum(total**2 for total in totals) * len(totals) / (len(totals) - 1)
        )
        half_width = (
            student_quantile(0.975, len(totals) - 1) * math.sqrt(variance) / num_tokens
        )
    return Estimate(
        value=as_perplexity(loss),
        low=as_perplexity(max(0.0, loss - half_width)),
        high=as_perplexity(loss + half_width),
        n=len(rows),
    )


@dataclass(frozen=True)
class ClassChoice:
    """The class that a model finds likeliest for one prompt."""

    name: str
    squared_error: float
    """Sum over the classes of (probability - 1 for the right one, else 0)², 0 to 2."""


def class_choice(
    labels: Sequence[str], probabilities: Sequence[float], right: str
) -> ClassChoice:
    """Return the likeliest label and the squared error; ties go to the first of `labels`."""
    likeliest = max(range(len(labels)), key=lambda index: probabilities[index])
    errors = [
        probability - (label == right)
        for label, probability in zip(labels, probabilities, strict=True)
    ]
    return ClassChoice(labels[likeliest], math.fsum(error * error for error in errors))


def brier_of(rows: Sequence[Result]) -> Estimate:
    """Return the mean Brier score of the classes' probabilities, 0 to 2 (Brier 1950).

    The interval is by Student's t over prompts, or over stretches of them.
    """
    return _mean_of([label_error_of(row) for row in rows], rows, MAX_BRIER)


def label_error_of(row: Result) -> float:
    """Return the Brier score of one prompt.

    Raises:
        UserError: The prompt asks for no class, or there are too many or too few classes.
    """
    if row.label_error is None:
        raise UserError(
            f"decide.goal.metric is brier, and prompt {row.prompt_id} of split {row.split} has no "
            "probabilities of classes: give rows of text and label, of at least two classes"
        )
    return row.label_error


def brier_gains(pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """Return the old model's Brier score minus the new one's, of each prompt, -2 to 2.

    Args:
        pairs: (old, new) result of each prompt.
    """
    return [label_error_of(old) - label_error_of(new) for old, new in pairs]


def mean_score_of(rows: Sequence[Result]) -> Estimate:
    """Return the mean of the verifiers' scores of greedy answers, 0 to 1.

    The interval is by Student's t over prompts, or over stretches of them.
    """
    return _mean_of([score_of(row) for row in rows], rows, 1.0)


def score_of(row: Result) -> float:
    """Return the verifier's score of one prompt's answer.

    Raises:
        UserError: The answer was checked by a version that kept no scores.
    """
    if row.score is None:
        raise UserError(
            f"decide.goal.metric is mean_score, and prompt {row.prompt_id} of split {row.split} has "
            "no score: it was measured by an older version; begin a new run"
        )
    return row.score


def score_gains(pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """Return the new model's score minus the old one's, of each prompt, -1 to 1.

    Args:
        pairs: (old, new) result of each prompt.
    """
    return [score_of(new) - score_of(old) for old, new in pairs]


def macro_f1_of(rows: Sequence[Result]) -> Estimate:
    """Return the mean of F1 over the classes, 0 to 1, by the likeliest class of each prompt.

    The interval is by Student's t over what each prompt changes.
    """
    choices = [choice_of(row) for row in rows]
    value = macro_f1(choices)
    half_width = 1.0
    if len(rows) > 1:
        squares = math.fsum(change * change for change in influences(choices))
        variance = squares / (len(rows) * (len(rows) - 1))
        half_width = student_quantile(0.975, len(rows) - 1) * math.sqrt(variance)
    return Estimate(
        value=value,
        low=max(0.0, value - half_width),
        high=min(1.0, value + half_width),
        n=len(rows),
    )


def choice_of(row: Result) -> tuple[str, str]:
    """Return (right class, likeliest class) of a prompt.

    Raises:
        UserError: The prompt asks for no class, or there are too many or too few classes.
    """
    if not row.label or not row.predicted:
        raise UserError(
            f"decide.goal.metric is macro_f1, and prompt {row.prompt_id} of split {row.split} has "
            "no likeliest class: give rows of text and label, of at least two classes"
        )
    return row.label, row.predicted


def class_choices(pairs: Sequence[tuple[Result, Result]]) -> list[tuple[str, str, str]]:
    """Return (right class, the old model's, the new model's likeliest class) of each prompt.

    Args:
        pairs: (old, new) result of each prompt.
    """
    return [(*choice_of(old), choice_of(new)[1]) for old, new in pairs]


def class_gains(choices: Sequence[tuple[str, str, str]]) -> list[float]:
    """Return 1 where the new model alone finds the class, -1 where the old one alone does, else 0."""
    return [float(right == new) - float(right == old) for right, old, new in choices]


def _mean_of(
    values: Sequence[float], rows: Sequence[Result], largest: float
) -> Estimate:
    """Return the mean of a value from 0 to `largest` of each row."""
    mean = math.fsum(values) / len(values)
    totals = cluster_totals(
        [value - mean for value in values], [unit_of(row) for row in rows]
    )
    half_width = largest
    if len(totals) > 1:
        variance = (
            math.fsum(total**2 for total in totals) * len(totals) / (len(totals) - 1)
        )
        half_width = (
            student_quantile(0.975, len(totals) - 1) * math.sqrt(variance) / len(rows)
        )
    return Estimate(
        value=mean,
        low=max(0.0, mean - half_width),
        high=min(largest, mean + half_width),
        n=len(rows),
    )


def as_perplexity(loss: float) -> float:
    """Return the perplexity of a loss in nats per token, which is cut at MAX_LOSS."""
    return math.exp(min(loss, MAX_LOSS))


def total_loss(row: Result) -> float:
    """Return the loss of a prompt's reference in nats.

    Raises:
        UserError: The prompt has no reference answer whose likelihood could be measured.
    """
    if row.loss is None:
        raise UserError(
            f"decide.goal.metric is perplexity, and prompt {row.prompt_id} of split {row.split} "
            "has no reference answer of which it could be measured: give answers, or use metric "
            "accuracy"
        )
    return row.loss * row.loss_tokens


def loss_gains(pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """Return the old model's loss minus the new one's, of each prompt.

    In nats, over the new model's mean number of tokens of a prompt: the mean gain is that per
    token.

    Args:
        pairs: (old, new) result of each prompt.

    Raises:
        UserError: A prompt has no loss.
    """
    # Not the losses per token: two tokenizers cut a text into different numbers of them.
    mean_tokens = sum(new.loss_tokens for _, new in pairs) / len(pairs)
    return [
        (total_loss(old) - total_loss(new)) / max(1.0, mean_tokens)
        for old, new in pairs
    ]


def unit_of(row: Result) -> str:
    """Return what a result is one of, where results that resemble each other count once."""
    return row.stretch or row.prompt_id


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as `93.0 %`, or a dash for None."""
    if share is None:
        return "–"
    return f"{100 * share:.{digits}f} %"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


_MEASURES: dict[Metric, Measure] = {
    "accuracy": Measure("accuracy", accuracy_of, higher_is_better=True, text=percent),
    "perplexity": Measure(
        "perplexity", perplexity_of, higher_is_better=False, text=_plain
    ),
    "brier": Measure("brier", brier_of, higher_is_better=False, text=_plain),
    "macro_f1": Measure("macro_f1", macro_f1_of, higher_is_better=True, text=_plain),
    "mean_score": Measure(
        "mean_score", mean_score_of, higher_is_better=True, text=_plain
    ),
}
