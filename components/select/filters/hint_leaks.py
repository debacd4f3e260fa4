"""Answers with a hint that say what they were told, and nothing of their own (2203.14465 warns of
them)."""

from __future__ import annotations

import re

from components.contracts.rows import Dropped
from components.select.filter_settings import Rules
from components.select.scored_samples import Block, Filter, Outcome, Remaining, ScoredSample, drop
from components.verifiers import reference_answer

RUN_WORDS = 4
"""So many words of the hint in a row are no accident; where it has fewer on a side, all of these.
"""
REASONED = ("numeric", "math", "choice")
"""Verifiers that find the answer at the end of a text: the way to it is to stand before."""
SAYS_NOTHING = frozenset({"the", "answer", "is", "so", "boxed", "final"})

_WORD = re.compile(r"\w+")
_PLACE = re.compile(r"\{(?:prompt|answer)\}")


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops hinted answers that repeat words of the hint (`leaked_hint`: without it they would make
    no sense), and those that are nothing but the answer where a way to it is asked for
    (`parroted_hint`)."""
    if rules.hints is None:
        return None
    runs = own_words(rules.hints.template)

    def apply(block: Block) -> Outcome:
        kept, dropped = list[ScoredSample](), list[Dropped]()
        for one in block:
            if one.hinted and (run := _leaked(one.text, runs)):
                dropped.append(drop(one, "leaked_hint", f"repeats {run!r} of its hint"))
            elif one.hinted and _parroted(one):
                dropped.append(
                    drop(one, "parroted_hint", "says the answer and nothing of the way to it")
                )
            else:
                kept.append(one)
        return kept, dropped

    return apply


def own_words(template: str) -> list[str]:
    """What gives a hint away: runs of RUN_WORDS words of a template, in lower case, and shorter
    pieces whole. Pieces without a word, as templates of a character or two have, are looked for as
    they are."""
    runs = list[str]()
    for piece in _PLACE.split(template):
        words = _WORD.findall(piece.casefold())
        length = min(RUN_WORDS, len(words))
        runs += [
            " ".join(words[begin : begin + length])
            for begin in range(len(words) - length + 1)
            if words
        ]
        if not words and piece.strip():
            runs.append(piece.strip())
    return runs


def _leaked(text: str, runs: list[str]) -> str:
    """The first run that a text holds; empty if none."""
    words = f" {' '.join(_WORD.findall(text.casefold()))} "
    return next(
        (run for run in runs if (f" {run} " in words if _WORD.search(run) else run in text)), ""
    )


def _parroted(one: ScoredSample) -> bool:
    if one.prompt.verifier not in REASONED:
        return False
    said = [word for word in _WORD.findall(one.text.casefold()) if word not in SAYS_NOTHING]
    return len(said) <= len(_WORD.findall(reference_answer(one.prompt)))
