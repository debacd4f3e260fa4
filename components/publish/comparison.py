"""The comparison that a release rests on: the champion as it would be published, the base model and
the last release, asked the same prompts by the same engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.bounded_mean import bounded_mean_test
from components.contracts.recipe import ComparedBy, Metric, Recipe
from components.contracts.rows import Prompt, Result, label_of
from components.contracts.summaries.publish import Rival, RivalKind, Split, Verdict
from components.family_means import family_mean_test
from components.macro_f1 import macro_f1_test
from components.measures import (
    MAX_BRIER,
    brier_gains,
    class_choice,
    class_choices,
    class_gains,
    loss_gains,
    measure_of,
    score_gains,
    unit_of,
)
from components.publish.non_inferiority import non_inferior_p_value
from components.runtime.context import Context
from components.statistics import mcnemar_one_sided
from components.verifiers import Room, verdicts_of
from components.verifiers.numeric_error import error_gains, error_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.modeling.encoding import Codec


_LABEL_BATCH = 64


@dataclass(frozen=True)
class Rule:
    """The part of the recipe that a comparison depends on."""

    level: float
    """Highest p-value that proves a gain."""
    margin: float | None
    """Loss that a release may bring; None: it must be proved better."""
    metric: Metric
    score: ComparedBy
    """As the gate has it."""
    family: str
    """Tag of prompts that resemble each other; empty: every prompt stands alone, or counts by its
    stretch of text."""


@dataclass(frozen=True)
class PairedTest:
    """Result of a comparison on the same prompts."""

    verdict: Verdict
    p_value: float
    """One-sided probability of such a gain if both models were equal."""
    p_margin: float | None = None
    """The same if the champion were worse by the margin; None if it was not looked at."""


def results_of(
    context: Context,
    recipe: Recipe,
    folder: Path,
    prompts: Sequence[Prompt],
    split: Split,
) -> list[Result]:
    """Return the results of a checkpoint, prompt by prompt.

    Args:
        context: Number of threads.
        recipe: Measure, system prompt, length of answers and batch size.
        folder: The checkpoint.
        prompts: The prompts.
        split: Their split.
    """
    import torch

    from components.modeling.inference.answers import load_for_answers

    torch.set_num_threads(context.threads)
    model, codec = load_for_answers(folder, recipe.model.system_prompt)
    if recipe.decide.goal.metric == "perplexity":
        return _likelihoods(recipe, model, codec, prompts, split)
    results = _answers(context, recipe, model, codec, prompts, split)
    if recipe.decide.goal.metric in ("brier", "macro_f1"):
        return _with_classes(results, model, codec, prompts)
    return results


def _with_classes(
    results: Sequence[Result],
    model: PreTrainedModel,
    codec: Codec,
    prompts: Sequence[Prompt],
) -> list[Result]:
    """Return results with likeliest class and Brier score, of the classes that the prompts have."""
    from components.modeling.labels import label_probabilities

    labels = sorted({label_of(prompt) for prompt in prompts} - {""})
    asked = [prompt.asked for prompt in prompts]
    probabilities = label_probabilities(model, codec, asked, labels, _LABEL_BATCH)
    with_classes = []
    for result, prompt, chances in zip(results, prompts, probabilities, strict=True):
        choice = class_choice(labels, chances, label_of(prompt))
        update = {
            "label": label_of(prompt),
            "predicted": choice.name,
            "label_error": choice.squared_error,
        }
        with_classes.append(result.model_copy(update=update))
    return with_classes


def _answers(
    context: Context,
    recipe: Recipe,
    model: PreTrainedModel,
    codec: Codec,
    prompts: Sequence[Prompt],
    split: Split,
) -> list[Result]:
    """Return the verdicts on greedy answers, with their scores."""
    from components.modeling.inference.answers import sample_all
    from components.modeling.inference.sampling import Sampling

    greedy = Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=recipe.generate.max_new_tokens,
        batch_size=recipe.evaluate.batch_size,
    )
    samples = sample_all(context, model, codec, prompts, [[0]] * len(prompts), greedy)
    room = Room(context.threads, context.free_memory_bytes)
    texts = [sample.text for sample in samples]
    verdicts = verdicts_of(list(zip(prompts, texts, strict=True)), room)
    return [
        Result(
            prompt_id=prompt.id,
            split=split,
            correct=verdict.score >= prompt.check.threshold,
            score=verdict.score,
            text=sample.text,
            finished=sample.finished,
            num_tokens=sample.num_tokens,
            error=error_of(prompt, sample.text),
            tags=prompt.tags,
        )
        for prompt, sample, verdict in zip(prompts, samples, verdicts, strict=True)
    ]


def _likelihoods(
    recipe: Recipe,
    model: PreTrainedModel,
    codec: Codec,
    prompts: Sequence[Prompt],
    split: Split,
) -> list[Result]:
    """Return the losses of the reference answers; nothing is answered."""
    from components.modeling.scoring import reference_losses

    results = []
    losses = reference_losses(model, codec, prompts, recipe.train.max_length)
    for prompt, loss in zip(prompts, losses, strict=True):
        result = Result(
            prompt_id=prompt.id,
            split=split,
            correct=loss is not None and loss.num_right == loss.num_tokens,
            text="",
            finished=True,
            num_tokens=0,
            loss=loss.loss / loss.num_tokens if loss is not None else None,
            loss_tokens=loss.num_tokens if loss is not None else 0,
            stretch=prompt.stretch,
            tags=prompt.tags,
        )
        results.append(result)
    return results


def compare(
    kind: RivalKind,
    name: str,
    rival: Sequence[Result],
    champion: Sequence[Result],
    rule: Rule,
) -> Rival:
    """Return the champion's result against one rival, of which they are results on the same prompts.

    Right or wrong, each prompt alone: exact McNemar. With families or errors: Gaffke's test of a
    bounded mean; losses: Student's t over families; all as the gate has it. The margin is not for
    the base model, which must be beaten.
    """
    if rule.score == "macro_f1":
        return _compare_macro_f1(kind, name, rival, champion, rule)
    gains, largest_loss = _gains(rival, champion, rule.score)
    # A prompt without the tag resembles no other.
    families = [row.tags.get(rule.family, unit_of(row)) for row in champion]
    wins = sum(gain > 0 for gain in gains)
    losses = sum(gain < 0 for gain in gains)
    gain = sum(gains) / len(gains)
    is_counted = rule.score == "right" and len(set(families)) == len(gains)
    margin = rule.margin if kind != "base" else None
    if is_counted:
        test = by_counts(len(gains), wins, losses, rule.level, margin)
    else:
        # A loss may grow by this share of the perplexity.
        if margin is not None and rule.score == "loss":
            margin = math.log1p(margin)
        test = _by_gains(gains, families, largest_loss, rule.level, margin)
    why = f"{_words(wins, losses, len(gains), gain, rule.score)}; "
    why += f"p = {test.p_value:.2g}, needed {rule.level:.3g}"
    if test.p_margin is not None:
        why += f"; p = {test.p_margin:.2g} of a loss of {rule.margin:g} or more"
    return Rival(
        kind=kind,
        name=name,
        scores=measure_of(rule.metric).estimate(rival),
        verdict=test.verdict,
        wins=wins,
        losses=losses,
        gain=gain,
        p_value=test.p_value,
        level=rule.level,
        why=why,
    )


def _compare_macro_f1(
    kind: RivalKind,
    name: str,
    rival: Sequence[Result],
    champion: Sequence[Result],
    rule: Rule,
) -> Rival:
    """Return the same as `compare`, by macro-F1."""
    choices = class_choices(list(zip(rival, champion, strict=True)))
    gains = class_gains(choices)
    wins = sum(gain > 0 for gain in gains)
    losses = sum(gain < 0 for gain in gains)
    scores = measure_of(rule.metric).estimate(rival)
    gain = measure_of(rule.metric).estimate(champion).value - scores.value
    p_value = macro_f1_test(choices, rule.level).p_value
    margin = rule.margin if kind != "base" else None
    verdict: Verdict = "better" if gain > 0 and p_value <= rule.level else "not proved"
    why = (
        f"the class of {wins} prompts only the champion found, of {losses} only the rival, of "
        f"{len(gains)} (macro-F1 {gain:+.4f}); p = {p_value:.2g}, needed {rule.level:.3g}"
    )
    if verdict != "better" and margin is not None:
        p_margin = macro_f1_test(choices, rule.level, margin).p_value
        verdict = "non-inferior" if p_margin <= rule.level else "not proved"
        why += f"; p = {p_margin:.2g} of a loss of {margin:g} or more"
    return Rival(
        kind=kind,
        name=name,
        scores=scores,
        verdict=verdict,
        wins=wins,
        losses=losses,
        gain=gain,
        p_value=p_value,
        level=rule.level,
        why=why,
    )


def by_counts(
    pairs: int, wins: int, losses: int, level: float, margin: float | None
) -> PairedTest:
    """Return the result of right and wrong answers, each prompt alone.

    Args:
        pairs: Prompts.
        wins: Prompts that only the champion got right.
        losses: Prompts that only the rival got right.
        level: Highest p-value that proves something.
        margin: Loss that is allowed; None: a gain must be proved.
    """
    p_value = mcnemar_one_sided(wins, losses)
    if wins > losses and p_value <= level:
        return PairedTest("better", p_value)
    if margin is None:
        return PairedTest("not proved", p_value)
    p_margin = non_inferior_p_value(pairs, wins, losses, margin)
    return PairedTest(
        "non-inferior" if p_margin <= level else "not proved", p_value, p_margin
    )


def _by_gains(
    gains: Sequence[float],
    families: Sequence[str],
    largest_loss: float | None,
    level: float,
    margin: float | None,
) -> PairedTest:
    """Return the result of graded scores, or of prompts in families.

    Without a largest loss the gains are of losses, which have none.
    """

    def p_value_of(values: Sequence[float]) -> float:
        if largest_loss is None:
            return family_mean_test(values, families, level).p_value
        return bounded_mean_test(values, families, largest_loss, level).p_value

    p_value = p_value_of(gains)
    if sum(gains) > 0 and p_value <= level:
        return PairedTest("better", p_value)
    if margin is None:
        return PairedTest("not proved", p_value)
    # No worse by the margin: better, once the margin is added to every gain.
    p_margin = p_value_of([gain + margin for gain in gains])
    return PairedTest(
        "non-inferior" if p_margin <= level else "not proved", p_value, p_margin
    )


def _gains(
    rival: Sequence[Result], champion: Sequence[Result], score: ComparedBy
) -> tuple[list[float], float | None]:
    """Return (gain of each prompt, what a prompt can lose at most; None: without a bound)."""
    pairs = list(zip(rival, champion, strict=True))
    if score == "loss":
        return loss_gains(pairs), None
    if score == "brier":
        return brier_gains(pairs), MAX_BRIER
    if score == "score":
        return score_gains(pairs), 1.0
    if score == "error":
        return error_gains([(old.error, new.error) for old, new in pairs])
    return [float(new.correct) - float(old.correct) for old, new in pairs], 1.0


def _words(wins: int, losses: int, total: int, gain: float, score: ComparedBy) -> str:
    if score == "right":
        change = f"{100 * gain:+.1f} points"
        return (
            f"{wins} prompts only the champion got right, {losses} only the rival, of {total} "
            f"({change})"
        )
    if score == "score":
        counts = f"a larger score on {wins} prompts, a smaller one on {losses}"
        return f"{counts}, of {total} (mean score {gain:+.4f})"
    change = f"mean absolute error {-gain:+.4g}"
    if score == "brier":
        change = f"mean Brier score {-gain:+.4f}"
    if score == "loss":
        change = f"perplexity {100 * math.expm1(-gain):+.2f} %"
    return f"a smaller {score} on {wins} prompts, a larger one on {losses}, of {total} ({change})"
