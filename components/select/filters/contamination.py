"""The firewall: nothing that an evaluation split asks may be trained on (2005.14165, appendix C)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from components.canonical import normalised_text
from components.contracts.rows import Prompt, prompt_id
from components.select.filter_settings import Rules
from components.select.scored_samples import Block, Filter, Outcome, Remaining, ScoredSample, split
from components.select.text_similarity import band_hashes, jaccard, rows_per_band, shingles_of

NUM_WORDS = 13
"""Length of a run of words that two texts do not share by accident."""
TEMPLATE_ITEMS = 10
"""A run that so many evaluation items share is their template and proves nothing."""
NEAR = 0.6
"""Jaccard similarity of the shingles of two prompts from which one is a rewording of the other."""
MIN_WORDS = 8
"""Shorter prompts are compared exactly alone: of two sums, most characters are the same."""

_WORD = re.compile(r"\w+")


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers to evaluation prompts, by the prompt's id and by the id of its text; with
    `overlap` also samples that share a run of 13 words with an evaluation item (question or
    reference answer), or whose prompt is nearly one.
    """
    ids = rules.evaluation_ids
    index = Overlap(rules.evaluation) if rules.section.contamination == "overlap" else None
    verdicts: dict[str, str] = {}

    def of_prompt(prompt: Prompt) -> str:
        if {prompt.id, prompt_id(prompt.text)} & ids:
            return "its prompt is in an evaluation split"
        return index.of_prompt(prompt.text) if index else ""

    def refusal(one: ScoredSample) -> str:
        if one.prompt.id not in verdicts:
            verdicts.clear()  # blocks come prompt by prompt
            verdicts[one.prompt.id] = of_prompt(one.prompt)
        return verdicts[one.prompt.id] or (index.of_text(one.text) if index else "")

    def apply(block: Block) -> Outcome:
        return split(block, refusal, "in_evaluation")

    return apply


class Overlap:
    """Runs of words and sketches of all evaluation items; it grows with them and not with the
    round."""

    def __init__(self, items: Sequence[tuple[Prompt, str]]) -> None:
        counts = Counter[int]()
        for prompt, answer in items:
            counts.update({*_runs(prompt.text), *_runs(answer)})
        self._runs = frozenset(run for run, count in counts.items() if count < TEMPLATE_ITEMS)
        long = [
            (prompt.id, _plain(prompt.text))
            for prompt, _ in items
            if len(_words(prompt.text)) >= MIN_WORDS
        ]
        self._prompts = [(identity, shingles_of(text)) for identity, text in long]
        self._bands: dict[tuple[int, int], list[int]] = defaultdict(list)
        if long:
            hashes = band_hashes(
                [own for _, own in self._prompts], [0] * len(long), rows_per_band(NEAR)
            ).tolist()
            for place, row in enumerate(hashes):
                for key in enumerate(row):
                    self._bands[key].append(place)

    def of_prompt(self, text: str) -> str:
        """Why a prompt must not be trained on, empty if it may."""
        return self.of_text(text) or self._near(text)

    def of_text(self, text: str) -> str:
        """Whether a text shares a run of words with an evaluation item."""
        shared = any(run in self._runs for run in _runs(text))
        return f"shares {NUM_WORDS} words in a row with an evaluation item" if shared else ""

    def _near(self, text: str) -> str:
        if len(_words(text)) < MIN_WORDS or not self._prompts:
            return ""
        own = shingles_of(_plain(text))
        hashes = band_hashes([own], [0], rows_per_band(NEAR))[0].tolist()
        places = {place for key in enumerate(hashes) for place in self._bands.get(key, ())}
        for place in sorted(places):
            identity, shingles = self._prompts[place]
            if (similarity := jaccard(own, shingles)) >= NEAR:
                return f"Jaccard {similarity:.2f} to evaluation prompt {identity}"
        return ""


def _words(text: str) -> list[str]:
    return _WORD.findall(normalised_text(text).casefold())


def _plain(text: str) -> str:
    """Words alone: case, punctuation and white space are the first that a copy loses."""
    return " ".join(_words(text))


def _runs(text: str) -> Iterator[int]:
    words = _words(text)
    return (
        hash(tuple(words[begin : begin + NUM_WORDS])) for begin in range(len(words) - NUM_WORDS + 1)
    )
