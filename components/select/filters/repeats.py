"""Rows that repeat others: exact repeats, repeated ways of solving, too many rows of one prompt."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    ScoredSample,
    row_key,
    split,
)

MAX_COMPARED_CHARACTERS = 2000
"""Characters of an answer that enter the edit distance: it costs the product of two lengths."""

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_DECORATION = re.compile(r"[$%,]|\s+(?=[=+\-*/^])|(?<=[=+\-*/^])\s+")
_EQUATION = re.compile(r"[0-9(][0-9+\-*/^().]*=-?[0-9]+(?:\.[0-9]+)?")


def exact(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers which repeat an earlier sample or a labelled row.

    Earlier samples are those of the same prompt.
    """

    def apply(block: Block) -> Outcome:
        earlier_keys: set[int] = set()

        def refusal(scored: ScoredSample) -> str:
            key = row_key(scored.prompt.text, scored.text)
            if key in settings.labelled_keys:
                return "repeats a labelled row"
            if key in earlier_keys:
                return "repeats an earlier sample of its prompt"
            earlier_keys.add(key)
            return ""

        return split(block, refusal, "duplicate")

    return apply


def paths(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that keeps one answer for each way of solving a prompt (2308.01825).

    Answers with the same equations in the same order are one way. The one that stays has the
    largest edit distance from the prompt's other answers. Answers without equations all stay. None
    if the recipe does not ask for it.
    """
    if not settings.section.distinct_paths:
        return None

    def apply(block: Block) -> Outcome:
        # Not by_prompt: hinted and unhinted answers of a prompt compete with each other here.
        samples_by_prompt: dict[str, list[ScoredSample]] = defaultdict(list)
        for scored in block:
            samples_by_prompt[scored.prompt.id].append(scored)
        chosen = {
            scored.key
            for samples in samples_by_prompt.values()
            for scored in _one_of_each_path(samples)
        }

        def refusal(scored: ScoredSample) -> str:
            return "" if scored.key in chosen else "solved by the same equations"

        return split(block, refusal, "same_path")

    return apply


def few_per_prompt(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that keeps the first `max_per_prompt` answers of each prompt.

    Without it easy prompts, whose answers pass more often, would crowd out hard ones.
    """
    cap = settings.section.max_per_prompt

    def apply(block: Block) -> Outcome:
        # A block holds all samples of its prompts: no count goes on into the next one.
        counts = Counter[str]()

        def refusal(scored: ScoredSample) -> str:
            counts[scored.prompt.id] += 1
            if counts[scored.prompt.id] <= cap:
                return ""
            return f"its prompt has {cap} kept answers already"

        return split(block, refusal, "cap")

    return apply


def equations(text: str) -> tuple[str, ...]:
    """Return the equations of an answer in order, such as `48/2=24`: the path of its reasoning."""
    plain = text.replace("×", "*").replace("÷", "/")
    # GSM8K's annotations (`<<48/2=24>>`) say every equation a second time.
    plain = _ANNOTATION.sub("", plain)
    plain = _DECORATION.sub("", plain)
    return tuple(_EQUATION.findall(plain))


def _one_of_each_path(samples: list[ScoredSample]) -> list[ScoredSample]:
    """Return the sample of each path that is farthest from the samples of other paths."""
    samples_by_path: dict[tuple[str, ...], list[ScoredSample]] = defaultdict(list)
    for scored in samples:
        # Without equations the text itself is the path: such answers are never alike.
        path = equations(scored.text) or (scored.text,)
        samples_by_path[path].append(scored)
    chosen = []
    for group in samples_by_path.values():
        other_texts = [scored.text for scored in samples if scored not in group]
        # Farthest from the others: what stays should teach different words as well (2308.01825).
        distances = [_total_distance(scored.text, other_texts) for scored in group]
        farthest = distances.index(max(distances))
        chosen.append(group[farthest])
    return chosen


def _total_distance(text: str, other_texts: list[str]) -> int:
    return sum(edit_distance(text, other_text) for other_text in other_texts)


def edit_distance(first: str, second: str) -> int:
    """Return the least number of characters to insert, delete or replace (Levenshtein 1966).

    Only the first MAX_COMPARED_CHARACTERS of each text count.
    """
    import numpy as np

    first = first[:MAX_COMPARED_CHARACTERS]
    second = second[:MAX_COMPARED_CHARACTERS]
    letters = np.array([ord(letter) for letter in second], dtype=np.int64)
    positions = np.arange(len(second) + 1)
    row = positions.copy()
    for number, letter in enumerate(first, 1):
        best = np.empty_like(row)
        best[0] = number
        deletions = row[1:] + 1
        replacements = row[:-1] + (letters != ord(letter))
        best[1:] = np.minimum(deletions, replacements)
        # Insertions: the least value to the left, plus one for each position between.
        row = np.minimum.accumulate(best - positions) + positions
    return int(row[-1])
