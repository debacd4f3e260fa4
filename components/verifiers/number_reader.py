"""The number in a text that is its answer.

A run of digits, operators and brackets is read as one number or not at all (`plain_number`). Words
around it say whether it is the answer: "7 of 12" is 7, "3 or 4" is no number, "not 8" is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from components.verifiers.number_tokens import Kind, Token, phrases_of, tokens_of
from components.verifiers.number_vocabulary import COMPOUND_UNITS, LEADING_WORDS, WORDS_BEFORE_SIGN
from components.verifiers.plain_number import Number, number_of

MAX_CHARACTERS = 2000
"""A longer line is cut to its end (or beginning); a number that is cut through is unreadable."""
_SPACES = re.compile(r"\s{2,}")
_CUT = "∞"
"""A sign that makes a number unreadable."""

_FORMULA_KINDS = frozenset(
    {
        Kind.NUMBER,
        Kind.SYMBOL,
        Kind.OPERATOR,
        Kind.EQUALS,
        Kind.COMPARISON,
        Kind.OPEN,
        Kind.CLOSE,
        Kind.FRACTION,
        Kind.PERCENT,
        Kind.SCALE,
    }
)
_SHARE_WORDS = (["of"], ["out", "of"])
"""Words between two numbers of which the first is the answer: "7 of 12"."""
_CHOICE_WORDS = (["and"], ["or"], ["by"], [",", "and"], [",", "or"])
"""Words between two numbers that are both meant: "5 or 7" is no number."""
_RULING_OUT = (["instead", "of"], ["rather", "than"])
"""Words before a number that is not the answer."""
_MARKERS = (
    re.compile(r"\s{0,40}[-–*•+]\s+(?=\S)"),
    re.compile(r"\s{0,40}(?:\*\*)?\(?\d{1,2}[.)]\s+(?=\S)"),
)
"""Bullets and numbers of list items."""


@dataclass(frozen=True)
class _Reading:
    """A run of formula tokens in a phrase, and what it says."""

    number: Number | None
    """None if the run is no plain number."""
    start: int
    end: int
    """Positions in the phrase; `end` is behind its last token."""
    in_list: bool = False
    """It continues a list that the reading before it began: `3, 4`, or "5 apples and 7 pears"."""


def last_number(text: str) -> Number | None:
    """Return the last number of the last sentence that holds one.

    "She answers 5 of 12, so 7" is 7, "2 + 3 = 5" is 5, "7 of 12" is 7. None if what stands there is
    no plain number. Numbers of steps ("step 2") and numbers that are ruled out ("not 8") are passed
    over.
    """
    step_number: Number | None = None
    for phrase in _phrases_from_end(text):
        for reading in reversed(_readings(phrase)):
            words = _words_before(phrase, reading)
            if _is_ruled_out(words):
                continue
            # "Step 2" is an answer only where the text holds no other number.
            if words[-1:] == ["step"]:
                step_number = step_number or reading.number
                continue
            # "3, 4" at the end of a phrase are two answers.
            ends_with_list = reading.in_list and reading.end == len(phrase)
            return None if ends_with_list else reading.number
    return step_number


def _phrases_from_end(text: str) -> Iterator[list[Token]]:
    """Yield the phrases of the lines that hold a digit, the last one first."""
    for line in reversed(_without_markers(text.split("\n"))):
        if not _holds_digit(line):
            continue
        line = _SPACES.sub(" ", line)
        # Tokens of a line are all made at once: a text without line breaks would take long.
        if len(line) > MAX_CHARACTERS:
            line = _CUT + line[-MAX_CHARACTERS:]
        phrases = list(phrases_of(tokens_of(line)))
        yield from reversed(phrases)


def only_number(text: str) -> Number | None:
    """Return the number that a formula or box is, with its unit; None if it is not exactly one."""
    if len(text) > MAX_CHARACTERS:
        return None
    tokens = tokens_of(text.replace("\n", " "), formula=True)
    readings: list[_Reading] = []
    for phrase in phrases_of(tokens):
        readings += _readings(phrase)
    return readings[0].number if len(readings) == 1 else None


def number_at_start(text: str) -> tuple[bool, Number | None]:
    """Return whether the first line of a text begins with a number or formula, and its value.

    `2 * 3 = 6` begins with one whose value is 6, `72 clips` is 72, `3, 4` begins with one that has
    no value.
    """
    phrase = _first_phrase(text)
    readings = _readings(phrase)
    if not readings:
        return False, None
    lead = phrase[: readings[0].start]
    if any(token.kind is Kind.WORD for token in lead):
        return False, None
    return True, _unless_listed(readings)


def number_after_lead(text: str) -> tuple[bool, Number | None]:
    """Return whether the first phrase of a text holds a number or formula, and which.

    It is the first one, if only words such as "about" lead to it, else the last one of the phrase.
    """
    phrase = _first_phrase(text)
    readings = _readings(phrase)
    if not readings:
        return False, None
    lead = phrase[: readings[0].start]
    words = [token.text for token in lead if token.kind is Kind.WORD]
    if LEADING_WORDS.issuperset(words):
        return True, _unless_listed(readings)
    for reading in reversed(readings):
        if not _is_ruled_out(_words_before(phrase, reading)):
            return True, reading.number
    return True, None


def _without_markers(lines: list[str]) -> list[str]:
    """Return lines without the bullets or numbers of a list of two items or more."""
    for marker in _MARKERS:
        num_items = sum(marker.match(line) is not None for line in lines)
        # A single line such as "- 5" or "3. 5" may be a negative number or a sentence.
        if num_items > 1:
            lines = [
                marker.sub("", line, count=1) if marker.match(line) else line for line in lines
            ]
    return lines


def _first_phrase(text: str) -> list[Token]:
    """Return the first phrase of the first line with a letter or digit; empty without a digit."""
    return next(phrases_of(tokens_of(_first_line(text))), [])


def _first_line(text: str) -> str:
    """Return the first line that holds a letter or digit; empty if it has no digit."""
    for line in text.split("\n"):
        if not any(character.isalnum() for character in line):
            continue
        if not _holds_digit(line):
            return ""
        line = _SPACES.sub(" ", line)
        if len(line) > MAX_CHARACTERS:
            line = line[:MAX_CHARACTERS] + _CUT
        return line
    return ""


def _holds_digit(text: str) -> bool:
    return any(character.isnumeric() for character in text)


def _unless_listed(readings: Sequence[_Reading]) -> Number | None:
    is_list = len(readings) > 1 and readings[1].in_list
    return None if is_list else readings[0].number


def _words_before(phrase: Sequence[Token], reading: _Reading) -> list[str]:
    """Return the texts of the two tokens before a reading."""
    begin = max(0, reading.start - 2)
    return [token.text for token in phrase[begin : reading.start]]


def _is_ruled_out(words: list[str]) -> bool:
    """Return whether the two words before a number say that it is not the answer."""
    return words[-1:] == ["not"] or words in _RULING_OUT


def _readings(phrase: Sequence[Token]) -> list[_Reading]:
    """Return what the formulas of a phrase say, in order; words between them may join them."""
    readings: list[_Reading] = []
    for start, end in _runs(phrase):
        reading = _read_run(phrase, start, end)
        if not readings:
            readings.append(reading)
            continue
        previous = readings[-1]
        between = phrase[previous.end : start]
        if _continues(phrase, start):
            # `5 kg + 3 kg` is no number, `5 apples + 3 pears = 8` is 8.
            is_equation = phrase[start].kind is Kind.EQUALS
            number = reading.number if is_equation else None
            readings[-1] = replace(previous, number=number, end=end)
        elif joined := _joined(phrase, previous, reading, between):
            readings[-1] = joined
        else:
            readings.append(replace(reading, in_list=_is_list(between)))
    return readings


def _runs(phrase: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each run of formula tokens that holds a number."""
    start = 0
    depth = 0
    # None behind the last token ends the last run.
    for position, token in enumerate([*phrase, None]):
        if token is not None and _belongs(phrase, start, position, depth):
            depth += (token.kind is Kind.OPEN) - (token.kind is Kind.CLOSE)
            continue
        run = phrase[start:position]
        if any(part.begins_number for part in run):
            yield _trimmed(phrase, start, position)
        depth = 0
        start = position
        if token is None:
            break
        if not _belongs(phrase, position, position, 0):
            start = position + 1
        elif token.kind is Kind.OPEN:
            depth = 1


def _belongs(phrase: Sequence[Token], start: int, position: int, depth: int) -> bool:
    """Return whether a token goes on with the run that began at `start`."""
    token = phrase[position]
    # A comma inside brackets is part of a pair, and a bracket closes only what was opened.
    if token.kind in (Kind.CLOSE, Kind.COMMA):
        return depth > 0
    if token.kind not in _FORMULA_KINDS:
        return False
    if position == start:
        return True
    previous = phrase[position - 1]
    # "plan B 5 apples": a letter and a number with a space between them are no product.
    is_letter = len(previous.text) == 1 and previous.text.isalpha()
    follows_letter = is_letter and previous.kind is Kind.SYMBOL
    return not (follows_letter and token.spaced and token.begins_number)


def _trimmed(phrase: Sequence[Token], start: int, end: int) -> tuple[int, int]:
    """Return the run without brackets that are closed outside of it: "(3 apples)"."""
    unclosed: list[int] = []
    for position in range(start, end):
        if phrase[position].kind is Kind.OPEN:
            unclosed.append(position)
        elif phrase[position].kind is Kind.CLOSE:
            unclosed.pop()
    while unclosed and unclosed[0] == start:
        unclosed.pop(0)
        start += 1
    while unclosed and unclosed[-1] == end - 1:
        unclosed.pop()
        end -= 1
    return start, end


def _continues(phrase: Sequence[Token], start: int) -> bool:
    """Return whether a run goes on behind a word: it begins with an operator."""
    if not _follows_word(phrase, start):
        return False
    if phrase[start].kind in (Kind.EQUALS, Kind.COMPARISON):
        return True
    return _is_stray_operator(phrase, start)


def _follows_word(phrase: Sequence[Token], start: int) -> bool:
    return start > 0 and phrase[start - 1].kind is Kind.WORD


def _is_stray_operator(phrase: Sequence[Token], start: int) -> bool:
    """Return whether a run begins with an operator that is no sign of its number."""
    token = phrase[start]
    if token.kind is not Kind.OPERATOR:
        return False
    if token.text not in "+-":
        return token.text not in "±√"
    if not _follows_word(phrase, start):
        return False
    # "loses -5" has a sign; "5 apples - 3 pears" has a dash or a minus.
    following = phrase[start + 1 : start + 2]
    is_glued = bool(following) and not following[0].spaced
    if token.spaced and is_glued:
        return False
    return phrase[start - 1].text not in WORDS_BEFORE_SIGN


def _joined(
    phrase: Sequence[Token], first: _Reading, second: _Reading, between: Sequence[Token]
) -> _Reading | None:
    """Return what two numbers are that a word joins, or None if they are two numbers.

    "7 of 12" is 7; "5 or 7", "3 to 5" and "5 feet 6 inches" are no number.
    """
    words = [token.text for token in between]
    unreadable = replace(first, number=None, end=second.end)
    run = phrase[second.start : second.end]
    # "50% of 20 = 10" is 10.
    is_equation = any(token.kind is Kind.EQUALS for token in run)
    is_operand = run[0].kind is Kind.NUMBER and words in (["of"], ["and"])
    if is_equation and is_operand:
        return replace(second, start=first.start)
    if words in _SHARE_WORDS:
        # "50% of 20" is a product that nobody has worked out.
        is_share = first.number is not None and first.number.is_percent
        return unreadable if is_share else replace(first, end=second.end)
    has_compound_unit = words[:1] and words[0] in COMPOUND_UNITS
    if has_compound_unit and words[1:] in ([], ["and"]):
        return unreadable
    if words in _CHOICE_WORDS:
        return unreadable
    # "3 to 5" is a range. "from 3 to 5" tells of a change, whose end is a number.
    is_change = first.start > 0 and phrase[first.start - 1].text == "from"
    return unreadable if words == ["to"] and not is_change else None


def _is_list(between: Sequence[Token]) -> bool:
    """Return whether the tokens between two numbers make them a list: "3, 4", "3 apples and 4"."""
    if not between:
        return True
    if len(between) == 1:
        return between[0].kind is Kind.COMMA
    if len(between) > 3:
        return False
    return between[-1].text in ("and", "or", ",")


def _read_run(phrase: Sequence[Token], start: int, end: int) -> _Reading:
    if _is_stray_operator(phrase, start):
        return _Reading(None, start, end)
    # "5 (hours)": the word that follows may stand in brackets.
    position = end
    while position < len(phrase) and phrase[position].kind is Kind.OPEN:
        position += 1
    next_word = phrase[position].text if position < len(phrase) else ""
    number = number_of(phrase[start:end], next_word)
    return _Reading(number, start, end)
