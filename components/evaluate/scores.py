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
from typing import Any

from components.contracts.rows import Prompt, Result, Sample, TextResult
from components.statistics import Z_95, pass_at_k, wilson_interval
from components.verifiers import vote_keys

SPLITS = ("validation", "test")


def scores_of(results: Sequence[Result], pass_k: int) -> dict[str, Any]:
    """What the summary says of one model's answers. `validation` and `test` both need rows."""
    by_split = {split: [row for row in results if row.split == split] for split in SPLITS}
    drawn = [row for row in by_split["test"] if row.num_samples]
    curve = {str(k): pass_curve_point(drawn, k) for k in _orders(pass_k)} if drawn else {}
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
    """How the greedy answers look: ended by the model itself, length, how many differ."""
    return {
        "finished_share": sum(row.finished for row in results) / len(results),
        "mean_answer_tokens": stats.fmean(row.num_tokens for row in results),
        "distinct_share": len({row.text for row in results}) / len(results),
    }


def accuracy(rows: Sequence[Result]) -> float:
    """Share of right greedy answers."""
    return sum(row.correct for row in rows) / len(rows)


def share(rights: Sequence[bool]) -> dict[str, Any]:
    """An accuracy with its interval: n, accuracy, low, high."""
    low, high = wilson_interval(sum(rights), len(rights))
    return {"n": len(rights), "accuracy": sum(rights) / len(rights), "low": low, "high": high}


def pass_curve_point(drawn: Sequence[Result], k: int) -> dict[str, float]:
    """pass@k over prompts with samples, unbiased (2107.03374), with the interval of the mean over
    prompts."""
    low, high = (0.0, 1.0)
    values = [pass_at_k(row.num_samples, row.num_correct, k) for row in drawn]
    value, half = mean_and_half(values)
    return {
        "value": value,
        "low": max(low, value - half),
        "high": min(high, value + half),
        "n": len(values),
    }


def mean_and_half(values: Sequence[float], z: float = Z_95) -> tuple[float, float]:
    """The mean and half the width of its interval."""
    half = z * stats.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return stats.fmean(values), half


def text_scores(rows: Sequence[TextResult]) -> dict[str, Any] | None:
    """Perplexity per token over texts, with the interval of a ratio estimate clustered by text;
    None without texts."""
    if not rows:
        return None
    tokens = sum(row.num_tokens for row in rows)
    loss = sum(row.loss * row.num_tokens for row in rows) / tokens
    spread = sum(((row.loss - loss) * row.num_tokens) ** 2 for row in rows)
    half = Z_95 * math.sqrt(spread * len(rows) / max(1, len(rows) - 1)) / tokens
    return {
        "split": rows[0].split,
        "n": len(rows),
        "tokens": tokens,
        "loss": loss,
        "perplexity": math.exp(min(loss, 50.0)),
        "low": math.exp(min(loss - half, 50.0)),
        "high": math.exp(min(loss + half, 50.0)),
        "token_accuracy": sum(row.num_right for row in rows) / tokens,
        "accuracy": sum(row.correct for row in rows) / len(rows),
    }


def generation_verification(
    prompts: Sequence[Prompt], samples: Sequence[Sample], verdicts: Sequence[bool]
) -> dict[str, Any] | None:
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
    return {
        "k": max(len(own[prompt.id]) for prompt in asked),
        "n": len(asked),
        "sample_accuracy": stats.fmean(single),
        "majority_accuracy": stats.fmean(majority),
        "gap": gap,
        "low": gap - finite,
        "high": gap + finite,
    }


def intervals(
    results: Sequence[Result], scores: Mapping[str, Any], texts: Mapping[str, Any] | None
) -> dict[str, list[float]]:
    """95 % intervals of the summary's headline numbers, where they are measured."""
    found = {}
    for split in SPLITS:
        rights = [row.correct for row in results if row.split == split]
        found[f"{split}_accuracy"] = list(wilson_interval(sum(rights), len(rights)))
    if scores["pass_at"]:
        point = scores["pass_at"][str(scores["pass_k"])]
        found["pass_at_k"] = [point["low"], point["high"]]
    if texts is not None:
        found["perplexity"] = [texts["low"], texts["high"]]
    return found


def _orders(pass_k: int) -> list[int]:
    """1, 2, 4, … and pass_k itself."""
    powers = [2**place for place in range(pass_k.bit_length()) if 2**place < pass_k]
    return [*powers, pass_k] if pass_k else []


def _slices(rows: Sequence[Result], pass_k: int) -> dict[str, dict[str, Any]]:
    slices: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        for tag, value in row.tags.items():
            slices[f"{tag}={value}"].append(row)
    return {name: _slice(own, pass_k) for name, own in sorted(slices.items())}


def _slice(rows: Sequence[Result], pass_k: int) -> dict[str, Any]:
    shape = answer_shape(rows)
    found = {
        **share([row.correct for row in rows]),
        "finished_share": shape["finished_share"],
        "mean_answer_tokens": shape["mean_answer_tokens"],
    }
    drawn = [row for row in rows if row.num_samples]
    if pass_k and drawn:
        found["pass_at_k"] = pass_curve_point(drawn, pass_k)["value"]
    if numeric := _numeric(rows):
        found["mse"] = numeric["mse"]
    if classes := _classification(rows):
        found["label_accuracy"] = classes["accuracy"]
    return found


def _by_split(
    by_split: Mapping[str, Sequence[Result]],
    measure: Callable[[Sequence[Result]], dict[str, Any] | None],
) -> dict[str, dict[str, Any]]:
    return {
        split: found for split, rows in by_split.items() if (found := measure(rows)) is not None
    }


def _numeric(rows: Sequence[Result]) -> dict[str, Any] | None:
    """Mean squared and absolute error of numbers; answers without a number are counted, not
    guessed."""
    asked = [row for row in rows if row.numeric]
    errors = [row.error for row in asked if row.error is not None]
    if not asked:
        return None
    about: dict[str, Any] = {"n": len(asked), "unparsed": len(asked) - len(errors)}
    if not errors:
        return {**about, "mse": None, "mae": None, "low": None, "high": None}
    mse, half = mean_and_half([error * error for error in errors])
    bounds = (
        {"low": max(0.0, mse - half), "high": mse + half}
        if math.isfinite(half)
        else {"low": None, "high": None}
    )
    return {**about, "mse": mse, "mae": stats.fmean(map(abs, errors)), **bounds}


def _classification(rows: Sequence[Result]) -> dict[str, Any] | None:
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
        labels[name] = {
            "n": truly,
            "precision": hits / said if said else 0.0,
            "recall": hits / truly if truly else 0.0,
            "f1": 2 * hits / (truly + said),
        }
    macro = stats.fmean(one["f1"] for one in labels.values())
    return {
        **share([row.label == row.predicted for row in asked]),
        "macro_f1": macro,
        "labels": labels,
    }
