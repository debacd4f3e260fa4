"""The comparison that a release rests on: the champion as it would be published, the base model and
the last release, asked the same prompts by the same engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.bounded_mean import bounded_mean_test
from components.contracts.recipe import Recipe
from components.contracts.rows import Prompt
from components.contracts.summaries.publish import Rival, RivalKind, Verdict
from components.contracts.summaries.summary import Share
from components.publish.non_inferiority import non_inferior_p_value
from components.runtime.context import Context
from components.statistics import mcnemar_one_sided, wilson_interval
from components.verifiers import Room, verify_all
from components.verifiers.numeric_error import error_gains, error_of


@dataclass(frozen=True)
class Answers:
    """Greedy answers of one model: a verdict and an error for each prompt."""

    right: list[bool]
    errors: list[float | None]
    """Answer minus reference; None where it is no number."""

    @property
    def scores(self) -> Share:
        """Accuracy with its interval."""
        num_right = sum(self.right)
        low, high = wilson_interval(num_right, len(self.right))
        return Share(n=len(self.right), accuracy=num_right / len(self.right), low=low, high=high)


@dataclass(frozen=True)
class Rule:
    """The part of the recipe that a comparison depends on."""

    level: float
    """Highest p-value that proves a gain."""
    margin: float | None
    """Loss that a release may bring; None: it must be proved better."""
    score: str
    """`right` or `error`, as the gate has it."""
    family: str
    """Tag of prompts that resemble each other; empty: every prompt stands alone."""


@dataclass(frozen=True)
class PairedTest:
    """Result of a comparison on the same prompts."""

    verdict: Verdict
    p_value: float
    """One-sided probability of such a gain if both models were equal."""
    p_margin: float | None = None
    """The same if the champion were worse by the margin; None if it was not looked at."""


def answers_of(
    context: Context, recipe: Recipe, folder: Path, prompts: Sequence[Prompt]
) -> Answers:
    """Return the greedy answers of a checkpoint.

    Args:
        context: Number of threads.
        recipe: System prompt, length of answers and batch size.
        folder: The checkpoint.
        prompts: The prompts.
    """
    import torch

    from components.modeling.inference.answers import load_for_answers, sample_all
    from components.modeling.inference.sampling import Sampling

    torch.set_num_threads(context.threads)
    greedy = Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=recipe.generate.max_new_tokens,
        batch_size=recipe.evaluate.batch_size,
    )
    model, codec = load_for_answers(folder, recipe.model.system_prompt)
    samples = sample_all(context, model, codec, prompts, [[0]] * len(prompts), greedy)
    texts = [sample.text for sample in samples]
    room = Room(context.threads, context.free_memory_bytes)
    return Answers(
        right=verify_all(list(zip(prompts, texts, strict=True)), room),
        errors=[error_of(prompt, text) for prompt, text in zip(prompts, texts, strict=True)],
    )


def compare(
    kind: RivalKind,
    name: str,
    rival: Answers,
    champion: Answers,
    prompts: Sequence[Prompt],
    rule: Rule,
) -> Rival:
    """Return the champion's result against one rival.

    Right or wrong, each prompt alone: exact McNemar. With families or errors: Gaffke's test of a
    bounded mean, as the gate has it. The margin is not for the base model, which must be beaten.
    """
    gains, largest_loss = _gains(rival, champion, rule.score)
    # A prompt without the tag resembles no other.
    families = [prompt.tags.get(rule.family, prompt.id) for prompt in prompts]
    wins = sum(gain > 0 for gain in gains)
    losses = sum(gain < 0 for gain in gains)
    gain = sum(gains) / len(gains)
    is_counted = rule.score == "right" and len(set(families)) == len(gains)
    margin = rule.margin if kind != "base" else None
    if is_counted:
        test = by_counts(len(gains), wins, losses, rule.level, margin)
    else:
        test = _by_gains(gains, families, largest_loss, rule.level, margin)
    why = f"{_words(wins, losses, len(gains), gain, rule.score)}; "
    why += f"p = {test.p_value:.2g}, needed {rule.level:.3g}"
    if test.p_margin is not None:
        why += f"; p = {test.p_margin:.2g} of a loss of {margin:g} or more"
    return Rival(
        kind=kind,
        name=name,
        scores=rival.scores,
        verdict=test.verdict,
        wins=wins,
        losses=losses,
        gain=gain,
        p_value=test.p_value,
        level=rule.level,
        why=why,
    )


def by_counts(pairs: int, wins: int, losses: int, level: float, margin: float | None) -> PairedTest:
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
    return PairedTest("non-inferior" if p_margin <= level else "not proved", p_value, p_margin)


def _by_gains(
    gains: Sequence[float],
    families: Sequence[str],
    largest_loss: float,
    level: float,
    margin: float | None,
) -> PairedTest:
    """Return the result of graded scores, or of prompts in families."""
    p_value = bounded_mean_test(gains, families, largest_loss, level).p_value
    if sum(gains) > 0 and p_value <= level:
        return PairedTest("better", p_value)
    if margin is None:
        return PairedTest("not proved", p_value)
    # No worse by the margin: better, once the margin is added to every gain.
    shifted = [gain + margin for gain in gains]
    p_margin = bounded_mean_test(shifted, families, largest_loss, level).p_value
    return PairedTest("non-inferior" if p_margin <= level else "not proved", p_value, p_margin)


def _gains(rival: Answers, champion: Answers, score: str) -> tuple[list[float], float]:
    """Return (gain of each prompt, what a prompt can lose at most)."""
    if score == "error":
        return error_gains(list(zip(rival.errors, champion.errors, strict=True)))
    pairs = zip(rival.right, champion.right, strict=True)
    return [float(new) - float(old) for old, new in pairs], 1.0


def _words(wins: int, losses: int, total: int, gain: float, score: str) -> str:
    if score == "error":
        change = f"mean absolute error {-gain:+.4g}"
        return f"a smaller error on {wins} prompts, a larger one on {losses}, of {total} ({change})"
    change = f"{100 * gain:+.1f} points"
    return f"{wins} prompts only the champion got right, {losses} only the rival, of {total} ({change})"
