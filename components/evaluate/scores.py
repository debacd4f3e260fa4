"""Scores of one model: accuracy, pass@k, classification, numeric errors, by slice, with intervals.

Pure functions over rows. Intervals hold 95 %: Wilson's for shares, normal ones for means over
prompts.
"""

from __future__ import annotations

import math
import statistics as stats
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.contracts.rows import Prompt, Result, Sample, TextResult
from components.statistics import Z_95, pass_at_k, wilson_interval
from components.verifiers import answer_key

SPLITS = ("validation", "test")


def scores_of(results: Sequence[Result], pass_k: int) -> dict[str, Any]:
    """Return the summary's scores of one model.

    Args:
        results: One row per prompt; both splits need rows.
        pass_k: Samples per test prompt; 0 without pass@k.
    """
    by_split = {split: [row for row in results if row.split == split] for split in SPLITS}
    sampled = [row for row in by_split["test"] if row.num_samples]
    curve = {}
    if sampled:
        curve = {str(k): pass_curve_point(sampled, k) for k in _orders(pass_k)}
    return {
        "validation_accuracy": accuracy(by_split["validation"]),
        "test_accuracy": accuracy(by_split["test"]),
        "slices": _slices(by_split["validation"], 0),
        "test_slices": _slices(by_split["test"], pass_k),
        "pass_k": pass_k,
        "pass_at_k": curve[str(pass_k)]["value"] if curve else None,
        "pass_at": curve,
        "numeric": _by_split(by_split, _numeric),
        "classification": _by_split(by_split, _classification),
    }


def answer_shape(results: Sequence[Result]) -> dict[str, float]:
    """Return the share of greedy answers that the model ended, their mean length, their variety."""
    return {
        "finished_share": sum(row.finished for row in results) / len(results),
        "mean_answer_tokens": stats.fmean(row.num_tokens for row in results),
        "distinct_share": len({row.text for row in results}) / len(results),
    }


def accuracy(rows: Sequence[Result]) -> float:
    """Return the share of right greedy answers."""
    return sum(row.correct for row in rows) / len(rows)


def share(rights: Sequence[bool]) -> dict[str, Any]:
    """Return an accuracy with its interval: `n`, `accuracy`, `low`, `high`."""
    low, high = wilson_interval(sum(rights), len(rights))
    return {"n": len(rights), "accuracy": sum(rights) / len(rights), "low": low, "high": high}


def pass_curve_point(sampled: Sequence[Result], k: int) -> dict[str, float]:
    """Return unbiased pass@k (2107.03374) with its interval: `value`, `low`, `high`, `n`.

    Args:
        sampled: Prompts with samples, at least k of each.
        k: Number of tries.
    """
    values = [pass_at_k(row.num_samples, row.num_correct, k) for row in sampled]
    value, half_width = mean_and_half(values)
    return {
        "value": value,
        "low": max(0.0, value - half_width),
        "high": min(1.0, value + half_width),
        "n": len(values),
    }


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return (mean, half the width of its 95 % interval); infinite for a single value."""
    if len(values) < 2:
        return stats.fmean(values), math.inf
    return stats.fmean(values), Z_95 * stats.stdev(values) / math.sqrt(len(values))


def text_scores(rows: Sequence[TextResult]) -> dict[str, Any] | None:
    """Return perplexity and token accuracy over human texts; None without texts.

    The interval is that of a ratio estimate, clustered by text.
    """
    if not rows:
        return None
    tokens = sum(row.num_tokens for row in rows)
    loss = sum(row.loss * row.num_tokens for row in rows) / tokens
    spread = sum(((row.loss - loss) * row.num_tokens) ** 2 for row in rows)
    half_width = Z_95 * math.sqrt(spread * len(rows) / max(1, len(rows) - 1)) / tokens
    return {
        "split": rows[0].split,
        "n": len(rows),
        "tokens": tokens,
        "loss": loss,
        "perplexity": math.exp(min(loss, 50.0)),
        "low": math.exp(min(loss - half_width, 50.0)),
        "high": math.exp(min(loss + half_width, 50.0)),
        "token_accuracy": sum(row.num_right for row in rows) / tokens,
        "accuracy": sum(row.correct for row in rows) / len(rows),
    }


def generation_verification(
    prompts: Sequence[Prompt], samples: Sequence[Sample], verdicts: Sequence[bool]
) -> dict[str, Any] | None:
    """Return the generation–verification gap (2412.02674), with the majority as the verifier.

    The gap is the accuracy of the most frequent answer minus that of a single sample: what
    filtering by agreement can teach. Of equally frequent answers the first drawn counts; a prompt
    whose samples hold no answer is wrong. None if no prompt has two samples.

    Args:
        prompts: Test prompts.
        samples: Their samples.
        verdicts: Of each sample, True if it is right.
    """
    answers: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for sample, right in zip(samples, verdicts, strict=True):
        answers[sample.prompt_id].append((sample.text, right))
    compared = [prompt for prompt in prompts if len(answers[prompt.id]) > 1]
    if not compared:
        return None
    sample_accuracies, majority_accuracies = [], []
    for prompt in compared:
        rights = [right for _, right in answers[prompt.id]]
        answer_keys = [answer_key(prompt, text) for text, _ in answers[prompt.id]]
        votes = Counter(key for key in answer_keys if key)
        majority_right = False
        if votes:
            majority = votes.most_common(1)[0][0]
            majority_right = rights[answer_keys.index(majority)]
        sample_accuracies.append(sum(rights) / len(rights))
        majority_accuracies.append(float(majority_right))
    gaps = [
        of_majority - of_sample
        for of_majority, of_sample in zip(majority_accuracies, sample_accuracies, strict=True)
    ]
    gap, half_width = mean_and_half(gaps)
    # A gap lies between -1 and 1: with one prompt the interval holds all of it, and stays finite.
    finite_half_width = half_width if math.isfinite(half_width) else 2.0
    return {
        "k": max(len(answers[prompt.id]) for prompt in compared),
        "n": len(compared),
        "sample_accuracy": stats.fmean(sample_accuracies),
        "majority_accuracy": stats.fmean(majority_accuracies),
        "gap": gap,
        "low": gap - finite_half_width,
        "high": gap + finite_half_width,
    }


def intervals(
    results: Sequence[Result], scores: Mapping[str, Any], texts: Mapping[str, Any] | None
) -> dict[str, list[float]]:
    """Return score → [low, high] (95 %) of the summary's headline numbers that are measured.

    Args:
        results: One row per prompt.
        scores: `scores_of` the results.
        texts: `text_scores`.
    """
    bounds = {}
    for split in SPLITS:
        rights = [row.correct for row in results if row.split == split]
        bounds[f"{split}_accuracy"] = list(wilson_interval(sum(rights), len(rights)))
    if scores["pass_at"]:
        point = scores["pass_at"][str(scores["pass_k"])]
        bounds["pass_at_k"] = [point["low"], point["high"]]
    if texts is not None:
        bounds["perplexity"] = [texts["low"], texts["high"]]
    return bounds


def _orders(pass_k: int) -> list[int]:
    """Return the powers of two below `pass_k`, and `pass_k` itself."""
    powers = [2**exponent for exponent in range(pass_k.bit_length()) if 2**exponent < pass_k]
    return [*powers, pass_k] if pass_k else []


def _slices(rows: Sequence[Result], pass_k: int) -> dict[str, dict[str, Any]]:
    slices: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        for tag, value in row.tags.items():
            slices[f"{tag}={value}"].append(row)
    return {name: _slice(slice_rows, pass_k) for name, slice_rows in sorted(slices.items())}


def _slice(rows: Sequence[Result], pass_k: int) -> dict[str, Any]:
    shape = answer_shape(rows)
    scores = {
        **share([row.correct for row in rows]),
        "finished_share": shape["finished_share"],
        "mean_answer_tokens": shape["mean_answer_tokens"],
    }
    sampled = [row for row in rows if row.num_samples]
    if pass_k and sampled:
        scores["pass_at_k"] = pass_curve_point(sampled, pass_k)["value"]
    if numeric := _numeric(rows):
        scores["mse"] = numeric["mse"]
    if classes := _classification(rows):
        scores["label_accuracy"] = classes["accuracy"]
    return scores


def _by_split(
    by_split: Mapping[str, Sequence[Result]],
    measure: Callable[[Sequence[Result]], dict[str, Any] | None],
) -> dict[str, dict[str, Any]]:
    measured = {split: measure(rows) for split, rows in by_split.items()}
    return {split: scores for split, scores in measured.items() if scores is not None}


def _numeric(rows: Sequence[Result]) -> dict[str, Any] | None:
    """Return the mean squared and absolute error of numeric answers; None without numeric prompts.

    Answers without a number are counted (`unparsed`), not guessed. `low` and `high` are bounds of
    the mean squared error.
    """
    numeric_rows = [row for row in rows if row.numeric]
    if not numeric_rows:
        return None
    errors = [row.error for row in numeric_rows if row.error is not None]
    scores: dict[str, Any] = {
        "n": len(numeric_rows),
        "unparsed": len(numeric_rows) - len(errors),
        "mse": None,
        "mae": None,
        "low": None,
        "high": None,
    }
    if not errors:
        return scores
    mse, half_width = mean_and_half([error * error for error in errors])
    scores |= {"mse": mse, "mae": stats.fmean(map(abs, errors))}
    if math.isfinite(half_width):
        scores |= {"low": max(0.0, mse - half_width), "high": mse + half_width}
    return scores


def _classification(rows: Sequence[Result]) -> dict[str, Any] | None:
    """Return accuracy and macro-F1 of the labels chosen by likelihood; None without labels.

    Macro-F1 is the mean of F1 over the labels that occur among the right or the chosen ones.
    """
    labelled = [row for row in rows if row.predicted]
    if not labelled:
        return None
    labels = {}
    for name in sorted({row.label for row in labelled} | {row.predicted for row in labelled}):
        num_hits = sum(row.label == name == row.predicted for row in labelled)
        num_actual = sum(row.label == name for row in labelled)
        num_predicted = sum(row.predicted == name for row in labelled)
        labels[name] = {
            "n": num_actual,
            "precision": num_hits / num_predicted if num_predicted else 0.0,
            "recall": num_hits / num_actual if num_actual else 0.0,
            "f1": 2 * num_hits / (num_actual + num_predicted),
        }
    return {
        **share([row.label == row.predicted for row in labelled]),
        "macro_f1": stats.fmean(scores["f1"] for scores in labels.values()),
        "labels": labels,
    }
