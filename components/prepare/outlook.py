"""The most that a campaign can reach with its data, told before anything is spent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from components.contracts.recipe import Recipe
from components.contracts.rows import MAX_CLASSES, Prompt, label_of
from components.contracts.verifier_names import TEXT_METRICS, gives_scores
from components.errors import UserError
from components.family_means import LEAST_FAMILIES
from components.macro_f1 import LEAST_PER_CLASS
from components.statistics import alpha_of_round


@dataclass(frozen=True)
class Outlook:
    """The gains that the validation prompts can prove."""

    units: int
    """Validation prompts that count each for itself: families where the recipe names them."""
    wins_needed: int | None = None
    """Units that only the candidate may get right, and none the champion, to be proved better in
    a round; round 0, which has half the level, needs one more. None where losses are compared, and
    nothing is counted."""

    kind: str = "losses"
    """The scores that are compared where nothing is counted."""

    @property
    def smallest_gain(self) -> float | None:
        """Smallest gain that can be proved in one round, as a share of the prompts; None where that
        depends on how gains are spread."""
        return None if self.wins_needed is None else self.wins_needed / self.units

    @property
    def in_words(self) -> str:
        """The gain as a person reads it."""
        if self.smallest_gain is None:
            return (
                f"the gate compares {self.kind} over {self.units} families of validation prompts "
                "(stretches of neighbouring text); each round says the gain that they could show"
            )
        return (
            f"the smallest gain that {self.units} validation prompts can prove is "
            f"{100 * self.smallest_gain:.1f} points: {self.wins_needed} that only the candidate "
            "gets right, none the other way"
        )


def outlook_of(
    recipe: Recipe, validation: Sequence[Prompt], num_unlabelled: int
) -> Outlook:
    """Return what the data can prove.

    Args:
        recipe: The recipe.
        validation: Prompts of the gate.
        num_unlabelled: Prompts that the model teaches itself on.

    Raises:
        UserError: No round of this recipe can promote a candidate, whatever it learns.
    """
    _check_goal(recipe, validation)
    _check_accepted(recipe, num_unlabelled)
    units = _num_units(recipe, validation)
    if recipe.decide.compared_by == "loss":
        _check_families(units)
        return Outlook(units)
    level = alpha_of_round(recipe.decide.alpha, recipe.decide.max_rounds)
    # All wins and no loss have p = 2 to the power of minus the wins, in the exact McNemar test and
    # in Gaffke's test of families alike.
    wins_needed = math.ceil(-math.log2(level))
    if units < wins_needed:
        kind = (
            f"families (tag {recipe.decide.family})"
            if recipe.decide.family
            else "prompts"
        )
        raise UserError(
            f"this recipe can never promote: validation has {units} {kind}, and even if only the "
            f"candidate were right on all of them, p = {2.0**-units:.2g}, above the {level:.2g} "
            f"that proves a gain; at least {wins_needed} are needed: add rows, raise "
            "data.fractions.validation (or a task's `validation`), or lower decide.max_rounds"
        )
    if recipe.decide.compared_by == "brier":
        return Outlook(units, kind="Brier scores")
    if recipe.decide.compared_by == "score":
        return Outlook(units, kind="scores of answers")
    if recipe.decide.compared_by == "macro_f1":
        return Outlook(units, kind="macro-F1")
    return Outlook(units, wins_needed)


def check_texts(recipe: Recipe, unlabelled: Iterable[Prompt]) -> None:
    """Raise UserError if the data is raw text, and the recipe asks for right answers."""
    # Blocks of text are prompts only where all data is raw text, so the first one tells.
    first = next(iter(unlabelled), None)
    if first is None or not first.is_text:
        return
    if recipe.decide.goal.metric != "perplexity":
        raise UserError(
            "decide.goal: the data is raw text, whose exact continuation no model says: use "
            "`metric: perplexity`, with a threshold to reach"
        )
    if recipe.generate.engine == "openai":
        raise UserError(
            "generate.engine: the data is raw text, with which an endpoint that answers questions "
            "cannot go on: leave out engine openai"
        )
    if recipe.select.verifier:
        raise UserError(
            "select.verifier: no continuation of raw text is right or wrong, so every sample would "
            "be dropped: set `verifier: false` in section select"
        )


def check_references(recipe: Recipe, measured: Mapping[str, Sequence[Prompt]]) -> None:
    """Raise UserError if prompts lack what the goal's measure is taken of.

    Args:
        recipe: The recipe.
        measured: Split → its prompts.
    """
    if recipe.decide.goal.metric in ("brier", "macro_f1"):
        _check_classes(recipe.decide.goal.metric, measured)
    if recipe.decide.goal.metric == "macro_f1":
        _check_rare_classes(measured)
    if recipe.decide.goal.metric == "mean_score":
        _check_graded(measured)
    if recipe.decide.goal.metric != "perplexity":
        return
    for split, prompts in measured.items():
        unanswered = sum(
            not isinstance(prompt.reference.get("answer"), str) for prompt in prompts
        )
        if unanswered:
            raise UserError(
                f"decide.goal.metric is perplexity, and {unanswered} of {len(prompts)} prompts of "
                f"split {split} have no answer of which it could be measured: give answers, or use "
                "metric accuracy"
            )


def _check_classes(metric: str, measured: Mapping[str, Sequence[Prompt]]) -> None:
    """Raise UserError if the measure is of classes, and prompts are not of text and label."""
    for split, prompts in measured.items():
        labels = {label_of(prompt) for prompt in prompts}
        without = sum(not label_of(prompt) for prompt in prompts)
        if without or (prompts and not 2 <= len(labels) <= MAX_CLASSES):
            raise UserError(
                f"decide.goal.metric is {metric}, and split {split} has {without} of {len(prompts)} "
                f"prompts without a class and {len(labels - {''})} classes: give rows of text and "
                f"label, of 2 to {MAX_CLASSES} classes, or use metric accuracy"
            )


def _check_rare_classes(measured: Mapping[str, Sequence[Prompt]]) -> None:
    """Raise UserError if validation has too few prompts of a class for the gate's test."""
    labels = {label_of(prompt) for prompts in measured.values() for prompt in prompts}
    counts = Counter(label_of(prompt) for prompt in measured.get("validation", ()))
    rare = [
        f"{label} {counts[label]}"
        for label in sorted(labels)
        if counts[label] < LEAST_PER_CLASS
    ]
    if rare:
        raise UserError(
            f"decide.goal.metric is macro_f1, and validation has fewer than {LEAST_PER_CLASS} "
            f"prompts of some classes ({', '.join(rare)}): so few prove nothing about a class; add "
            "rows of them, raise data.fractions.validation, or use metric accuracy or brier"
        )


def _check_graded(measured: Mapping[str, Sequence[Prompt]]) -> None:
    """Raise UserError if a mean score is asked for, and answers are right or wrong alone."""
    for split, prompts in measured.items():
        if prompts and not any(gives_scores(prompt.verifier) for prompt in prompts):
            names = ", ".join(sorted({prompt.verifier for prompt in prompts}))
            raise UserError(
                f"decide.goal.metric is mean_score, and the verifiers of split {split} ({names}) "
                "know right and wrong alone: use metric accuracy, which is the same and proves "
                f"more, or a verifier that grades: {', '.join(TEXT_METRICS)}, or a checker of your "
                "own that returns a score"
            )


def check_dev(recipe: Recipe, dev_prompts: Sequence[Prompt]) -> None:
    """Raise UserError if the mastery of a ladder's length could not be measured."""
    ladder = recipe.data.ladder
    if ladder is None:
        return
    present = {prompt.tags.get("length") for prompt in dev_prompts}
    lengths = range(ladder.labelled[1], ladder.climb[1] + 1)
    missing = [str(length) for length in lengths if str(length) not in present]
    if missing:
        raise UserError(
            f"data.tasks.dev: no dev prompt has length {', '.join(missing)}, so nothing tells "
            f"whether it is mastered; set `dev` to at least {len(lengths)}, one a length, or leave "
            "it out for as many as `validation`"
        )


def _num_units(recipe: Recipe, validation: Sequence[Prompt]) -> int:
    family = recipe.decide.family
    if not family:
        return len({prompt.stretch or prompt.id for prompt in validation})
    untagged = sum(family not in prompt.tags for prompt in validation)
    if untagged:
        tags = sorted({tag for prompt in validation for tag in prompt.tags})
        raise UserError(
            f"decide.family: {untagged} of {len(validation)} validation prompts have no tag "
            f"{family!r} (tags there are: {', '.join(tags) or 'none'})"
        )
    return len({prompt.tags[family] for prompt in validation})


def _check_goal(recipe: Recipe, validation: Sequence[Prompt]) -> None:
    goal = recipe.decide.goal.slice
    slices = {
        f"{tag}={value}" for prompt in validation for tag, value in prompt.tags.items()
    }
    if goal and goal not in slices:
        listed = ", ".join(sorted(slices)[:10]) or "none: the prompts carry no tags"
        raise UserError(
            f"decide.goal.slice {goal!r}: no validation prompt belongs to it (there are: {listed})"
        )


def _check_families(units: int) -> None:
    """Raise UserError if no round could prove a gain in perplexity."""
    if units < LEAST_FAMILIES:
        raise UserError(
            f"this recipe can never promote: validation has {units} families of prompts "
            f"(stretches of neighbouring text), and at least {LEAST_FAMILIES} are needed: give more "
            "text, raise data.fractions.validation, or lower data.text.stretch or data.text.block"
        )


def _check_accepted(recipe: Recipe, num_unlabelled: int) -> None:
    """Raise UserError if a round cannot accept as many samples as it has to."""
    select = recipe.select
    per_prompt = min(recipe.generate.samples_per_prompt, select.max_per_prompt)
    num_prompts = recipe.generate.prompts_per_round
    # Written prompts, and texts from nothing, are none of the data.
    if recipe.generate.source not in ("nothing", "model"):
        num_prompts = min(num_prompts, num_unlabelled)
    most = num_prompts * per_prompt
    if select.keep is not None:
        most = select.keep.count_of(most)
    if most < select.min_accepted:
        raise UserError(
            f"this recipe can never promote: a round accepts at most {most} samples "
            f"({num_prompts} prompts, {per_prompt} samples each), and "
            f"select.min_accepted is {select.min_accepted}: add prompts, raise "
            "generate.samples_per_prompt, or lower select.min_accepted"
        )
