"""Errors of numeric answers, and the gains of one model over another that they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from components.contracts.rows import Prompt
from components.verifiers import final_number

# Its square, and the sum of many, must still be finite numbers.
_LARGEST_ERROR = 1e100
"""An answer that is farther off counts as no number."""

CLIPPED_AT = 0.95
"""Share of a model's wrong numbers whose errors count in full; larger errors count like the largest
of these (winsorizing). Where two models are compared, both by the champion's."""


def error_of(prompt: Prompt, text: str) -> float | None:
    """Return answer minus reference of a numeric prompt; None if the answer holds no number.

    50% counts as 0.5.
    """
    if prompt.verifier != "numeric":
        return None
    # Exact fractions: the error of a right answer is 0 and not the last digit of a float.
    answer = _value(text)
    reference = _value(str(prompt.reference.get("answer", "")))
    if answer is None or reference is None or abs(answer - reference) > _LARGEST_ERROR:
        return None
    return float(answer - reference)


def error_gains(
    errors: Sequence[tuple[float | None, float | None]],
) -> tuple[list[float], float]:
    """Return the champion's absolute error minus the candidate's, of each prompt, and the largest
    error that counts.

    Errors are clipped at the percentile CLIPPED_AT of the champion's errors, right answers left
    out. An answer that is no number counts as an error of that size.

    Args:
        errors: (error of the champion, error of the candidate) of each prompt; None: no number.
    """
    # A single answer of 1e99 would decide the mean of a thousand, whichever model it is of.
    # By the champion's errors alone: a bound that the candidate moves would follow its luck.
    largest_error = (
        largest_counted(old for old, _ in errors)
        or largest_counted(new for _, new in errors)
        or 1.0
    )

    def absolute_error(error: float | None) -> float:
        # Counted as no error, silence would be the way to win.
        return largest_error if error is None else min(abs(error), largest_error)

    gains = [absolute_error(old) - absolute_error(new) for old, new in errors]
    return gains, largest_error


def largest_counted(errors: Iterable[float | None]) -> float | None:
    """Return the size of the error at the percentile CLIPPED_AT of those that are not 0, or None."""
    sizes = sorted(abs(error) for error in errors if error)
    return sizes[max(0, math.floor(CLIPPED_AT * len(sizes)) - 1)] if sizes else None


def _value(text: str) -> Fraction | None:
    number = final_number(text)
    if number is None:
        return None
    value, is_percentage = number
    return value / 100 if is_percentage else value
