"""Verifier `numeric`: the number that an answer ends with equals the reference's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from components.contracts.rows import Check, Prompt
from components.verifiers.final_answer import (
    after_answer_is,
    answer_part,
    boxed,
    hash_lines,
)
from components.verifiers.number_reader import (
    last_number,
    number_after_lead,
    number_at_start,
    only_number,
)
from components.verifiers.plain_number import Number
from components.verifiers.references import reference_text

# `#### 2. Add both sides`: the number counts a step.
_NUMBERED_HEADING = re.compile(r"\(?\d+[.):]\s+\S*[^\W\d_]")


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the text ends with the reference's number, or one within its tolerance."""
    expected = final_number(reference_text(prompt))
    number = final_number(text)
    if expected is None or number is None:
        return False
    return same_number(expected, number) or _is_near(expected, number, prompt.check)


def _is_near(expected: Number, number: Number, check: Check) -> bool:
    """Return whether a number is within the tolerance of a check."""
    # As they are written: 0.1 is no binary fraction.
    absolute = Fraction(str(check.tolerance))
    relative = Fraction(str(check.relative_tolerance))
    if not absolute and not relative:
        return False
    # A percentage may stand against a share, and against a plain number.
    divisors = [1] if expected.is_percent == number.is_percent else [1, 100]
    for divisor in divisors:
        wanted = expected.value / (divisor if expected.is_percent else 1)
        given = number.value / (divisor if number.is_percent else 1)
        if abs(given - wanted) <= max(absolute, relative * abs(wanted)):
            return True
    return False


def answer_key(text: str) -> str:
    """Return the final number as `3/2` or `50%`; empty if there is none."""
    return number_key(final_number(text))


def number_key(number: Number | None) -> str:
    """Return a number as `3/2` or `50%`; empty for None."""
    if number is None:
        return ""
    return f"{number.value}%" if number.is_percent else str(number.value)


def group_keys(keys: Sequence[str]) -> list[str]:
    """Return the keys with each percentage replaced by the plain number it equals, if one is there.

    `50%` equals 0.5 and 50, which are not equal to each other: it goes to the one that more keys
    are, and to 0.5 of equally many.
    """
    counts = Counter(keys)
    renamed = {}
    for key in counts:
        if not key.endswith("%"):
            continue
        as_written = Fraction(key.removesuffix("%"))
        as_share = as_written / 100
        num_written = counts[str(as_written)]
        num_shares = counts[str(as_share)]
        if num_shares or num_written:
            renamed[key] = str(as_share if num_shares >= num_written else as_written)
    return [renamed.get(key, key) for key in keys]


def stated_answer(prompt: Prompt) -> str:
    """Return the reference's number as it is written there, without the way to it."""
    text = reference_text(prompt)
    number = final_number(text)
    if number is None:
        return ""
    # GSM8K's references are a solution and `#### 72`; only the 72 is the answer.
    lines = hash_lines(text)
    final = boxed(text) or (lines[0] if lines else text)
    final = " ".join(final.split())
    is_number_alone = only_number(final) == number and " " not in final
    return final if is_number_alone else number_key(number)


def same_number(first: Number, second: Number) -> bool:
    """Return whether two numbers are the same answer: 50% is 50 and 0.5, but 0.5% is not 50%."""
    if first.value == second.value:
        return True
    if first.is_percent == second.is_percent:
        return False
    percent, plain = (first, second) if first.is_percent else (second, first)
    return percent.value / 100 == plain.value


def final_number(text: str) -> Number | None:
    """Return the number that an answer ends with, or None.

    It is looked for, outside of think blocks, in the first of these that the text holds:

    1. between the last `<answer>` tags, by the rules below;
    2. behind the last `####` that a number follows: that number (`#### Step 2:` is a heading);
    3. in the last `\\boxed{}`, which must be one number and its unit;
    4. behind the last "answer is" or "answer:" with a number in its sentence: the first number;
    5. else the last number of the last sentence that holds one.

    In an equation it is the right side. Read are signs, thousands, decimals, fractions, mixed
    numbers, powers, scientific notation, percentages and words such as million. An expression that
    is no plain number, or a list, is no number, and no part of it is read in its place.
    """
    answer = answer_part(text)
    for line in hash_lines(answer):
        if _NUMBERED_HEADING.match(line):
            continue
        begins, number = number_at_start(line)
        if begins:
            return number
    if (content := boxed(answer)) is not None:
        return only_number(content)
    for statement in after_answer_is(answer):
        holds_number, number = number_after_lead(statement)
        # An unreadable number is the answer all the same: no other number takes its place.
        if holds_number:
            return number
    return last_number(answer)
