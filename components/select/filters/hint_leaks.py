"""Hinted answers that repeat their hint and add nothing of their own (2203.14465 warns of them)."""

from __future__ import annotations

import re

from components.contracts.rows import Dropped
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    ScoredSample,
    drop,
)
from components.verifiers import reference_answer

RUN_WORDS = 4
"""This many words of the hint in a row are no accident. A shorter piece of it counts whole."""
REASONED = ("numeric", "math", "choice")
"""Verifiers that read the answer at the end of a text: the reasoning should stand before it."""
SAYS_NOTHING = frozenset({"the", "answer", "is", "so", "boxed", "final"})

_WORD = re.compile(r"\w+")
_PLACEHOLDER = re.compile(r"\{(?:prompt|answer)\}")


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter of hinted answers; None without hints.

    It drops answers that repeat words of the hint (`leaked_hint`: without the hint they would make
    no sense), and answers without any reasoning where reasoning is asked for (`parroted_hint`).
    """
    if settings.hints is None:
        return None
    runs = own_words(settings.hints.template)

    def apply(block: Block) -> Outcome:
        passed: list[ScoredSample] = []
        dropped: list[Dropped] = []
        for scored in block:
            leaked_run = _leaked_run(scored.text, runs) if scored.hinted else ""
            if leaked_run:
                dropped.append(
                    drop(scored, "leaked_hint", f"repeats {leaked_run!r} of its hint")
                )
            elif scored.hinted and _is_parroted(scored):
                detail = "says the answer and nothing of the way to it"
                dropped.append(drop(scored, "parroted_hint", detail))
            else:
                passed.append(scored)
        return passed, dropped

    return apply


def own_words(template: str) -> list[str]:
    """Return the runs of words that give a hint away, in lower case.

    They are the runs of RUN_WORDS words between the placeholders of a template. A piece with fewer
    words is a run as a whole. A piece without a word, as templates of a character or two have, is
    returned as it is.
    """
    runs = list[str]()
    for piece in _PLACEHOLDER.split(template):
        words = _WORD.findall(piece.casefold())
        if words:
            length = min(RUN_WORDS, len(words))
            for begin in range(len(words) - length + 1):
                run = words[begin : begin + length]
                runs.append(" ".join(run))
        elif piece.strip():
            runs.append(piece.strip())
    return runs


def _leaked_run(text: str, runs: list[str]) -> str:
    """Return the first run that a text holds; empty if there is none."""
    # Spaces on both sides: "he sum" is no run of "the sum".
    words = f" {' '.join(_WORD.findall(text.casefold()))} "
    for run in runs:
        holds_words = _WORD.search(run) is not None
        is_leaked = f" {run} " in words if holds_words else run in text
        if is_leaked:
            return run
    return ""


def _is_parroted(scored: ScoredSample) -> bool:
    # Elsewhere, as with `exact`, nothing but the answer is right.
    if scored.prompt.verifier not in REASONED:
        return False
    words = _WORD.findall(scored.text.casefold())
    num_telling = sum(word not in SAYS_NOTHING for word in words)
    return num_telling <= len(_WORD.findall(reference_answer(scored.prompt)))
