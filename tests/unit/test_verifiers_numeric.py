"""Every notation of a number is that number: signs, thousands, fractions, powers, units."""

from __future__ import annotations

import pytest

from components.verifiers import reference_answer, verify
from components.verifiers.numeric import group_keys
from tests.unit.numeric_answers import question, read_as, rows

SIGNS = {
    "x = - 5": "-5",
    "x = –5": "-5",
    "x = −5": "-5",
    "x=-5": "-5",
    "x = —5": "-5",
    "- 5": "-5",
    "−\u00a05": "-5",
    "The answer is - 5.": "-5",
    "The temperature is -5 degrees": "-5",
    r"\boxed{-\$5}": "-5",
    r"\boxed{\$-5}": "-5",
    "-$1,450.00": "-1450",
    "A loss of - $4": "-4",
    "it is -€5": "-5",
    r"\frac{1}{-2}": "-1/2",
    r"\frac{-1}{2}": "-1/2",
    r"\frac{-1}{-2}": "1/2",
    r"-\frac12": "-1/2",
    r"-\,\frac12": "-1/2",
    r"-1\frac12": "-3/2",
    "−½": "-1/2",
    "1/-2": "-1/2",
    "-.5": "-1/2",
    "-5%": "-5",
    "(-5)": "-5",
    "-(5)": "-5",
    "-(-5)": "5",
    r"\left(-5\right)": "-5",
    r"-\text{5}": "-5",
    r"\text{minus }5": "-5",
    "minus 5": "-5",
    "The answer is negative 5": "-5",
    "Answer: – 5": "-5",
    "The change is 3 − 8 = −5": "-5",
    "x → -5": "-5",
    "+5": "5",
    "10-7=3": "3",
    "x = 10 - 13 = -3": "-3",
    "#### -3": "-3",
    "-2^2": "-4",
    "(-2)^2": "4",
}
THOUSANDS = {
    r"\boxed{10{,}000}": "10000",
    r"\boxed{10\,000}": "10000",
    r"10\ 000": "10000",
    r"10,\!000": "10000",
    "10~000": "10000",
    "10 000": "10000",
    "10\u202f000": "10000",
    "10\u00a0000": "10000",
    "10'000": "10000",
    "10’000.50": "20001/2",
    "10_000": "10000",
    r"1{,}234{,}567": "1234567",
    "1,234,567.89": "123456789/100",
    "1.234.567": "1234567",
    "1.234.567,89": "123456789/100",
    "1.234,5": "2469/2",
    "1 234,5": "2469/2",
    "12,34,567": "1234567",
    "1.234": "617/500",
    "1,234": "1234",
    "3,5": "7/2",
    "0,125": "1/8",
    "１２３": "123",
    "٤٢": "42",
}
FRACTIONS = {
    r"\boxed{\frac12}": "1/2",
    r"\frac1{2}": "1/2",
    r"\frac{1}2": "1/2",
    r"\frac 34": "3/4",
    r"\dfrac{3}{4}": "3/4",
    r"\tfrac{3}{4} cups": "3/4",
    r"\frac{1.5}{1}": "3/2",
    r"\frac{\frac12}{3}": "1/6",
    r"\frac{10^3}{2}": "500",
    "½": "1/2",
    "⅔": "2/3",
    "1½": "3/2",
    "1 ½ cups": "3/2",
    "1 1/2": "3/2",
    "1 and 1/2": "3/2",
    "2 and a half": "5/2",
    r"1\frac12": "3/2",
    r"\boxed{1\frac{1}{2}}": "3/2",
    "1⁄2": "1/2",
    "22 / 7": "22/7",
    "(1)/(2)": "1/2",
    r"\left(\frac12\right)^3": "1/8",
    "1/2 = 0.5": "1/2",
    r"0.\overline{3}": "1/3",
    r"0.1\overline{6}": "1/6",
}
POWERS = {
    r"1.5 \times 10^3": "1500",
    r"1.5\times10^{3}\text{ m}": "1500",
    r"1.5 \cdot 10^{-3}": "3/2000",
    "1.5 × 10³": "1500",
    "1.5×10⁻³": "3/2000",
    "1.5x10^3": "1500",
    "1.5 x 10^3": "1500",
    "1.5*10^3": "1500",
    "1.5 * 10 ** 3": "1500",
    "-1.5 × 10^(3)": "-1500",
    "1.5e3": "1500",
    "1.5E+3": "1500",
    "1e-3": "1/1000",
    "10^{-3}": "1/1000",
    r"\boxed{2^{10}}": "1024",
    "2^10": "1024",
    "2**10": "1024",
    "2¹⁰": "1024",
    "2^{-3}": "1/8",
    "2^{10} - 1 = 1023": "1023",
}
PERCENTAGES_AND_WORDS = {
    "50%": "50",
    "50 %": "50",
    r"\boxed{50\,\%}": "50",
    "12.5 percent.": "25/2",
    "50 per cent": "50",
    "50% of 20 = 10": "10",
    "(50%)": "50",
    "-(50%)": "-50",
    r"\frac{1}{2}\%": "1/2",
    "1 million": "1000000",
    "$2.5 million": "2500000",
    "2 and a half million dollars": "2500000",
    "3 hundred thousand": "300000",
    r"\boxed{5 \text{ million}}": "5000000",
    "1/2 million": "500000",
    "2 thirds": "2/3",
}
UNITS = {
    "42 km^2": "42",
    "42 km²": "42",
    "42 km$^2$": "42",
    "42 cm2": "42",
    "42cm2": "42",
    "1,000 m2": "1000",
    r"18\ \mathrm{m}^{3}": "18",
    r"5 \mathrm{~cm}^{2}": "5",
    r"\boxed{42\text{ km}^2}": "42",
    r"\boxed{5 \, m^3}": "5",
    "9.8 m/s^2": "49/5",
    "5 g cm^{-3}": "5",
    r"5 \frac{m}{s}": "5",
    r"5 \frac{\text{km}}{\text{h}}": "5",
    "5 W/m^2": "5",
    "5 kg·m/s^2": "5",
    "5 CO2": "5",
    "5 H2O molecules": "5",
    "30°": "30",
    r"\boxed{30^\circ}": "30",
    "-20 °C": "-20",
    "5kg": "5",
    "5m": "5",
    "$5/hour": "5",
    "5 km2.": "5",
    "the 5th": "5",
    r"2^{\text{nd}}": "2",
    "1 m^2 = 10000 cm^2": "10000",
    "答案是42。": "42",
    "42个": "42",
}


@rows(SIGNS)
def test_the_sign_counts_wherever_it_stands(text: str, value: str) -> None:
    read_as(text, value)


@rows(THOUSANDS)
def test_separators_of_thousands_are_read_where_they_are_clear(
    text: str, value: str
) -> None:
    read_as(text, value)


@rows(FRACTIONS)
def test_fractions_and_mixed_numbers_are_one_number(text: str, value: str) -> None:
    read_as(text, value)


@rows(POWERS)
def test_powers_and_scientific_notation_are_one_number(text: str, value: str) -> None:
    read_as(text, value)


@rows(PERCENTAGES_AND_WORDS)
def test_percentages_and_number_words_belong_to_their_number(
    text: str, value: str
) -> None:
    read_as(text, value)


@rows(UNITS)
def test_the_digits_of_a_unit_are_no_number(text: str, value: str) -> None:
    read_as(text, value)


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("0.5", "50%", True),
        ("0.5%", "50%", False),
        ("0.5%", "0.005", True),
        ("50%", "5000%", False),
    ],
)
def test_a_percentage_equals_its_share_and_its_count(
    reference: str, answer: str, right: bool
) -> None:
    assert verify(question(reference), answer) is right


def test_a_percentage_joins_the_share_that_it_is() -> None:
    assert group_keys(["50%", "1/2", "1/2"]) == ["1/2", "1/2", "1/2"]
    assert group_keys(["50%", "50", "50", "1/2"]) == ["50", "50", "50", "1/2"]
    assert group_keys(["50%", "5000"]) == ["50%", "5000"]
    assert group_keys(["7", "50%", "1/2", "50"]) == ["7", "1/2", "1/2", "50"]


@pytest.mark.parametrize(
    ("reference", "stated"),
    [
        ("48/2 = 24\n48+24 = 72\n#### 1,072", "1,072"),
        ("#### 5\n#### 6", "6"),
        (r"so \boxed{3/4}", "3/4"),
        ("#### 7 apples", "7"),
        ("It is 7.", "7"),
        ("I don't know", ""),
    ],
)
def test_a_hint_states_the_number_without_the_way_to_it(
    reference: str, stated: str
) -> None:
    assert reference_answer(question(reference)) == stated
