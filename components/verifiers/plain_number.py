"""A formula as one rational number, or none.

`1\\frac12` is 3/2, `3\\sqrt{2}` is no number, and its 2 is not looked at. Sums and products are not
worked out, with the exception of scientific notation: an answer that repeats the question is no
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from components.verifiers.number_tokens import Kind, Token

MAX_POWER_BITS = 4000
"""Size of the largest power that is worked out: `9^{9^{9}}` would fill the memory."""
MAX_DEPTH = 12
"""Brackets inside each other; reading them is recursive."""

_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_REST_OF_ARITHMETIC = frozenset(
    {"*", "/", "^", "\\frac", "\\dfrac", "\\tfrac", "\\cfrac"}
)
_PAIRS = {("{", "}"), ("\\{", "\\}"), ("(", ")"), ("[", "]")}


class Number(NamedTuple):
    """A rational number as it was written."""

    value: Fraction
    """50 for `50%`."""
    is_percent: bool


class _UnreadableError(ValueError):
    """A formula is no plain number. Never leaves this module."""


def number_of(formula: Sequence[Token], next_word: str) -> Number | None:
    """Return the value of a formula, of an equation that of its right side.

    Args:
        formula: Tokens without words.
        next_word: The word behind the formula, empty if none follows: "5 - that is" is 5.
    """
    try:
        return _equation(formula, next_word)
    except _UnreadableError:
        return None


def _equation(formula: Sequence[Token], next_word: str) -> Number:
    # `x < 5` says nothing of which number x is.
    if any(token.kind is Kind.COMPARISON for token in formula):
        raise _UnreadableError
    sides: list[list[Token]] = [[]]
    for token in formula:
        if token.kind is Kind.EQUALS:
            sides.append([])
        else:
            sides[-1].append(token)
    side = sides.pop()
    # `5 = x`: the variable stands on the right.
    if sides and len(side) == 1 and side[0].kind is Kind.SYMBOL:
        side = sides.pop()
    return _Side(_without_dash(side, next_word)).number()


def _without_dash(side: list[Token], next_word: str) -> list[Token]:
    """Return a side without an operator that leads to the next word: "5 - that is", "5/hour"."""
    if not side or side[-1].kind is not Kind.OPERATOR:
        return side
    last = side[-1]
    is_dash = last.text in "-/" and (next_word or last.spaced)
    # LaTeX writes "2nd" as `2^{\text{nd}}`.
    is_ordinal = last.text == "^" and next_word in _ORDINALS
    return side[:-1] if is_dash or is_ordinal else side


class _Side:
    """Reads one side of an equation, token by token; every method raises `_UnreadableError`."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    def number(self) -> Number:
        """Return the number that the whole side is."""
        value = self._scaled()
        num_signs = sum(token.kind is Kind.PERCENT for token in self._tokens)
        self._take(Kind.PERCENT)
        # Whatever is left over is no part of a number: none is read from the rest.
        if self._position < len(self._tokens) or num_signs > 1:
            raise _UnreadableError
        return Number(value, is_percent=num_signs == 1)

    def _scaled(self) -> Fraction:
        # The scale comes last: "1/2 million" is half of a million.
        value = self._signed(self._quotient)
        while (scale := self._take(Kind.SCALE)) is not None:
            assert scale.value is not None
            value *= scale.value
        return value

    def _quotient(self) -> Fraction:
        """Return a power, a mixed number, a scientific number, or one of these over another."""
        first = self._peek()
        value = self._power()
        # Only behind a bare number: `2^3 1/2` is no mixed number.
        if first is not None and first.kind is Kind.NUMBER and value == first.value:
            value = self._mixed(first, value)
        # Of products only `1.5 * 10^3` is one number.
        if self._take_operator("*"):
            base = self._take(Kind.NUMBER)
            if base is None or base.text != "10" or not self._take_operator("^"):
                raise _UnreadableError
            value *= _power_of(Fraction(10), self._exponent())
        if not self._take_operator("/"):
            return value
        return _over(value, self._signed(self._power))

    def _mixed(self, first: Token, integer: Fraction) -> Fraction:
        """Return the mixed number that begins with an integer, else the integer.

        `1\\frac12` and `1 1/2` are mixed numbers, if the second part is a proper fraction.
        """
        if not first.text.isdecimal():
            return integer
        following = self._peek()
        if following is None:
            return integer
        if following.kind is Kind.FRACTION:
            part = self._power()
        elif (
            following.kind is Kind.NUMBER
            and following.spaced
            and following.text.isdecimal()
        ):
            numerator = self._power()
            if not self._take_operator("/"):
                raise _UnreadableError
            part = _over(numerator, self._power())
        else:
            return integer
        # `2 3/2` may be a list or a slip; it is not 7/2.
        if not 0 < part < 1:
            raise _UnreadableError
        return integer + part

    def _power(self) -> Fraction:
        base = self._primary()
        if not self._take_operator("^"):
            return base
        return _power_of(base, self._exponent())

    def _exponent(self) -> Fraction:
        return self._signed(self._primary)

    def _primary(self) -> Fraction:
        token = self._peek()
        if token is None:
            raise _UnreadableError
        if token.kind is Kind.OPEN:
            return self._group()
        self._position += 1
        if token.kind is Kind.FRACTION:
            return _over(self._braced(), self._braced())
        if token.kind is not Kind.NUMBER or token.value is None:
            raise _UnreadableError
        # `(3,5)` is a pair.
        if token.comma_decimal and self._depth:
            raise _UnreadableError
        return token.value

    def _braced(self) -> Fraction:
        token = self._peek()
        if token is None or token.text != "{":
            raise _UnreadableError
        return self._group()

    def _group(self) -> Fraction:
        """Return the value of what stands in brackets."""
        opening = self._take(Kind.OPEN)
        assert opening is not None
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _UnreadableError
        value = self._scaled()
        is_percent = self._take(Kind.PERCENT) is not None
        closing = self._take(Kind.CLOSE)
        if closing is None or (opening.text, closing.text) not in _PAIRS:
            raise _UnreadableError
        # `(50%)` is a number; of `(50%)/2` it would have to be worked out what is meant.
        if is_percent and any(
            token.text in _REST_OF_ARITHMETIC for token in self._tokens
        ):
            raise _UnreadableError
        self._depth -= 1
        return value

    def _signed(self, magnitude: Callable[[], Fraction]) -> Fraction:
        if self._take_operator("-"):
            return -magnitude()
        self._take_operator("+")
        return magnitude()

    def _peek(self) -> Token | None:
        if self._position == len(self._tokens):
            return None
        return self._tokens[self._position]

    def _take(self, kind: Kind) -> Token | None:
        token = self._peek()
        if token is None or token.kind is not kind:
            return None
        self._position += 1
        return token

    def _take_operator(self, sign: str) -> bool:
        token = self._peek()
        is_sign = (
            token is not None and token.kind is Kind.OPERATOR and token.text == sign
        )
        if is_sign:
            self._position += 1
        return is_sign


def _over(numerator: Fraction, denominator: Fraction) -> Fraction:
    if not denominator:
        raise _UnreadableError
    return numerator / denominator


def _power_of(base: Fraction, exponent: Fraction) -> Fraction:
    """Return base^exponent for a whole exponent whose result has a bounded number of digits."""
    if exponent.denominator != 1 or (not base and exponent <= 0):
        raise _UnreadableError
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_POWER_BITS:
        raise _UnreadableError
    return base ** int(exponent)
