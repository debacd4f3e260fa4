"""Tokens of a text for the search of copies: what is left when case, punctuation and white space are
not looked at, for scripts with and without spaces between words.

A copy most often changes those. Symbols stay: `2+2` and `2-2` are two questions.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from components.canonical import composed_text

PER_WORD = 12
"""Weight of a word."""
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u3098\u309b-\u309f\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
# Thai, Lao, Myanmar, Khmer, New Tai Lue, Tai Tham.
_SOUTH_EAST = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1980-\u19df\u1a20-\u1aaf\ua9e0-\uaa7f"
)
# A word has about two Han characters, three kana, or four letters of the scripts of South East Asia.
_WEIGHTS = ((re.compile(f"[{_HAN}]"), 6), (re.compile(f"[{_KANA}]"), 4))
_WEIGHT_SOUTH_EAST = 3
_UNSPACED = f"{_HAN}{_KANA}{_SOUTH_EAST}"
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_SPACES_IN_SOUTH_EAST = re.compile(f"(?<=[{_SOUTH_EAST}]) (?=[{_SOUTH_EAST}])")
# One sign may be written in several ways, and a copy seldom keeps it.
_ONE_SIGN = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\uff0d\ufe63", "-"),
        **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)},
        "\uff61": "\u3002",
        "\u3000": " ",
    }
)
# Latin, Greek and Arabic; Chinese and Japanese; Indic, Thai, Khmer, Burmese; lines and mark-up.
_NEW_SENTENCE = "".join(
    (
        ';:!?\u2026\u2014\u2015\u061b\u061f\u06d4"\u201c\u201d\u201e\u00ab\u00bb',
        "\u3002\u300c\u300d\u300e\u300f\u300a\u300b\u3010\u3011",
        "\u0964\u0965\u0e2f\u0e5a\u17d4\u17d5\u104a\u104b",
        "\n\r\v\f\u2028\u2029`",
    )
)
_NO_NEW_SENTENCE = (
    ",'\u2018\u2019\u201a\u2039\u203a\u3001\u060c\u00b7\u30fb$\u00bf\u00a1"
)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, in order."""

    tokens: tuple[str, ...]
    """Words in lower case; of scripts without spaces characters; symbols such as `+`."""
    breaks: tuple[int, ...]
    """Places in `tokens` where a sentence, line or label may begin or end: 0, …, len(tokens)."""

    @property
    def joined(self) -> str:
        """All tokens as one string."""
        return " ".join(self.tokens)

    def words(self) -> Tokens:
        """Return the tokens without symbols. They have no breaks."""
        return Tokens(tuple(token for token in self.tokens if _is_word(token)), ())

    def plain(self) -> str:
        """Return the words as a text: with spaces between words, Han characters and kana."""
        # A shingle of five characters is about a word then, in all scripts.
        return _SPACES_IN_SOUTH_EAST.sub("", self.words().joined)

    def weights(self) -> list[int]:
        """Return how much each token counts; PER_WORD is a word."""
        return [_weight(token) for token in self.tokens]


def tokens_of(text: str) -> Tokens:
    """Return the tokens of a text. Unicode forms, case, and full-width signs make no difference."""
    if text.isascii():
        text = _ASCII_GAP.sub("\n", text.lower())
        found = _ASCII_TOKEN.findall(text)
    else:
        text = composed_text(text.translate(_ONE_SIGN)).casefold()
        gap, token = _patterns()
        found = token.findall(gap.sub("\n", text))
    tokens: list[str] = []
    breaks = [0]
    for token_or_gap in found:
        if token_or_gap != "\n":
            tokens.append(token_or_gap)
        elif breaks[-1] != len(tokens):
            breaks.append(len(tokens))
    if breaks[-1] != len(tokens):
        breaks.append(len(tokens))
    return Tokens(tuple(tokens), tuple(breaks))


def runs_of(tokens: Tokens, num_words: int) -> Iterator[int]:
    """Yield a hash of each run of tokens that is as long as so many words.

    A hash of Python's differs between processes; it must not leave this one.
    """
    weights = tokens.weights()
    end = 0
    weight = 0
    for begin in range(len(weights)):
        while weight < num_words * PER_WORD and end < len(weights):
            weight += weights[end]
            end += 1
        if weight < num_words * PER_WORD:
            return
        yield hash(tokens.tokens[begin:end])
        weight -= weights[begin]


def _is_word(token: str) -> bool:
    return token[0].isalnum() or bool(_IS_UNSPACED.match(token))


def _weight(token: str) -> int:
    if not _IS_UNSPACED.match(token):
        return PER_WORD
    for script, weight in _WEIGHTS:
        if script.match(token):
            return weight
    return _WEIGHT_SOUTH_EAST


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of gaps and of tokens, for any script."""
    # `\w` lacks the marks that Indic words are written with. There is no class for them, and to
    # look all of them up takes milliseconds: not when this module is imported.
    codes = range(0x300, 0x1F000)
    marks = "".join(
        chr(code) for code in codes if unicodedata.category(chr(code))[0] == "M"
    )
    letter = rf"(?![{_UNSPACED}])[^\W_]"
    token = _token(f"[{_UNSPACED}]|{letter}(?:{letter}|[{marks}])*", marks)
    # Thai and others have no mark between sentences but a space.
    gap = rf"{_gap()}|(?<=[{_UNSPACED}])\s|\s(?=[{_UNSPACED}])"
    return re.compile(gap, re.MULTILINE), re.compile(token)


def _token(words: str, marks: str = "") -> str:
    dropped = re.escape(_NO_NEW_SENTENCE)
    # A line to fill in, or a cell of a grid; within a name `_` is a space.
    blank = r"(?<![^\W_])_+(?![^\W_])"
    return rf"\n|{words}|{blank}|[^\w\s{dropped}{marks}]"


def _gap() -> str:
    """Return the pattern of what may stand between two sentences, lines or labels."""
    # The colon within a number is part of what is asked; a `!` after one is a factorial.
    within_numbers = r"(?<=\d):(?=\d)|(?<=[\d)])!"
    # Other points are those of numbers, names of files, and cells of a grid.
    point = r"""(?<=[^\W_])\.+(?=[\s"'\u2019\u201d)*]|\Z)|(?<=[)\]"'*\u2019\u201d])\.(?=\s|\Z)"""
    # Tags, headings, quoted lines and emphasis of the usual kinds of marked-up text.
    markup = r"</?[a-z][a-z0-9]*(?:\s[^<>\n]*=[^<>\n]*)?/?>|^\s*>+|^\s*#+\s|\*\*+|~~+"
    return rf"(?!{within_numbers})(?:[{re.escape(_NEW_SENTENCE)}]|{point}|{markup})"


_ASCII_GAP = re.compile(_gap(), re.MULTILINE)
_ASCII_TOKEN = re.compile(_token("[a-z0-9]+"))
