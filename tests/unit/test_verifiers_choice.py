"""The option that an answer names, however it is wrapped; two options, or a mere word, are none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.rows import Prompt, prompt_id
from components.verifiers import answer_key, reference_answer, verify
from components.verifiers.choice import group_keys

NAMES_B = [
    "B",
    "b",
    "B.",
    "B,",
    "B:",
    "B)",
    "(B)",
    "(b)",
    "[B]",
    "{B}",
    "“B”",
    "'B'",
    "`B`",
    "*B*",
    "**B**",
    "__B__",
    "**(B)**",
    "**B.**",
    "(**B**)",
    "B) Paris",
    "(B) Paris",
    "B. Paris",
    "B: Paris",
    "B - Paris",
    "**B) Paris**",
    "(B) Paris. (A) is London.",
    "B) vitamin C",
    "Option B",
    "option (b)",
    "Choice: B",
    "Answer: B",
    "**Answer:** B",
    "Answer:\n\n**B**",
    "The correct option is B",
    "The answer is B",
    "The answer is b.",
    "The answer is (B).",
    "The answer is: B",
    "The answer is 'B'",
    "the answer is option B",
    "The correct answer is **B**",
    "The correct answer is **B) Paris**",
    "The answer is B, not A",
    "The answer is B because it is larger.",
    "The answer is B. I hope that this answer is right.",
    "The answer is B) Paris. A) is wrong.",
    r"\boxed{B}",
    r"$\boxed{\text{B}}$",
    r"\boxed{\textbf{(B)}\ Paris}",
    r"\boxed{\mathrm{B}}",
    r"The final answer is $\boxed{B}$.",
    r"$\text{B}$",
    r"\(B\)",
    "<answer>B</answer>",
    "<answer> **B** </answer>",
    "<answer>The answer is B</answer>",
    "#### B",
    "#### Step 1: look\n#### B",
    "B because it is larger",
    "B is correct",
    "B is the answer",
    "B\n\nBecause (A) is too small.",
    "Let me think.\nB",
    "I choose (B)",
    "I choose B.",
    "I would go with option B.",
    "Option A is wrong. Option B is right.",
    "(A) is too small. So (B).",
    "Not (A), so (B).",
    "<think>The answer is A</think>B",
    "The answer is A</think>The answer is B",
    "\ufeffB",
    "\u200bB\u200b",
    "Ｂ",
    "（B）",
    "Ｂ！",
    "Let me think.\nSo I choose (B).",
    "B) Paris\nIt lies on the Seine.",
    "The answer is B I hope",
    "The answer is (B) Paris, so it is (B)",
    r"\boxed{\textbf{\mathrm{\text{B}}}}",
    "#### B\n####",
    "#### \\boxed{B}\nAt first I had \\boxed{A}.",
    "#### C major\nIt is (B)",
]
NAMES_NONE = [
    "",
    "Bob",
    "A better one",
    "The answer is A better one",
    "I don't know",
    "I don’t know.",
    "The answer is I don't know",
    "I am not sure",
    "I think so",
    "A and B",
    "A or B",
    "A & B",
    "A/B",
    "A, B",
    "**A** and **B**",
    "(A) and (B)",
    "Both A and B",
    "neither A nor B",
    "The answer is A and B",
    "The answer is either A or B",
    "The answer is not (B)",
    r"\boxed{A, B}",
    r"\boxed{\text{A and B}}",
    "<answer>A and B</answer>",
    "A) Paris or B) London",
    "A) Paris B) London C) Rome",
    "A) Paris\nB) London",
    "A\nB",
    "I choose (B) over (A)",
    "Option A is better than option B",
    "<think>B",
    "C major is the key",
    "The answer is C. Or the answer is that option A beats option B.",
    "N/A",
    "none",
    "\ud83d",
]


def question(answer: str) -> Prompt:
    return Prompt(
        id=prompt_id("?"), text="?", verifier="choice", reference={"answer": answer}
    )


@pytest.mark.parametrize("text", NAMES_B)
def test_an_option_is_found_in_every_wrapper(text: str) -> None:
    assert verify(question("B"), text)
    assert verify(question("(B) Paris"), text)
    assert answer_key(question("B"), text) == "B"
    for other in "ACI":
        assert not verify(question(other), text)


@pytest.mark.parametrize("text", NAMES_NONE)
def test_two_options_or_a_word_are_no_option(text: str) -> None:
    for letter in "ABCIN":
        assert not verify(question(letter), text), letter
    assert answer_key(question("B"), text) not in {"A", "B", "C", "I", "N"}


@pytest.mark.parametrize(
    "text", ["A and B", "The answer is A or B", "I don't know", "not sure"]
)
def test_what_names_no_option_does_not_vote(text: str) -> None:
    assert answer_key(question("B"), text) == ""


@pytest.mark.parametrize(
    ("letter", "text"),
    [
        ("A", "A"),
        ("A", "The answer is A."),
        ("A", "The answer is A because it is larger"),
        ("I", "I"),
        ("I", "(I)"),
        ("D", "(D) Both (A) and (B)"),
        ("D", "D) Both A and C"),
    ],
)
def test_letters_that_are_words_and_options_about_options_are_named(
    letter: str, text: str
) -> None:
    assert verify(question(letter), text)


@pytest.mark.parametrize(
    ("reference", "text", "right"),
    [
        ("yes", "**Yes**", True),
        ("yes", r"\boxed{\text{Yes}}", True),
        ("yes", "The answer is **yes**.", True),
        ("yes", "no", False),
        ("(B) Paris", "paris", True),
        ("(B) Paris", "The answer is Paris. It lies on the Seine.", True),
        ("(B) Paris", "<answer>Paris</answer>", True),
        ("(B) Paris", "London", False),
        ("(B) café", "cafe\u0301", True),
        ("B", "Paris", False),
        ("", "", False),
    ],
)
def test_an_option_may_be_named_by_its_text(
    reference: str, text: str, right: bool
) -> None:
    assert verify(question(reference), text) is right


def test_a_hint_states_the_option_and_its_text() -> None:
    assert reference_answer(question("The answer is **(B) Paris**")) == "(B) Paris"


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        alphabet=st.one_of(
            st.sampled_from("ABCabI ()[].,:*_`$\\{}\n'"),
            st.sampled_from(list("answerisoptionboxedtext")),
            st.characters(),
        ),
        max_size=80,
    )
)
def test_no_text_makes_the_verifier_raise(text: str) -> None:
    for reference in ("B", text):
        verify(question(reference), text)
    answer_key(question("B"), text)


@pytest.mark.parametrize(
    "piece",
    [
        "(A) and ",
        "A) ",
        "option B ",
        "The answer is B ",
        r"\text{",
        "**",
        "A\n",
        "B. ",
        "not (A) ",
        "; ",
    ],
)
def test_the_verifier_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    begun = time.process_time()
    verify(question("B"), text)
    answer_key(question("B"), text)
    assert time.process_time() - begun < 10


def test_what_stands_behind_the_last_mark_is_the_statement_whatever_it_says() -> None:
    unclear = "The answer is A.\n#### so it is that"
    assert not verify(question("A"), unclear)
    assert verify(question("A"), "#### Step 2\nThe answer is A.")
    assert verify(question("B"), "The answer is A.\n#### B\nas I said")


def test_of_two_statements_the_last_one_is_the_answer() -> None:
    text = "The answer is London. No, the answer is Paris."
    assert verify(question("(B) Paris"), text)
    assert not verify(question("(A) London"), text)


def test_an_option_that_is_only_talked_about_leaves_the_text_as_the_vote() -> None:
    assert answer_key(question("B"), "It might be (B).\nBut who knows") != ""


def test_the_text_of_an_option_votes_for_the_letter_that_other_answers_give_it() -> (
    None
):
    assert group_keys(["B", "B) Paris", "Paris", "C) Rome", "London"]) == [
        "B",
        "B",
        "B",
        "C",
        "london",
    ]
    # Two letters for one text contradict each other.
    assert group_keys(["A) Paris", "B) Paris", "Paris"]) == ["A", "B", "paris"]
