"""Numbers drawn at random are read from every notation, and no text makes the reader raise."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from components.verifiers import answer_key, final_number, verify
from components.verifiers.number_reader import only_number
from tests.unit.numeric_answers import question


def sign_of(value: Fraction) -> str:
    return "-" if value < 0 else ""


def grouped(value: int, separator: str) -> str:
    return f"{value:,}".replace(",", separator)


WHOLE_NOTATIONS = [
    lambda value: str(value),
    lambda value: f"{value:,}",
    lambda value: grouped(value, "{,}"),
    lambda value: grouped(value, r"\,"),
    lambda value: grouped(value, " "),
    lambda value: grouped(value, "\u202f"),
    lambda value: grouped(value, "'"),
    lambda value: f"{value}.00",
    lambda value: f"\\frac{{{2 * value}}}{{2}}",
    lambda value: rf"{value} \times 10^0",
    lambda value: f"{value}e0",
    lambda value: f"{100 * value}" + r"\%",
    lambda value: f"\\text{{{value}}}",
    lambda value: f"({value})",
]
WRAPPERS = [
    "{}",
    "**{}**",
    "${}$",
    r"\({}\)",
    r"so it is \boxed{{{}}}",
    "#### {}",
    "<answer>{}</answer>",
    "The answer is {}.",
    "The answer is: **{}** dollars, as 3 + 4 = 7",
    "2 + 2 = 4, so x = {}",
    "<think>9 or 8</think>\n{}",
    "{} km^2",
    r"\boxed{{{} \text{{ cm}}^3}}",
]


@settings(max_examples=400, deadline=None)
@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(WHOLE_NOTATIONS),
    st.sampled_from(WRAPPERS),
    st.sampled_from(["-", "−", "–", "- "]),
)
def test_a_whole_number_is_read_from_every_notation(
    value: int, notation: object, wrapper: str, minus: str
) -> None:
    assert callable(notation)
    text = wrapper.format(notation(value).replace("-", minus, 1))
    number = final_number(text)
    assert number is not None, text
    assert (number.value / 100 if number.is_percent else number.value) == value, text
    assert answer_key(question("1"), wrapper.format(value)) == str(value)


FRACTION_NOTATIONS = [
    lambda value: f"{value.numerator}/{value.denominator}",
    lambda value: f"{value.numerator} / {value.denominator}",
    lambda value: f"\\frac{{{value.numerator}}}{{{value.denominator}}}",
    lambda value: f"\\dfrac{{{-value.numerator}}}{{-{value.denominator}}}",
    lambda value: (
        f"{sign_of(value)}\\tfrac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    ),
    lambda value: f"({value.numerator})/({value.denominator})",
    lambda value: f"\\left(\\frac{{{value.numerator}}}{{{value.denominator}}}\\right)",
    lambda value: f"\\frac{{{value.numerator}}}{{{value.denominator}}} = {value}",
]


@settings(max_examples=400, deadline=None)
@given(
    st.fractions(max_denominator=999),
    st.sampled_from(FRACTION_NOTATIONS),
    st.sampled_from(WRAPPERS),
)
def test_a_fraction_is_read_from_every_notation(
    value: Fraction, notation: object, wrapper: str
) -> None:
    assert callable(notation)
    text = wrapper.format(notation(value))
    number = final_number(text)
    assert number is not None, text
    assert number.value == value, text


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 10**6),
    st.integers(1, 98),
    st.integers(2, 99),
    st.sampled_from(["", "-"]),
    st.sampled_from(WRAPPERS),
)
def test_a_mixed_number_is_the_sum_of_its_parts(
    whole: int, numerator: int, denominator: int, sign: str, wrapper: str
) -> None:
    value = (whole + Fraction(numerator, denominator)) * (-1 if sign else 1)
    for written in (
        f"{sign}{whole} {numerator}/{denominator}",
        f"{sign}{whole}\\frac{{{numerator}}}{{{denominator}}}",
    ):
        number = final_number(wrapper.format(written))
        if numerator < denominator:
            assert number is not None, written
            assert number.value == value
        else:
            assert number is None, written


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(-30, 30), st.integers(0, 6))
def test_a_decimal_is_read_from_every_notation(
    digits: int, exponent: int, places: int
) -> None:
    value = Fraction(digits, 10**places) * Fraction(10) ** exponent
    mantissa = f"{sign_of(Fraction(digits))}{abs(digits) // 10**places}"
    if places:
        mantissa += f".{abs(digits) % 10**places:0{places}}"
    for text in (
        f"{mantissa}e{exponent}",
        f"{mantissa}E{exponent:+}",
        rf"{mantissa} \times 10^{{{exponent}}}",
        f"{mantissa}*10^{exponent}",
        f"{mantissa} x 10^{exponent}",
        f"{mantissa}×10**{exponent}",
    ):
        number = final_number(text)
        assert number is not None, text
        assert number.value == value, text


@settings(max_examples=500, deadline=None)
@given(
    st.text(
        alphabet=st.one_of(
            st.sampled_from("0123456789.,-+/*^%$eE#x{}()[]\\=<>!:;_'~|& \n½²−–×·√π"),
            st.sampled_from(list("boxedfracanswertextthink")),
            st.characters(),
        ),
        max_size=120,
    )
)
def test_no_text_makes_the_reader_raise(text: str) -> None:
    final_number(text)
    only_number(text)
    verify(question(text or "1"), text)
