"""Verifier `math`: the answer is equal to the reference as mathematics.

1/2 is 0.5, x^2-1 is (x-1)(x+1), sets are equal in any order. Plain numbers are read as the verifier
`numeric` reads them; everything else is compared by math-verify.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from components.canonical import normalised_text
from components.contracts.rows import Prompt
from components.math_process import MathProcess
from components.verifiers.final_answer import (
    MAX_ANSWER_CHARACTERS,
    after_answer_is,
    boxed,
    hash_lines,
    tagged,
    without_thoughts,
)
from components.verifiers.number_reader import only_number
from components.verifiers.numeric import final_number, number_key, same_number
from components.verifiers.numeric import group_keys as group_numbers
from components.verifiers.plain_number import Number
from components.verifiers.references import reference_text

ROUNDING = Fraction(1, 10**6)
"""Numbers that differ by more are not equal, however math-verify reads them; it rounds decimals to
six places."""
MAX_COMPARED = 32
"""Of one prompt's answers, so many different expressions are compared with each other; rarer ones
are equal only if they are written alike. Comparing two takes about 10 ms, sometimes 5 s."""

_MATH = MathProcess()

_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\[^()])+)\\\)"
    r"|\\\[((?:[^\\]|\\[^\[\]])+)\\\]"
)
_ANOTHER_FORMULA = re.compile(r"\s*(?:,|\band\b|\bor\b)\s*(?:and|or)?\s*(?:\$|\\[(\[])")
_SIGN = re.compile(r"[\d$\\=+^]")
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|[,;:! ])(?![A-Za-z])")
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_LETTER = re.compile(r"[A-Za-z]")
_VARIABLE = re.compile(r"[\s$(]*\\?[A-Za-z]{1,8}(?:_\{?\w{1,8}\}?)?(?:\([^()]{1,20}\))?\s*")


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the expression that a text ends with equals the reference."""
    reference = expression(reference_text(prompt))
    return bool(reference) and _equal(reference, expression(text))


def answer_key(text: str) -> str:
    """Return the final number as `3/2`, or the final expression in one spelling of its layout."""
    final = expression(text)
    return number_key(_number_of(final)) or _spelling(final)


def group_keys(texts: Sequence[str]) -> list[str]:
    """Return the key of each answer; answers that the verifier holds for equal have the same key.

    The order of the answers makes no difference.
    """
    own_keys = [answer_key(text) for text in texts]
    expressions = {key: expression(text) for key, text in sorted(zip(own_keys, texts, strict=True))}
    keys = group_numbers(own_keys)
    counts = Counter(key for key in keys if key)
    representatives: list[str] = []
    renamed: dict[str, str] = {}
    for key, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(representatives) < MAX_COMPARED:
            equal = _equal_one(key, representatives, expressions)
            renamed[key] = equal or key
            if equal is None:
                representatives.append(key)
    return [renamed.get(key, key) for key in keys]


def stated_answer(prompt: Prompt) -> str:
    """Return the expression that the reference ends with."""
    return expression(reference_text(prompt))


def expression(text: str) -> str:
    """Return what an answer ends with.

    This is what stands between `<answer>` tags, behind `####`, in the last box or behind "answer
    is"; else all of it. A single formula (`$…$`) in the sentence stands for the sentence.
    """
    said = without_thoughts(text[-MAX_ANSWER_CHARACTERS:])
    said = tagged(said) or said
    for line in hash_lines(said):
        if line and (said.rstrip().endswith(line) or not _PROSE_WORD.search(line)):
            return _formula_of(line)
    if (content := boxed(said)) is not None:
        return normalised_text(content)
    for statement in after_answer_is(said):
        first = _FORMULA.match(statement)
        if first and not _ANOTHER_FORMULA.match(statement, first.end()):
            return _content_of(first)
        sentence = _SENTENCE_END.split(statement.strip(), maxsplit=1)[0]
        # "I hope that this answer is clear" states nothing.
        if sentence and (_SIGN.search(sentence) or not _PROSE_WORD.search(sentence)):
            return _formula_of(sentence)
    return _formula_of(said)


def _formula_of(text: str) -> str:
    """Return the only formula of the last sentence with one, else the whole text."""
    for sentence in reversed(_SENTENCE_END.split(text)):
        formulas = list(_FORMULA.finditer(sentence))
        if not formulas:
            continue
        rest = _FORMULA.sub("", sentence)
        if len(formulas) == 1 and not any(character.isnumeric() for character in rest):
            return _content_of(formulas[0])
        break
    return normalised_text(text).rstrip(".")


def _content_of(formula: re.Match[str]) -> str:
    return normalised_text(next(filter(None, formula.groups()))).rstrip(".,")


def _equal_one(key: str, representatives: Sequence[str], expressions: dict[str, str]) -> str | None:
    """Return the first representative that an expression equals, or None."""
    own = expressions[key]
    if not representatives or not _can_be_compared(own):
        return None
    return next((other for other in representatives if _equal(expressions[other], own)), None)


def _can_be_compared(text: str) -> bool:
    """Return whether an expression equals itself: one that takes too long to read is asked about
    once, not once for every other answer."""
    return _number_of(text) is not None or _MATH.equal(text, text)


def _equal(reference: str, answer: str) -> bool:
    expected, given = _number_of(reference), _number_of(answer)
    if expected is not None and given is not None:
        if same_number(expected, given):
            return True
        if abs(expected.value - given.value) > ROUNDING:
            return False
    return _MATH.equal(_latex(reference, expected), _latex(answer, given))


def _number_of(text: str) -> Number | None:
    """Return the number that an expression is, or that a sentence ends with.

    `x = 5` is a number; `x^2 + y^2 = 25` is an equation and none, as it is not `x + y = 25`.
    """
    left, equals, _ = text.rpartition("=")
    if equals and _LETTER.search(left) and not _VARIABLE.fullmatch(left):
        return final_number(text) if _PROSE_WORD.search(text) else None
    number = only_number(text)
    if number is None and _PROSE_WORD.search(text):
        return final_number(text)
    return number


def _latex(text: str, number: Number | None) -> str:
    """Return an expression as math-verify reads it rightly: it takes `1 1/2` for 1.

    A decimal stays one, as math-verify compares decimals by six places and fractions exactly.
    """
    if number is None:
        return text
    value = number.value / 100 if number.is_percent else number.value
    if "." in text:
        return format(Decimal(value.numerator) / Decimal(value.denominator), "f")
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _spelling(text: str) -> str:
    """Return an expression without layout and needless white space, with one name for fractions."""
    plain = _SPACE.sub("", _LAYOUT.sub("", text))
    return re.sub(r"\\[dt]frac", r"\\frac", plain)
