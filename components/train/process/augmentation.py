"""Noise on training rows: a copy of its own each time that a row is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from components.canonical import derived_seed
from components.contracts.recipe import Augmentation
from components.modeling.encoding import Codec
from components.modeling.likelihood import EncodedRow

SPAN_WORDS = 3
"""Mean length of a masked stretch; lengths are geometric (1907.10529)."""
LONGEST_SPAN_WORDS = 10
"""Longest masked stretch (1907.10529)."""
GROWTH = 1.25
"""Length of a copy over that of the longest row, at most: words in other letters or behind another
space take more tokens."""
TOKENS_OF_LONG_WORDS = 24
"""Tokens a word on average, above which a row is not written in words: English words have about six
characters, Arabic ones about twelve bytes."""
WORD_MARKS = ("Ġ", "Ċ", "ĉ", "▁", " ", "\n", "\t")
"""Beginnings of tokens that begin a word: byte-level tokenizers write a space as Ġ, SentencePiece
as ▁; those of characters have the space itself."""
PIECE_MARK = "##"
"""Beginning of a token that goes on with a word, in WordPiece."""

Part = Literal["free", "answer", "fixed"]
"""May be changed and hidden; may be hidden alone; neither."""
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Word:
    """A few neighbouring tokens of a row: a word, or the part of one that is alike."""

    ids: Tokens
    inputs: Tokens
    """The tokens that the model reads; as many as `ids`."""
    bears_loss: bool
    part: Part


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, as far as they tell where words are."""

    begins_word: npt.NDArray[np.bool_]
    is_special: npt.NDArray[np.bool_]
    unknown: int | None
    """Token of an unknown word; None without one that means nothing else."""


@dataclass(frozen=True)
class Augmenter:
    """Noise of one stage of training, the same for any number of processes and after any resuming."""

    settings: Augmentation
    codec: Codec
    vocabulary: Vocabulary
    fillers: npt.NDArray[np.int64]
    """Tokens that hide others, drawn with equal chances."""
    longest: int
    """Tokens that no copy has more of: memory is planned for rows of that length."""
    seed: int

    def copies(self, rows: Sequence[EncodedRow], step: int) -> list[EncodedRow]:
        """Return a copy of each row that an optimizer step draws.

        Args:
            rows: all rows of the step, of whichever process.
            step: within the stage.
        """
        copies = []
        for position, row in enumerate(rows):
            # By the place of the draw, not by the row: one that is drawn twice has two copies.
            seed = derived_seed(self.seed, "augmentation", step, position)
            copies.append(self.copy(row, np.random.Generator(np.random.PCG64(seed))))
        return copies

    def copy(self, row: EncodedRow, generator: np.random.Generator) -> EncodedRow:
        """Return a row with noise; the row itself where that would leave nothing to learn."""
        words = self._words(row)
        if self.settings.changes_words:
            words = self._swapped(words, generator)
            words = self._without_some(words, generator)
            words = self._rewritten(words, generator)
        if self.settings.hides_words:
            words = self._hidden(words, generator)
        noisy = _joined(words, row)
        return noisy if noisy.num_targets > 0 else row

    def _words(self, row: EncodedRow) -> list[Word]:
        """Return a row cut into words, and where its parts or the loss begin and end."""
        tokens = np.array(row.ids)
        bears_loss = np.arange(len(tokens)) >= row.num_masked
        for start, end in row.gaps:
            bears_loss[start:end] = False
        is_free = np.zeros(len(tokens), dtype=bool)
        for start, end in row.changeable:
            is_free[start:end] = True
        begins_word = self.vocabulary.begins_word[tokens]
        is_special = self.vocabulary.is_special[tokens]
        # Digits, and scripts without spaces: every token is taken for a word.
        if begins_word.sum() * TOKENS_OF_LONG_WORDS < len(tokens):
            begins_word = ~is_special
        is_edge = begins_word | is_special
        for changes in (is_special, bears_loss, is_free):
            is_edge[1:] |= changes[1:] != changes[:-1]
        is_edge[0] = True
        edges = [*np.flatnonzero(is_edge).tolist(), len(tokens)]
        words: list[Word] = []
        for start, end in itertools.pairwise(edges):
            part: Part = "fixed"
            # The rest of a word whose beginning is elsewhere is no word.
            if begins_word[start] and is_free[start]:
                part = "free"
            elif begins_word[start] and bears_loss[start]:
                part = "answer"
            ids = tuple(row.ids[start:end])
            words.append(Word(ids, ids, bool(bears_loss[start]), part))
        return words

    def _swapped(self, words: list[Word], generator: np.random.Generator) -> list[Word]:
        """Let some words change places with the next one. Neither is predicted."""
        chosen = generator.random(len(words)) < self.settings.word_swap
        swapped = list(words)
        index = 0
        while index + 1 < len(words):
            pair = words[index : index + 2]
            if chosen[index] and all(word.part == "free" for word in pair):
                swapped[index : index + 2] = [
                    _unpredicted(pair[1]),
                    _unpredicted(pair[0]),
                ]
                index += 1
            index += 1
        return swapped

    def _without_some(
        self, words: list[Word], generator: np.random.Generator
    ) -> list[Word]:
        """Leave some words out, never all. In text, what follows a gap is not predicted."""
        draws = generator.random(len(words))
        is_free = np.array([word.part == "free" for word in words])
        chosen = is_free & (draws < self.settings.word_deletion)
        if (chosen == is_free).all():
            # An answer to nothing would teach to answer so to anything.
            chosen &= draws < draws[is_free].max(initial=0.0)
        remaining: list[Word] = []
        gap: list[Word] = []
        for word, is_chosen in zip(words, chosen, strict=True):
            if is_chosen:
                gap.append(word)
                continue
            # An answer behind a shortened prompt is still the answer.
            of_text = word.part == "free" or any(missing.bears_loss for missing in gap)
            remaining.append(_unpredicted(word) if gap and of_text else word)
            gap = []
        return remaining

    def _rewritten(
        self, words: list[Word], generator: np.random.Generator
    ) -> list[Word]:
        """Write some words in other letters, or with another space before them.

        Other writings take more tokens: a text loses its end for them, a prompt has to fit.
        """
        draws = generator.random((2, len(words)))
        kinds = generator.integers(3, size=(2, len(words)))
        is_text = any(word.part == "free" and word.bears_loss for word in words)
        room = self.longest - sum(len(word.ids) for word in words)
        rewritten: list[Word] = []
        for index, word in enumerate(words):
            other_case = draws[0, index] < self.settings.case_noise
            other_space = draws[1, index] < self.settings.spacing_noise
            new_word = word
            if word.part == "free" and (other_case or other_space):
                text = self.codec.text(list(word.ids))
                new_text = (
                    in_other_letters(text, kinds[0, index]) if other_case else text
                )
                if other_space:
                    new_text = with_other_space(new_text, kinds[1, index])
                new_word = self._written(word, text, new_text)
            growth = len(new_word.ids) - len(word.ids)
            if growth > room and not is_text:
                new_word = word
                growth = 0
            room -= growth
            rewritten.append(new_word)
        return self._fitting(rewritten)

    def _fitting(self, words: list[Word]) -> list[Word]:
        """Return the words at the front that are no longer than the longest row."""
        ends = itertools.accumulate(len(word.ids) for word in words)
        return [
            word for word, end in zip(words, ends, strict=True) if end <= self.longest
        ]

    def _written(self, word: Word, text: str, new_text: str) -> Word:
        """Return a word as another text; the word itself if its own text does not give it back."""
        # Some tokenizers lose letters or spaces: what they would write is no small noise.
        if new_text == text or self.codec.continued_ids(text) != list(word.ids):
            return word
        ids = tuple(self.codec.continued_ids(new_text))
        return Word(ids, ids, bears_loss=False, part=word.part) if ids else word

    def _hidden(self, words: list[Word], generator: np.random.Generator) -> list[Word]:
        """Have the model read some words and stretches of words as others."""
        hidden = generator.random(len(words)) < self.settings.word_dropout
        for start, end in masked_spans(
            len(words), self.settings.span_masking, generator
        ):
            hidden[start:end] = True
        seen: list[Word] = []
        for word, is_hidden in zip(words, hidden, strict=True):
            if is_hidden and word.part != "fixed":
                picked = generator.integers(len(self.fillers), size=len(word.ids))
                fillers = tuple(int(token) for token in self.fillers[picked])
                word = replace(word, inputs=fillers)
            seen.append(word)
        return seen


def masked_spans(
    num_words: int, share: float, generator: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Yield stretches [start, end) that hold about a share of the words, and never touch."""
    if share <= 0:
        return
    # After a stretch and a word that is not hidden, one may begin: mean stretch over mean cycle is
    # the share.
    mean_pause = SPAN_WORDS * (1 - share) / share
    position = int(generator.geometric(1 / max(1.0, mean_pause))) - 1
    while position < num_words:
        length = min(int(generator.geometric(1 / SPAN_WORDS)), LONGEST_SPAN_WORDS)
        yield position, min(position + length, num_words)
        position += length + int(generator.geometric(1 / max(1.0, mean_pause)))


def in_other_letters(text: str, kind: int) -> str:
    """Return a text in upper case, lower case or capitalised: the first of these that differs.

    Args:
        text: the text.
        kind: the one to begin with, 0 to 2.
    """
    variants = (text.upper(), text.lower(), text.title())
    for number in range(len(variants)):
        variant = variants[(kind + number) % len(variants)]
        if variant != text:
            return variant
    return text


def with_other_space(text: str, kind: int) -> str:
    """Return a text without the space before it, or with two or a line break in its place.

    Args:
        text: the text.
        kind: 0, 1 or 2, in this order.
    """
    word = text.lstrip()
    return (word, f"  {word}", f"\n{word}")[kind]


def longest_copy(
    settings: Augmentation | None, rows: Sequence[EncodedRow], max_length: int
) -> int:
    """Return the tokens that no copy of a row has more of; without noise those of the longest row.

    Args:
        settings: kinds and shares of the noise.
        rows: all rows of a stage.
        max_length: longest row that the recipe allows.
    """
    longest = max(row.longest for row in rows)
    if settings is None or not (settings.case_noise or settings.spacing_noise):
        return longest
    return max(longest, min(max_length, math.ceil(GROWTH * longest)))


def make_augmenter(
    settings: Augmentation,
    rows: Sequence[EncodedRow],
    codec: Codec,
    max_length: int,
    seed: int,
) -> Augmenter:
    """Return the noise of a stage.

    Args:
        settings: kinds and shares of the noise.
        rows: all rows of the stage.
        codec: of the model.
        max_length: longest row that the recipe allows.
        seed: of the stage.
    """
    vocabulary = vocabulary_of(codec)
    return Augmenter(
        settings=settings,
        codec=codec,
        vocabulary=vocabulary,
        fillers=_fillers(vocabulary, rows),
        longest=longest_copy(settings, rows, max_length),
        seed=seed,
    )


def vocabulary_of(codec: Codec) -> Vocabulary:
    """Return where words begin in the tokens of a model.

    A vocabulary without any mark of words has whole words for tokens.
    """
    tokenizer = codec.tokenizer
    num_tokens = max(tokenizer.get_vocab().values()) + 1
    texts = [
        str(text) for text in tokenizer.convert_ids_to_tokens(list(range(num_tokens)))
    ]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    is_special = np.array([token in special for token in range(num_tokens)])
    begins = np.array([text.startswith(WORD_MARKS) for text in texts])
    if not (begins & ~is_special).any():
        begins = np.array([not text.startswith(PIECE_MARK) for text in texts])
    return Vocabulary(begins & ~is_special, is_special, _unknown_token(codec))


def _unknown_token(codec: Codec) -> int | None:
    """Return the token of an unknown word; None without one that means nothing else."""
    tokenizer = codec.tokenizer
    unknown = tokenizer.unk_token_id
    # GPT-2 and its heirs name their end of text as the unknown token: it would teach to stop.
    others = {
        *codec.end_ids,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        codec.pad_id,
    }
    num_embeddings = codec.num_embeddings
    if unknown is None or unknown in others:
        return None
    is_in_model = num_embeddings is None or unknown < num_embeddings
    return int(unknown) if is_in_model else None


def _fillers(
    vocabulary: Vocabulary, rows: Sequence[EncodedRow]
) -> npt.NDArray[np.int64]:
    """Return the tokens that hide others: the unknown one, or else those of the rows."""
    if vocabulary.unknown is not None:
        return np.array([vocabulary.unknown])
    # As often as they are in the rows: the noise of a unigram model (1703.02573).
    tokens = np.fromiter(
        itertools.chain.from_iterable(row.ids for row in rows), dtype=np.int64
    )
    of_text = tokens[~vocabulary.is_special[tokens]]
    return of_text if len(of_text) else np.flatnonzero(~vocabulary.is_special)


def _unpredicted(word: Word) -> Word:
    return replace(word, bears_loss=False)


def _joined(words: Sequence[Word], row: EncodedRow) -> EncodedRow:
    """Return words as a row, with the settings of the row that they are from."""
    ids: list[int] = []
    inputs: list[int] = []
    targets: list[bool] = []
    for word in words:
        ids += word.ids
        inputs += word.inputs
        targets += [word.bears_loss] * len(word.ids)
    num_masked = targets.index(True) if any(targets) else len(targets)
    gaps = []
    position = num_masked
    for bears_loss, run in itertools.groupby(targets[num_masked:]):
        length = len(list(run))
        if not bears_loss:
            gaps.append((position, position + length))
        position += length
    return replace(
        row,
        ids=ids,
        inputs=inputs,
        num_masked=num_masked,
        gaps=tuple(gaps),
        changeable=(),
    )
