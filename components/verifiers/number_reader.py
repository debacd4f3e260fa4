"""Numbers in text: which of them is the answer.

A run of digits, operators and brackets is read as one number or not at all (`plain_number`). Words
around it say whether it is the answer: "7 of 12" is 7, "3 or 4" is no number, "not 8" is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from components.verifiers.number_tokens import Kind, Token, phrases_of, tokens_of
from components.verifiers.number_vocabulary import COMPOUND_UNITS, LEADING_WORDS, WORDS_BEFORE_SIGN
from components.verifiers.plain_number import Number, number_of

MAX_CHARACTERS = 2000
"""Of a longer line only the end (or beginning) is read; what lies on the cut is no number."""
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
_MARKERS = (
    re.compile(r"\s{0,40}[-–*•+]\s+(?=\S)"),
    re.compile(r"\s{0,40}(?:\*\*)?\(?\d{1,2}[.)]\s+(?=\S)"),
)
"""Of the items of lists: bullets, and numbers."""


@dataclass(frozen=True)
class _Reading:
    """A run of formula tokens in a phrase, and what it says."""

    number: Number | None
    """None if the run is no plain number."""
    start: int
    end: int
    """Places in the phrase; `end` is behind its last token."""
    in_list: bool = False
    """Together with the reading before it this is a list: `3, 4`, or `5 apples and 7 pears`."""


def last_number(text: str) -> Number | None:
    """Return the last number of the last sentence that holds one.

    "She answers 5 of 12, so 7" is 7, "2 + 3 = 5" is 5, "7 of 12" is 7. None if what stands there is
    no plain number. Numbers of steps ("step 2") and numbers that are ruled out ("not 8") are passed
    over.
    """
    label: Number | None = None
    for line in reversed(_without_markers(text.split("\n"))):
        if not _holds_digit(line):
            continue
        line = _SPACES.sub(" ", line)
        end = line if len(line) <= MAX_CHARACTERS else _CUT + line[-MAX_CHARACTERS:]
        for phrase in reversed(list(phrases_of(tokens_of(end)))):
            readings = _readings(phrase)
            for place in reversed(range(len(readings))):
                reading = readings[place]
                words_before = [
                    token.text for token in phrase[max(0, reading.start - 2) : reading.start]
                ]
                if _is_ruled_out(words_before):
                    continue
                if words_before[-1:] == ["step"]:
                    label = label or reading.number
                    continue
                ends_phrase = reading.end == len(phrase)
                return None if reading.in_list and ends_phrase else reading.number
    return label


def only_number(text: str) -> Number | None:
    """Return the number that a formula or box is, with its unit; None if it is not exactly one."""
    if len(text) > MAX_CHARACTERS:
        return None
    tokens = tokens_of(text.replace("\n", " "), formula=True)
    readings = [reading for phrase in phrases_of(tokens) for reading in _readings(phrase)]
    return readings[0].number if len(readings) == 1 else None


def number_at_start(text: str) -> tuple[bool, Number | None]:
    """Return whether the first line of a text begins with a number or formula, and its value.

    `2 * 3 = 6` begins with one whose value is 6, `72 clips` is 72, `3, 4` begins with one that has
    no value.
    """
    phrase = next(phrases_of(tokens_of(_first_line(text))), [])
    readings = _readings(phrase)
    if not readings or any(token.kind is Kind.WORD for token in phrase[: readings[0].start]):
        return False, None
    return True, _unless_listed(readings)


def number_after_lead(text: str) -> tuple[bool, Number | None]:
    """Return whether the first phrase of a text holds a number or formula, and which.

    It is the first one, if no more than a few words such as "about" lead to it, else the last one of
    the phrase.
    """
    phrase = next(phrases_of(tokens_of(_first_line(text))), [])
    readings = _readings(phrase)
    if not readings:
        return False, None
    leads = [token.text for token in phrase[: readings[0].start] if token.kind is Kind.WORD]
    if all(word in LEADING_WORDS for word in leads):
        return True, _unless_listed(readings)
    allowed = [
        reading
        for reading in readings
        if not _is_ruled_out(
            [token.text for token in phrase[max(0, reading.start - 2) : reading.start]]
        )
    ]
    return True, allowed[-1].number if allowed else None


def _without_markers(lines: list[str]) -> list[str]:
    """Return lines without the bullets or numbers of a list of two items or more."""
    for marker in _MARKERS:
        marked = [marker.match(line) for line in lines]
        if sum(match is not None for match in marked) > 1:
            pairs = zip(lines, marked, strict=True)
            lines = [line[match.end() :] if match else line for line, match in pairs]
    return lines


def _first_line(text: str) -> str:
    """Return the first line that holds a letter or digit; empty if it has no digit."""
    for line in text.split("\n"):
        if any(character.isalnum() for character in line):
            if not _holds_digit(line):
                return ""
            line = _SPACES.sub(" ", line)
            return line if len(line) <= MAX_CHARACTERS else line[:MAX_CHARACTERS] + _CUT
    return ""


def _holds_digit(text: str) -> bool:
    return any(character.isnumeric() for character in text)


def _unless_listed(readings: Sequence[_Reading]) -> Number | None:
    is_list = len(readings) > 1 and readings[1].in_list
    return None if is_list else readings[0].number


def _is_ruled_out(words_before: Sequence[str]) -> bool:
    return words_before[-1:] == ["not"] or list(words_before) in (
        ["instead", "of"],
        ["rather", "than"],
    )


def _readings(phrase: Sequence[Token]) -> list[_Reading]:
    """Return what the formulas of a phrase say, in order; words between them may join them."""
    readings: list[_Reading] = []
    for start, end in _runs(phrase):
        reading = _read_run(phrase, start, end)
        between = phrase[readings[-1].end : start] if readings else []
        if readings and _continues(phrase, start):
            # `5 kg + 3 kg` is no number, `5 apples + 3 pears = 8` is 8.
            is_equation = phrase[start].kind is Kind.EQUALS
            number = reading.number if is_equation else None
            readings[-1] = replace(readings[-1], number=number, end=end)
        elif readings and (joined := _joined(phrase, readings[-1], reading, between)):
            readings[-1] = joined
        else:
            readings.append(replace(reading, in_list=bool(readings) and _is_list(between)))
    return readings


def _runs(phrase: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each run of formula tokens that holds a number."""
    start = 0
    depth = 0
    for place, token in enumerate([*phrase, None]):
        if token is not None and _belongs(phrase, start, place, depth):
            depth += (token.kind is Kind.OPEN) - (token.kind is Kind.CLOSE)
            continue
        run = phrase[start:place]
        if any(part.kind in (Kind.NUMBER, Kind.FRACTION) for part in run):
            yield _trimmed(phrase, start, place)
        depth = 0
        start = place
        if token is not None and not _belongs(phrase, place, place, 0):
            start = place + 1
        elif token is not None and token.kind is Kind.OPEN:
            depth = 1


def _belongs(phrase: Sequence[Token], start: int, place: int, depth: int) -> bool:
    """Return whether a token goes on with the run that began at `start`."""
    token = phrase[place]
    if token.kind is Kind.CLOSE:
        return depth > 0
    if token.kind is Kind.COMMA:
        return depth > 0
    if token.kind not in _FORMULA_KINDS:
        return False
    if place == start:
        return True
    previous = phrase[place - 1]
    # "plan B 5 apples": a letter and a number with a space between them are no product.
    is_apart = token.spaced and previous.kind is Kind.SYMBOL and previous.text.isalpha()
    return not (is_apart and token.kind in (Kind.NUMBER, Kind.FRACTION) and len(previous.text) == 1)


def _trimmed(phrase: Sequence[Token], start: int, end: int) -> tuple[int, int]:
    """Return the run without brackets that are closed outside of it: "(3 apples)"."""
    unclosed: list[int] = []
    for place in range(start, end):
        if phrase[place].kind is Kind.OPEN:
            unclosed.append(place)
        elif phrase[place].kind is Kind.CLOSE:
            unclosed.pop()
    while unclosed and unclosed[0] == start:
        unclosed.pop(0)
        start += 1
    while unclosed and unclosed[-1] == end - 1:
        unclosed.pop()
        end -= 1
    return start, end


def _continues(phrase: Sequence[Token], start: int) -> bool:
    """Return whether a run goes on with the phrase before it: it begins with an operator and
    follows a word."""
    token = phrase[start]
    if start == 0 or phrase[start - 1].kind is not Kind.WORD:
        return False
    return token.kind in (Kind.EQUALS, Kind.COMPARISON) or _is_stray_operator(phrase, start)


def _is_stray_operator(phrase: Sequence[Token], start: int) -> bool:
    """Return whether a run begins with an operator that is no sign of its number."""
    token = phrase[start]
    if token.kind is not Kind.OPERATOR:
        return False
    if token.text not in "+-":
        return token.text not in "±√"
    if start == 0 or phrase[start - 1].kind is not Kind.WORD:
        return False
    is_glued = start + 1 < len(phrase) and not phrase[start + 1].spaced
    return not (token.spaced and is_glued) and phrase[start - 1].text not in WORDS_BEFORE_SIGN


def _joined(
    phrase: Sequence[Token], first: _Reading, second: _Reading, between: Sequence[Token]
) -> _Reading | None:
    """Return what two numbers are that a word joins, or None if they are two numbers.

    "7 of 12" is 7; "5 or 7", "3 to 5" and "5 feet 6 inches" are no number.
    """
    words = [token.text for token in between]
    is_sum = words in (["of"], ["and"]) and phrase[second.start].kind is Kind.NUMBER
    if is_sum and any(token.kind is Kind.EQUALS for token in phrase[second.start : second.end]):
        return replace(second, start=first.start)  # 50% of 20 = 10
    if words in (["of"], ["out", "of"]):
        is_share = first.number is not None and first.number.is_percent
        return replace(first, number=None if is_share else first.number, end=second.end)
    if words and words[0] in COMPOUND_UNITS and words[1:] in ([], ["and"]):
        return replace(first, number=None, end=second.end)
    is_range = words == ["to"] and (first.start == 0 or phrase[first.start - 1].text != "from")
    if is_range or words in (["and"], ["or"], ["by"], [",", "and"], [",", "or"]):
        return replace(first, number=None, end=second.end)
    return None


def _is_list(between: Sequence[Token]) -> bool:
    if not between:
        return True
    if len(between) == 1:
        return between[0].kind is Kind.COMMA
    return len(between) <= 3 and between[-1].text in ("and", "or", ",")


def _read_run(phrase: Sequence[Token], start: int, end: int) -> _Reading:
    if _is_stray_operator(phrase, start):
        return _Reading(None, start, end)
    place = end
    while place < len(phrase) and phrase[place].kind is Kind.OPEN:
        place += 1
    next_word = phrase[place].text if place < len(phrase) else ""
    return _Reading(number_of(phrase[start:end], next_word), start, end)
