"""Questions whose answer is a number, and what a text is read as."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from components.contracts.rows import Prompt, prompt_id
from components.verifiers import final_number, verify


def question(answer: str) -> Prompt:
    return Prompt(
        id=prompt_id("?"),
        text="?",
        verifier="numeric",
        reference={"answer": str(answer)},
    )


def rows(table: dict[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("text", "value"), table.items())


def read_as(text: str, value: str) -> None:
    """The text is this number, and no run of digits in it is the answer in its place."""
    number = final_number(text)
    assert number is not None, text
    assert number.value == Fraction(value)
    assert verify(question(str(Fraction(value))), text)
    assert not verify(question(str(-Fraction(value) or "1")), text)
    for digits in set(re.findall("[0-9]+", text)):
        if abs(Fraction(digits)) not in (abs(number.value), abs(number.value) / 100):
            assert not verify(question(digits), text), digits
