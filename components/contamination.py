"""The search for evaluation items in training material: labelled rows, raw text, samples.

Other tools: datatrove looks for runs of 12 words of the reference (`NGramsDecontFilter`), GPT-3's
authors for 13 (2005.14165, appendix C). Both take words to stand between spaces.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set

from components.contracts.rows import Prompt
from components.text_similarity import (
    Shingles,
    band_hashes,
    jaccard,
    rows_per_band,
    shingles_of,
)
from components.text_tokens import PER_WORD, Tokens, runs_of, tokens_of

NUM_WORDS = 13
"""Length of a run of words that two texts do not share by accident."""
TEMPLATE_ITEMS = 10
"""A run shared by at least this many evaluation items is their template and proves nothing."""
NEAR = 0.6
"""Jaccard similarity of the shingles of two prompts from which one is a rewording of the other."""
MIN_WORDS = 8
"""Shorter prompts are not compared for rewording: two sums share most of their characters."""
MIN_TOKENS = 4
"""Shorter evaluation prompts are not looked for inside texts: a review may well say "Great film"."""

Item = tuple[Prompt, str]
"""(prompt, reference answer) of an evaluation split."""
Band = tuple[int, int]
"""(number of a band, hash of its rows)."""

_LABEL_BEFORE = re.compile(
    r"\s*(?:q|question|problem|exercise|task|prompt|user|human|input|instruction|问|问题|問題|質問|题目"
    r"|คำถาม)\s*\d*\s*[:：.)]\s*",
    re.IGNORECASE,
)
_LABEL_AFTER = re.compile(
    r"\s*(?:a|answer|assistant|output|答|答案|解答|คำตอบ)\s*[:：]\s*$", re.IGNORECASE
)


class Overlap:
    """Index of all evaluation items. Its size depends on them and not on what is searched."""

    def __init__(self, items: Sequence[Item], *, parts: bool = True) -> None:
        """Build the index from (prompt, reference answer) pairs.

        Args:
            items: The evaluation items.
            parts: Whether parts of an item and rewordings count. Without, a prompt is found whole:
                as a text of its own, or as one or more sentences or lines of a text. In raw text,
                and as a prompt, it is found without the template of the evaluation too.
        """
        self._id_by_whole: dict[str, str] = {}
        self._untelling: set[str] = set()
        self._runs: frozenset[int] = frozenset()
        self._prompt_ids: list[str] = []
        self._shingles: list[Shingles] = []
        self._positions_by_band: dict[Band, list[int]] = defaultdict(list)
        tokens_of_items = [tokens_of(prompt.text) for prompt, _ in items]
        for (prompt, _), tokens in zip(items, tokens_of_items, strict=True):
            if tokens.tokens:
                self._id_by_whole.setdefault(tokens.joined, prompt.id)
        # Raw text has the question without it, and so may other prompts.
        self._template = _template_of(tokens_of_items)
        self._whole_by_bare = _wholes_by_bare(tokens_of_items, self._template)
        lengths = [len(tokens.tokens) for tokens in tokens_of_items]
        lengths += [len(bare.split()) for bare in self._whole_by_bare]
        self._lengths = {length for length in lengths if length >= MIN_TOKENS}
        self._most_tokens = max(self._lengths, default=0)
        # Where one evaluation prompt stands in another, as with lists of lines, it stands in
        # training prompts as well, and is no copy there.
        for tokens in tokens_of_items:
            self._untelling.update(set(self._wholes_in(tokens)) - {tokens.joined})
        if parts:
            answers = [tokens_of(answer) for _, answer in items]
            self._runs = _telling_runs([*zip(tokens_of_items, answers, strict=True)])
            self._index_rewordings([prompt.id for prompt, _ in items], tokens_of_items)

    def of_prompt(self, text: str) -> str:
        """Return the reason not to train on a prompt, empty if there is none."""
        tokens = tokens_of(text)
        bare = tokens_of(_without_labels(text))
        return (
            self._same(tokens)
            or self._same(bare)
            or self._without_template(bare)
            or self._contained(tokens)
            or self._shared_run(tokens)
            or self._rewording(tokens)
        )

    def of_text(self, text: str, *, is_answer: bool = True) -> str:
        """Return the reason not to train on a text, empty if there is none.

        Args:
            text: An answer, or raw text.
            is_answer: Whether the text is an answer. One that says nothing but what another prompt
                asks is right where a list is sorted or a sentence translated.
        """
        tokens = tokens_of(text)
        reason = self._same(tokens)
        if reason and is_answer:
            return ""
        reason = reason or self._contained(tokens, without_template=not is_answer)
        return reason or self._shared_run(tokens)

    def _same(self, tokens: Tokens) -> str:
        prompt_id = self._id_by_whole.get(tokens.joined)
        if prompt_id is None:
            return ""
        return f"evaluation prompt {prompt_id} but for case, punctuation or a label"

    def _without_template(self, tokens: Tokens) -> str:
        """Return which evaluation prompt a prompt is but for its template; empty if none."""
        bare = " ".join(_bare_of(tokens, self._template))
        whole = self._whole_by_bare.get(bare, "")
        # All of it has to be there: in "Sort: 3 1" the template is another than in "Add: 3 1".
        return self._copy_of(whole) if f" {tokens.joined} " in f" {whole} " else ""

    def _copy_of(self, whole: str) -> str:
        if not whole:
            return ""
        return f"evaluation prompt {self._id_by_whole[whole]} but for its template"

    def _contained(self, tokens: Tokens, *, without_template: bool = False) -> str:
        """Return which evaluation prompt stands in a text; empty if none does."""
        for part in self._parts_of(tokens):
            if part in self._id_by_whole and part not in self._untelling:
                return f"contains evaluation prompt {self._id_by_whole[part]}"
            if without_template and part in self._whole_by_bare:
                return self._copy_of(self._whole_by_bare[part])
        return ""

    def _wholes_in(self, tokens: Tokens) -> Iterator[str]:
        """Yield the evaluation prompts that stand in a text, from one break of it to another."""
        return (part for part in self._parts_of(tokens) if part in self._id_by_whole)

    def _parts_of(self, tokens: Tokens) -> Iterator[str]:
        """Yield what may be an evaluation prompt, from one break of a text to another."""
        # Not from anywhere to anywhere: "Sort: 3 1" stands in "Sort: 3 1 2", which is no copy.
        breaks = tokens.breaks
        for first, begin in enumerate(breaks):
            for end in breaks[first + 1 :]:
                length = end - begin
                if length > self._most_tokens:
                    break
                if length not in self._lengths:
                    continue
                yield " ".join(tokens.tokens[begin:end])

    def _shared_run(self, tokens: Tokens) -> str:
        """Return whether a text has a run of words that an evaluation item has."""
        if self._runs and any(
            run in self._runs for run in runs_of(tokens.words(), NUM_WORDS)
        ):
            return f"shares {NUM_WORDS} words in a row with an evaluation item"
        return ""

    def _rewording(self, tokens: Tokens) -> str:
        """Return which evaluation prompt a text is a rewording of; empty if it is none."""
        if not self._shingles or not _is_long(tokens):
            return ""
        shingles = shingles_of(tokens.plain())
        positions: set[int] = set()
        for band in _bands([shingles])[0]:
            positions.update(self._positions_by_band.get(band, ()))
        # Bands only propose pairs; the exact similarity decides.
        for position in sorted(positions):
            similarity = jaccard(shingles, self._shingles[position])
            if similarity >= NEAR:
                return f"Jaccard {similarity:.2f} to evaluation prompt {self._prompt_ids[position]}"
        return ""

    def _index_rewordings(
        self, prompt_ids: Sequence[str], prompts: Sequence[Tokens]
    ) -> None:
        for prompt_id, tokens in zip(prompt_ids, prompts, strict=True):
            if _is_long(tokens):
                self._prompt_ids.append(prompt_id)
                self._shingles.append(shingles_of(tokens.plain()))
        for position, bands in enumerate(_bands(self._shingles)):
            for band in bands:
                self._positions_by_band[band].append(position)


def _template_of(prompts: Sequence[Tokens]) -> frozenset[str]:
    """Return the sentences that so many prompts have that they are no part of what is asked."""
    num_items = Counter(
        sentence for tokens in prompts for sentence in set(_sentences(tokens))
    )
    return frozenset(
        sentence for sentence, count in num_items.items() if count >= TEMPLATE_ITEMS
    )


def _wholes_by_bare(prompts: Sequence[Tokens], template: Set[str]) -> dict[str, str]:
    """Return prompt without its template → prompt with it, of those that have one.

    What several prompts ask about in different words, as "Sort: …" and "Add: …" do, is left out: it
    stands in training prompts as well, and is no copy there.
    """
    wholes: dict[str, set[str]] = defaultdict(set)
    for tokens in prompts:
        bare = _bare_of(tokens, template)
        if MIN_TOKENS <= len(bare) < len(tokens.tokens):
            wholes[" ".join(bare)].add(tokens.joined)
    return {bare: whole for bare, (whole, *others) in wholes.items() if not others}


def _bare_of(tokens: Tokens, template: Set[str]) -> tuple[str, ...]:
    """Return the tokens without the sentences of a template before and after them."""
    telling = [
        number
        for number, sentence in enumerate(_sentences(tokens))
        if sentence not in template
    ]
    if not telling:
        return ()
    begin, end = tokens.breaks[telling[0]], tokens.breaks[telling[-1] + 1]
    return tokens.tokens[begin:end]


def _sentences(tokens: Tokens) -> list[str]:
    """Return what stands between two breaks of a text."""
    return [
        " ".join(tokens.tokens[begin:end])
        for begin, end in itertools.pairwise(tokens.breaks)
    ]


def _without_labels(text: str) -> str:
    """Return the text without a `Q:` before it and an `A:` after it."""
    begin = _LABEL_BEFORE.match(text)
    if begin is not None:
        text = text[begin.end() :]
    return _LABEL_AFTER.sub("", text)


def _is_long(tokens: Tokens) -> bool:
    return sum(tokens.words().weights()) >= MIN_WORDS * PER_WORD


def _telling_runs(items: Sequence[tuple[Tokens, Tokens]]) -> frozenset[int]:
    """Return the runs of words of all (prompt, answer), without those of a template."""
    num_items = Counter[int]()
    for item in items:
        # A set: an item that repeats a run counts once.
        num_items.update(
            {run for text in item for run in runs_of(text.words(), NUM_WORDS)}
        )
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
