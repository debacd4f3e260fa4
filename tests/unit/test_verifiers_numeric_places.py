"""Where the number of an answer stands: stated at the end, never a piece of something else."""

from __future__ import annotations

import re
import time

import pytest

from components.verifiers import answer_key, final_number, verify
from components.verifiers.number_reader import MAX_CHARACTERS, last_number, only_number
from tests.unit.numeric_answers import question, read_as, rows

PLACES = {
    "#### 72": "72",
    "####72": "72",
    "#### **72**": "72",
    "#### $72 (see step 2)": "72",
    "#### x = 6": "6",
    "#### 2 * 3 = 6": "6",
    "72 #### 71": "71",
    "so 6 * 7 = 42 #### 42 of 50": "42",
    "#### 7 #### 8": "8",
    "#### Step 1: add\n2+3=5\n#### Step 2: multiply\n5*4=20\nThe answer is 20.": "20",
    "#### 1. Add\n2+3=5\n#### 2. Multiply\nSo it is 20 apples.": "20",
    "#### 20\nI checked it in 3 steps.": "20",
    "She answers 5 of 12 questions, so 7 are left.": "7",
    "She answered 7 of 12 questions.": "7",
    "7 out of 12": "7",
    "She has 7, not 8.": "7",
    "It is 7 rather than 8.": "7",
    "The answer is not 5 but 7": "7",
    "The answer is that she answers 5 of 12, so 7.": "7",
    "The answer is 7, because 3 + 4 and not 2": "7",
    "The answer to question 5 is 20.": "20",
    "The answer is 20. I hope this answer helps all 3 of you.": "20",
    "The final answer is: 2 + 3 = 5": "5",
    "The answer is:\n\n$$\n20\n$$": "20",
    "**Answer:** 20": "20",
    "Answer: **20**": "20",
    "### Final Answer\n20": "20",
    "<think>maybe the answer is 12, hmm</think>18": "18",
    "maybe the answer is 12</think>\n18": "18",
    "18 <think>the answer is 12": "18",
    "<think>a <think>b</think> 12</think> 18": "18",
    "<answer>42</answer> since 6 * 7": "42",
    "<answer>1</answer> no, <ANSWER>\n42\n</ANSWER>": "42",
    "<answer>5 of 12, so 7</answer>": "7",
    r"\boxed{3} and then \boxed{x = 7} and 9 more words": "7",
    r"\boxed{7 \text{ apples}}": "7",
    r"the answer is 12, so \boxed{7}": "7",
    r"\boxed{\frac{\frac{1}{2}}{2}}": "1/4",
    r"\boxed{7} and \boxed{8": "7",
    r"\boxed 7": "7",
    "1. Add 2 and 3: 5\n2. So it is 7": "7",
    "- 5 apples\n- 6 pears": "6",
    "So the total is 20.\nStep 3: done.": "20",
    "In 2020, 5 people came.": "5",
    "seven (7)": "7",
    "48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72 clips.": "72",
    "5 apples + 3 pears = 8 fruits": "8",
    "5 = x": "5",
    "x ≈ 3.5": "7/2",
    "It's 5!": "5",
    "4\u200b2": "42",
    "\ufeff42": "42",
    "42 \ud83d": "42",
    "#### 20\n#### 1. Check it with 3 more": "20",
    "#### 7 apples and later 2 pears": "7",
    "The answer is clear. It is 7.": "7",
    "By plan B 5 apples are left": "5",
    "5 big red apples and 7": "7",
    "The answer is that she answers 5 of 12, so 7. It took 3 steps.": "7",
    "It is 1/2 - that is a lot": "1/2",
    "1^{4000}": "1",
    "(" * 12 + "5" + ")" * 12: "5",
}
NO_NUMBER = [
    r"\boxed{3\sqrt{2}}",
    r"3\sqrt2",
    "2√3",
    r"\sqrt{16}",
    "the square root of 16",
    r"2\pi",
    "3π",
    r"\frac{2\pi}{3}",
    r"\frac{\sqrt{3}}{2}",
    r"\frac{x}{2}",
    "x/2",
    "5x",
    r"\boxed{5 n}",
    "5ab",
    "2x + 1",
    "x - 5",
    "x-5",
    "x^2",
    "x^{10}",
    "e^2",
    "5i",
    "2+3i",
    "f(5)",
    "log(5)",
    r"\sin(30)",
    r"\log_2 8",
    r"\boxed{5!}",
    "$5!$",
    "2 + 3",
    "2 * 3",
    r"2 \times 3",
    "3 x 4",
    "3 by 4",
    "5 plus 3",
    "5 times 7",
    "12 ÷ 4",
    "5-3",
    r"3 \cdot 2^{10}",
    "5 kg + 3 kg",
    "5 kg - 3 kg",
    "total - 5",
    r"\pm 5",
    "5 ± 1",
    "3 to 5",
    "between 3 and 5",
    "x = 5 and y = 7",
    "3 or 5",
    "3, 4, 5",
    "The answer is 3, 4",
    "The answer is 5 apples and 7 pears",
    r"\boxed{3, 4}",
    r"\boxed{x = 3, y = 4}",
    "(3, 4)",
    "(3,4)",
    r"\{1,2\}",
    "[3, 5)",
    "x > 5",
    r"x \geq 5",
    "12 = 3x",
    "2 + 3 = ?",
    "14:30",
    "at 12:30:45",
    "3 : 4",
    "14h30",
    "2024-05-01",
    "1.2.3",
    "5'6\"",
    "5 feet 6 inches",
    "101_2",
    "0x1F",
    "3.14159...",
    "5 squared",
    "50% of 20",
    "(50%)/2",
    r"\frac{1}{50\%}",
    "50% - 10%",
    "1,2,3",
    "1,234,56",
    "7 2",
    "1/0",
    "1/2/3",
    r"1\frac{3}{2}",
    "2^{1/2}",
    "9^{9^{9}}",
    "10^{1000000}",
    "1e4000",
    "0^{-1}",
    "9" * 500,
    "half a million",
    "5k",
    "COVID-19",
    "1 1.5/2",
    "- 5 apples\n- 9 - 2",
    "5 red apples and 7",
    "3、4",
    "∞ 5",
    "1^{4001}",
    "(" * 13 + "5" + ")" * 13,
    "<think>12",
    r"\boxed{\text{none}} of the 5",
    "####",
    "I don't know",
    "",
]


@rows(PLACES)
def test_the_final_answer_is_looked_for_where_it_is_stated(
    text: str, value: str
) -> None:
    read_as(text, value)


@pytest.mark.parametrize("text", NO_NUMBER)
def test_what_is_no_plain_number_is_no_answer_and_neither_is_a_piece_of_it(
    text: str,
) -> None:
    assert final_number(text) is None
    assert answer_key(question("1"), text) == ""
    for digits in {"0", *re.findall("[0-9]+", text)}:
        assert not verify(question(digits), text)


PIECES = [
    *"1({[}^-+*/=%'!:;~_&|½²e\\#x",
    *(
        "1,",
        "1.",
        "1 234 ",
        "1^",
        "1/",
        "1=",
        "1e",
        "1_",
        "1!",
        "1:",
        "- ",
        "** ",
        "...",
        "<<",
        "<a",
    ),
    *(
        r"\frac{",
        r"\frac1",
        r"\text{",
        r"\left(",
        r"1\frac12",
        r"0.\overline{3",
        r"\boxed{",
    ),
    *(
        "1 and ",
        "1 or ",
        "minus ",
        "not 1, ",
        "step 1 ",
        "5 kg + ",
        "1 million ",
        "ab-",
        "a 5 ",
    ),
    *(
        "answer ",
        "answer to ",
        "answer is ",
        "answer is x ",
        "<answer>",
        "<think>",
        "</think>",
    ),
    *(
        "####1\n",
        "1\n",
        "\n- 1",
        "\n1. ",
        "e\u0301",
        "\u0301\u0316",
        "\u200d",
        "\ud83d",
    ),
]


@pytest.mark.parametrize("piece", PIECES)
def test_the_reader_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    begun = time.process_time()
    for adversary in (text, f"{text} 1", f"1 {text}"):
        final_number(adversary)
        last_number(adversary)
        only_number(adversary)
        verify(question("1"), adversary[:20_000])
    assert time.process_time() - begun < 15


def test_a_line_of_any_length_is_read_up_to_a_limit() -> None:
    assert only_number("3" + " apples" * MAX_CHARACTERS) is None
    number = final_number("#### 3" + " apples" * MAX_CHARACTERS)
    assert number is not None
    assert number.value == 3


def test_a_box_needs_no_braces_around_one_character() -> None:
    number = final_number(r"So it is \boxed 5")
    assert number is not None
    assert number.value == 5
