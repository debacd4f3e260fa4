"""The firewall: nothing of an evaluation split may be trained on (2005.14165, appendix C)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from components.canonical import normalised_text
from components.contracts.rows import Prompt, prompt_id
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import Block, Filter, Outcome, Remaining, ScoredSample, split
from components.select.text_similarity import (
    Shingles,
    band_hashes,
    jaccard,
    rows_per_band,
    shingles_of,
)

NUM_WORDS = 13
"""Length of a run of words that two texts do not share by accident."""
TEMPLATE_ITEMS = 10
"""A run shared by at least this many evaluation items is their template and proves nothing."""
NEAR = 0.6
"""Jaccard similarity of the shingles of two prompts from which one is a rewording of the other."""
MIN_WORDS = 8
"""Shorter prompts are only compared exactly: two sums share most of their characters."""

Item = tuple[Prompt, str]
"""(prompt, reference answer) of an evaluation split."""
Band = tuple[int, int]
"""(number of a band, hash of its rows)."""

_WORD = re.compile(r"\w+")


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers to evaluation prompts.

    Prompts are compared by id and by the id of their text. With `contamination: overlap` the filter
    also drops samples that share a run of 13 words with an evaluation item (question or reference
    answer), and samples whose prompt is a rewording of one.
    """
    evaluation_ids = settings.evaluation_ids
    # The index costs a pass over all items; puzzles made from one template look contaminated in it.
    index: Overlap | None = None
    if settings.section.contamination == "overlap":
        index = Overlap(settings.evaluation)
    refusal_by_prompt: dict[str, str] = {}

    def refusal_of_prompt(prompt: Prompt) -> str:
        # Ids in files of samples may be of any kind; that of the text is computed here.
        if {prompt.id, prompt_id(prompt.text)} & evaluation_ids:
            return "its prompt is in an evaluation split"
        return index.of_prompt(prompt.text) if index else ""

    def refusal(scored: ScoredSample) -> str:
        if scored.prompt.id not in refusal_by_prompt:
            # Blocks come prompt by prompt, so one entry is enough.
            refusal_by_prompt.clear()
            refusal_by_prompt[scored.prompt.id] = refusal_of_prompt(scored.prompt)
        reason = refusal_by_prompt[scored.prompt.id]
        if not reason and index:
            reason = index.of_text(scored.text)
        return reason

    def apply(block: Block) -> Outcome:
        return split(block, refusal, "in_evaluation")

    return apply


class Overlap:
    """Index of all evaluation items. Its size depends on them and not on the round."""

    def __init__(self, items: Sequence[Item]) -> None:
        """Build the index from (prompt, reference answer) pairs."""
        self._runs = _telling_runs(items)
        self._prompt_ids: list[str] = []
        self._shingles: list[Shingles] = []
        for prompt, _ in items:
            if len(_words(prompt.text)) >= MIN_WORDS:
                self._prompt_ids.append(prompt.id)
                self._shingles.append(shingles_of(_plain(prompt.text)))
        self._positions_by_band: dict[Band, list[int]] = defaultdict(list)
        for position, bands in enumerate(_bands(self._shingles)):
            for band in bands:
                self._positions_by_band[band].append(position)

    def of_prompt(self, text: str) -> str:
        """Return the reason not to train on a prompt, empty if there is none."""
        return self.of_text(text) or self._rewording(text)

    def of_text(self, text: str) -> str:
        """Return the reason not to train on a text: a run of words that an evaluation item has."""
        for run in _runs(text):
            if run in self._runs:
                return f"shares {NUM_WORDS} words in a row with an evaluation item"
        return ""

    def _rewording(self, text: str) -> str:
        """Return which evaluation prompt a text is a rewording of; empty if it is none."""
        if len(_words(text)) < MIN_WORDS or not self._shingles:
            return ""
        shingles = shingles_of(_plain(text))
        positions: set[int] = set()
        for band in _bands([shingles])[0]:
            positions.update(self._positions_by_band.get(band, ()))
        # Bands only propose pairs; the exact similarity decides.
        for position in sorted(positions):
            similarity = jaccard(shingles, self._shingles[position])
            if similarity >= NEAR:
                return f"Jaccard {similarity:.2f} to evaluation prompt {self._prompt_ids[position]}"
        return ""


def _telling_runs(items: Sequence[Item]) -> frozenset[int]:
    """Return the runs of words of all items, without those of a template."""
    num_items = Counter[int]()
    for prompt, answer in items:
        # A set: an item that repeats a run counts once.
        num_items.update({*_runs(prompt.text), *_runs(answer)})
    runs = [run for run, count in num_items.items() if count < TEMPLATE_ITEMS]
    return frozenset(runs)


def _bands(shingles: Sequence[Shingles]) -> list[list[Band]]:
    """Return the bands of each text: texts that resemble each other share one."""
    if not shingles:
        return []
    # One salt for all: a copy with other numbers is contaminated as well.
    salts = [0] * len(shingles)
    hashes = band_hashes(shingles, salts, rows_per_band(NEAR))
    return [list(enumerate(row)) for row in hashes.tolist()]


def _words(text: str) -> list[str]:
    return _WORD.findall(normalised_text(text).casefold())


def _plain(text: str) -> str:
    """Return the words alone: a copy most often changes case, punctuation and white space."""
    return " ".join(_words(text))


def _runs(text: str) -> Iterator[int]:
    words = _words(text)
    for begin in range(len(words) - NUM_WORDS + 1):
        run = words[begin : begin + NUM_WORDS]
        # A hash of Python's differs between processes; the index never leaves this one.
        yield hash(tuple(run))
