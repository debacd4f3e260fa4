"""The number in a text that is its answer.

A run of digits, operators and brackets is read as one number or not at all (`plain_number`). Words
around it say whether it is the answer: "7 of 12" is 7, "3 or 4" is no number, "not 8" is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from components.verifiers.number_runs import Run, runs_of
from components.verifiers.number_tokens import Kind, Token, phrases_of, tokens_of
from components.verifiers.number_vocabulary import (
    COMPOUND_UNITS,
    LEADING_WORDS,
    WORDS_BEFORE_SIGN,
)
from components.verifiers.plain_number import Number, number_of

MAX_CHARACTERS = 2000
"""A longer line is cut to its end (or beginning); a number that is cut through is unreadable."""
_SPACES = re.compile(r"\s{2,}")
_CUT = "∞"
"""A sign that makes a number unreadable."""

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
    """One or more runs of formula tokens, and the number that they are."""

    number: Number | None
    """None if they are no plain number."""
    run: Run
    """Several runs that are read together count as one, from the first to the last."""
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
            if _is_ruled_out(reading):
                continue
            # "Step 2" is an answer only where the text holds no other number.
            if reading.run.texts_before[-1:] == ["step"]:
                step_number = step_number or reading.number
                continue
            # "3, 4" at the end of a phrase are two answers.
            ends_with_list = reading.in_list and reading.run.end == len(phrase)
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
    lead = phrase[: readings[0].run.start]
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
    lead = phrase[: readings[0].run.start]
    words = [token.text for token in lead if token.kind is Kind.WORD]
    if LEADING_WORDS.issuperset(words):
        return True, _unless_listed(readings)
    for reading in reversed(readings):
        if not _is_ruled_out(reading):
            return True, reading.number
    return True, None


def _without_markers(lines: list[str]) -> list[str]:
    """Return lines without the bullets or numbers of a list of two items or more."""
    for marker in _MARKERS:
        num_items = sum(marker.match(line) is not None for line in lines)
        # A single line such as "- 5" or "3. 5" may be a negative number or a sentence.
        if num_items > 1:
            lines = [
                marker.sub("", line, count=1) if marker.match(line) else line
                for line in lines
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


def _is_ruled_out(reading: _Reading) -> bool:
    """Return whether the words before a number say that it is not the answer."""
    words = reading.run.texts_before
    return words[-1:] == ["not"] or words in _RULING_OUT


def _readings(phrase: Sequence[Token]) -> list[_Reading]:
    """Return what the formulas of a phrase say, in order; words between them may join them."""
    readings: list[_Reading] = []
    for run in runs_of(phrase):
        reading = _read_run(run)
        if not readings:
            readings.append(reading)
            continue
        previous = readings[-1]
        between = phrase[previous.run.end : run.start]
        if _continues(run):
            # `5 kg + 3 kg` is no number, `5 apples + 3 pears = 8` is 8.
            number = reading.number if run.first.kind is Kind.EQUALS else None
            readings[-1] = _extended(previous, run, number)
        elif joined := _joined(previous, reading, between):
            readings[-1] = joined
        else:
            readings.append(replace(reading, in_list=_is_list(between)))
    return readings


def _read_run(run: Run) -> _Reading:
    if _has_stray_operator(run):
        return _Reading(None, run)
    return _Reading(number_of(run.tokens, run.next_word), run)


def _extended(reading: _Reading, run: Run, number: Number | None) -> _Reading:
    """Return a reading that goes on to the end of a later run, and says another number."""
    whole_run = replace(reading.run, end=run.end)
    return replace(reading, run=whole_run, number=number)


def _continues(run: Run) -> bool:
    """Return whether a run goes on behind a word: it begins with an operator."""
    if not run.word_before:
        return False
    if run.first.kind in (Kind.EQUALS, Kind.COMPARISON):
        return True
    return _has_stray_operator(run)


def _has_stray_operator(run: Run) -> bool:
    """Return whether a run begins with an operator that is no sign of its number."""
    operator = run.first
    if operator.kind is not Kind.OPERATOR:
        return False
    if operator.text not in "+-":
        return operator.text not in "±√"
    if not run.word_before:
        return False
    # "loses -5" has a sign; "5 apples - 3 pears" has a dash or a minus.
    is_glued = not run.tokens[1].spaced
    if operator.spaced and is_glued:
        return False
    return run.word_before not in WORDS_BEFORE_SIGN


def _joined(
    first: _Reading, second: _Reading, between: Sequence[Token]
) -> _Reading | None:
    """Return what two numbers are that a word joins, or None if they are two numbers.

    "7 of 12" is 7; "5 or 7", "3 to 5" and "5 feet 6 inches" are no number.
    """
    words = [token.text for token in between]
    run = second.run
    unreadable = _extended(first, run, None)
    # "50% of 20 = 10" is 10.
    is_operand = run.first.kind is Kind.NUMBER and words in (["of"], ["and"])
    if is_operand and any(token.kind is Kind.EQUALS for token in run.tokens):
        return replace(second, run=replace(run, start=first.run.start))
    if words in _SHARE_WORDS:
        # "50% of 20" is a product that nobody has worked out.
        is_product = first.number is not None and first.number.is_percent
        return unreadable if is_product else _extended(first, run, first.number)
    if words in _CHOICE_WORDS:
        return unreadable
    # "3 to 5" is a range. "from 3 to 5" tells of a change, whose end is a number.
    if words == ["to"]:
        is_change = first.run.texts_before[-1:] == ["from"]
        return None if is_change else unreadable
    has_compound_unit = words[:1] and words[0] in COMPOUND_UNITS
    is_compound = has_compound_unit and words[1:] in ([], ["and"])
    return unreadable if is_compound else None


def _is_list(between: Sequence[Token]) -> bool:
    """Return whether the tokens between two numbers make them a list: "3, 4", "3 apples and 4"."""
    if not between:
        return True
    if len(between) == 1:
        return between[0].kind is Kind.COMMA
    if len(between) > 3:
        return False
    return between[-1].text in ("and", "or", ",")
