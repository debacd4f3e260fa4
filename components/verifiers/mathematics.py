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
    after_answer_is,
    answer_part,
    boxed,
    hash_lines,
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
"""Different expressions among a prompt's answers that are compared with each other. Rarer ones are
equal only if they are written alike: comparing two takes about 10 ms, sometimes 5 s."""

_MATH = MathProcess()

_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\[^()])+)\\\)"
    r"|\\\[((?:[^\\]|\\[^\[\]])+)\\\]"
)
# "$3$ and $4$": a list, of which the first formula is not the answer.
_ANOTHER_FORMULA = re.compile(r"\s*(?:,|\band\b|\bor\b)\s*(?:and|or)?\s*(?:\$|\\[(\[])")
_SIGN = re.compile(r"[\d$\\=+^]")
# Four letters and no backslash: functions are shorter, or commands.
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|[,;:! ])(?![A-Za-z])")
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_LETTER = re.compile(r"[A-Za-z]")
# `x`, `\theta`, `x_{12}`, `f(x)`: what may stand to the left of "= 5".
_VARIABLE = re.compile(
    r"[\s$(]*\\?[A-Za-z]{1,8}(?:_\{?\w{1,8}\}?)?(?:\([^()]{1,20}\))?\s*"
)


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
    text_keys = [answer_key(text) for text in texts]
    # Sorted: where texts share a key, the same one stands for it in any order of the answers.
    pairs = sorted(zip(text_keys, texts, strict=True))
    expressions = {key: expression(text) for key, text in pairs}
    keys = group_numbers(text_keys)
    counts = Counter(key for key in keys if key)
    by_count = sorted(counts, key=lambda key: (-counts[key], key))
    representatives: list[str] = []
    representative_by_key: dict[str, str] = {}
    # The most frequent first: a rare answer joins a large group, not the other way round.
    for key in by_count:
        if len(representatives) == MAX_COMPARED:
            break
        representative = _equal_one(key, representatives, expressions)
        if representative is None:
            representative = key
            representatives.append(key)
        representative_by_key[key] = representative
    return [representative_by_key.get(key, key) for key in keys]


def stated_answer(prompt: Prompt) -> str:
    """Return the expression that the reference ends with."""
    return expression(reference_text(prompt))


def expression(text: str) -> str:
    """Return the expression that an answer ends with.

    It stands between `<answer>` tags, behind `####`, in the last box or behind "answer is"; else it
    is the whole answer. A single formula (`$…$`) in a sentence stands for the sentence.
    """
    answer = answer_part(text)
    for line in hash_lines(answer):
        # Words behind `####` are a heading, unless the text ends with them.
        if line and (answer.rstrip().endswith(line) or not _PROSE_WORD.search(line)):
            return _formula_of(line)
    if (content := boxed(answer)) is not None:
        return normalised_text(content)
    for statement in after_answer_is(answer):
        first = _FORMULA.match(statement)
        if first and not _ANOTHER_FORMULA.match(statement, first.end()):
            return _content_of(first)
        sentence = _SENTENCE_END.split(statement.strip(), maxsplit=1)[0]
        # "I hope that this answer is clear" states nothing.
        if sentence and (_SIGN.search(sentence) or not _PROSE_WORD.search(sentence)):
            return _formula_of(sentence)
    return _formula_of(answer)


def _formula_of(text: str) -> str:
    """Return the only formula of the last sentence with one, else the whole text."""
    for sentence in reversed(_SENTENCE_END.split(text)):
        formulas = list(_FORMULA.finditer(sentence))
        if not formulas:
            continue
        # With a number beside it, the formula is not all that the sentence says.
        words = _FORMULA.sub("", sentence)
        holds_number = any(character.isnumeric() for character in words)
        if len(formulas) == 1 and not holds_number:
            return _content_of(formulas[0])
        break
    return normalised_text(text).rstrip(".")


def _content_of(formula: re.Match[str]) -> str:
    content = next(filter(None, formula.groups()))
    return normalised_text(content).rstrip(".,")


def _equal_one(
    key: str, representatives: Sequence[str], expressions: dict[str, str]
) -> str | None:
    """Return the first representative that an expression equals, or None."""
    answer = expressions[key]
    if not representatives or not _can_be_compared(answer):
        return None
    for representative in representatives:
        if _equal(expressions[representative], answer):
            return representative
    return None


def _can_be_compared(text: str) -> bool:
    """Return whether an expression equals itself."""
    # One that takes too long to read costs 5 s once, and not once for every representative.
    return _number_of(text) is not None or _MATH.equal(text, text)


def _equal(reference: str, answer: str) -> bool:
    expected = _number_of(reference)
    number = _number_of(answer)
    # Most answers are numbers, which need no process.
    if expected is not None and number is not None:
        if same_number(expected, number):
            return True
        if abs(expected.value - number.value) > ROUNDING:
            return False
    return _MATH.equal(_latex(reference, expected), _latex(answer, number))


def _number_of(text: str) -> Number | None:
    """Return the number that an expression is, or that a sentence ends with.

    `x = 5` is a number; `x^2 + y^2 = 25` is an equation and none, as it is not `x + y = 25`.
    """
    left_side, equals, _ = text.rpartition("=")
    if equals and _LETTER.search(left_side) and not _VARIABLE.fullmatch(left_side):
        return final_number(text) if _PROSE_WORD.search(text) else None
    number = only_number(text)
    if number is None and _PROSE_WORD.search(text):
        return final_number(text)
    return number


def _latex(text: str, number: Number | None) -> str:
    """Return an expression in the spelling that math-verify reads rightly."""
    if number is None:
        return text
    # Numbers are written anew: math-verify takes `1 1/2` for 1.
    value = number.value / 100 if number.is_percent else number.value
    # A decimal stays one: math-verify compares decimals by six places and fractions exactly.
    if "." in text:
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
        return format(decimal, "f")
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _spelling(text: str) -> str:
    """Return an expression without layout and needless white space, with one name for fractions."""
    plain = _SPACE.sub("", _LAYOUT.sub("", text))
    return re.sub(r"\\[dt]frac", r"\\frac", plain)
