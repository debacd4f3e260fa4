"""Rows that say the same again: exact repeats, repeated ways of solving, and too many of one
prompt."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict

from components.select.filter_settings import Rules
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
"""Of a longer answer only so much enters the edit distance, which costs the product of two lengths.
"""

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_DECORATION = re.compile(r"[$%,]|\s+(?=[=+\-*/^])|(?<=[=+\-*/^])\s+")
_EQUATION = re.compile(r"[0-9(][0-9+\-*/^().]*=-?[0-9]+(?:\.[0-9]+)?")


def exact(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers that repeat an earlier sample of the same prompt, or a labelled row."""

    def apply(block: Block) -> Outcome:
        seen: set[int] = set()

        def refusal(one: ScoredSample) -> str:
            key = row_key(one.prompt.text, one.text)
            if key in rules.labelled_keys:
                return "repeats a labelled row"
            if key in seen:
                return "repeats an earlier sample of its prompt"
            seen.add(key)
            return ""

        return split(block, refusal, "duplicate")

    return apply


def paths(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops all but one of a prompt's answers that go through the same equations in the same order:
    the one that is farthest, by edit distance, from the prompt's other answers (2308.01825).
    Answers without equations all stay."""
    if not rules.section.distinct_paths:
        return None

    def apply(block: Block) -> Outcome:
        of_prompts = itertools.groupby(block, key=lambda one: one.prompt.id)
        chosen = {one.key for _, own in of_prompts for one in _one_of_each_path(list(own))}
        return split(
            block,
            lambda one: "" if one.key in chosen else "solved by the same equations",
            "same_path",
        )

    return apply


def few_per_prompt(rules: Rules, remaining: Remaining) -> Filter | None:
    """Keeps the first answers of each prompt, up to the recipe's cap, so easy prompts do not crowd
    out others."""
    cap = rules.section.max_per_prompt

    def apply(block: Block) -> Outcome:
        counts = Counter[str]()

        def refusal(one: ScoredSample) -> str:
            counts[one.prompt.id] += 1
            return (
                "" if counts[one.prompt.id] <= cap else f"its prompt has {cap} kept answers already"
            )

        return split(block, refusal, "cap")

    return apply


def equations(text: str) -> tuple[str, ...]:
    """The equations of an answer in order, as `48/2=24`: what its reasoning is known by."""
    plain = _DECORATION.sub("", _ANNOTATION.sub("", text.replace("×", "*").replace("÷", "/")))
    return tuple(_EQUATION.findall(plain))


def _one_of_each_path(own: list[ScoredSample]) -> list[ScoredSample]:
    groups: dict[tuple[str, ...], list[ScoredSample]] = defaultdict(list)
    for one in own:
        groups[equations(one.text) or (one.text,)].append(one)
    chosen = []
    for group in groups.values():
        others = [other.text for other in own if other not in group]
        distances = [sum(edit_distance(one.text, other) for other in others) for one in group]
        chosen.append(group[distances.index(max(distances))])
    return chosen


def edit_distance(first: str, second: str) -> int:
    """Least number of characters to insert, delete or replace (Levenshtein 1966), over
    MAX_COMPARED_CHARACTERS."""
    import numpy as np

    first, second = first[:MAX_COMPARED_CHARACTERS], second[:MAX_COMPARED_CHARACTERS]
    letters = np.array([ord(letter) for letter in second], dtype=np.int64)
    places = np.arange(len(second) + 1)
    row = places.copy()
    for number, letter in enumerate(first, 1):
        best = np.empty_like(row)
        best[0] = number
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        # Insertions: the least of what is to the left, one more for each place between.
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])
