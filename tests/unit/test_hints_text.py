"""The text of a hint: its template, the answer in it, and the words that give it away."""

from __future__ import annotations

import pytest

from components.contracts.recipe import Hints, SelectSection
from components.contracts.rows import Prompt
from components.errors import UserError
from components.generate.hint_prompts import hinted
from components.select.filters.hint_leaks import own_words
from components.verifiers import reference_answer
from tests.unit.crafted import ask as ask_exactly
from tests.unit.crafted import recipe_of
from tests.unit.hinted import TEMPLATE, ask


def test_what_gives_a_hint_away_is_its_own_words() -> None:
    assert own_words("{prompt}\n(Hint: {answer})") == ["hint", ")"]
    assert own_words(TEMPLATE) == ["(", ")"]
    assert own_words("Knowing that it is {answer}, {prompt}") == [
        "knowing that it is",
        ",",
    ]
    assert "a derivation it comes" in own_words(Hints().template)


def test_hints_need_a_verifier_and_a_template_with_both_places() -> None:
    with pytest.raises(
        UserError, match=r"generate.hints needs `select.verifier: true`"
    ):
        recipe_of(generate={"hints": {}}, select={"verifier": False})
    for template in (
        "{prompt}",
        "the answer is {answer}",
        "{prompt} {answer} {answer}",
    ):
        with pytest.raises(
            UserError,
            match=r"generate.hints.template: must hold \{(prompt|answer)\} once",
        ):
            recipe_of(generate={"hints": {"template": template}})
    assert SelectSection().verifier


def test_a_hint_is_put_together_from_text_alone() -> None:
    odd = ask_exactly("what is {answer}? {0.__class__}", "{prompt}")
    assert (
        hinted(odd, "{answer}: {prompt}").text
        == "{prompt}: what is {answer}? {0.__class__}"
    )
    assert hinted(odd, TEMPLATE).id == odd.id


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (ask("2+2=", " 4 "), "4"),
        (ask("2+2=", "two and two make 4\n#### 4"), "4"),
        (ask("x", "is 7 %"), "7%"),
        (ask("2+2=", "so the answer is $1,200."), "1200"),
        (ask("x", "none"), ""),
        (
            Prompt(
                id="a",
                text="x",
                verifier="choice",
                reference={"answer": "so #### (B) a cart"},
            ),
            "(B) a cart",
        ),
        (
            Prompt(
                id="a",
                text="x",
                verifier="math",
                reference={"answer": "thus \\boxed{x^2}"},
            ),
            "x^2",
        ),
        (Prompt(id="a", text="4711=", verifier="task/reverse"), "1174"),
        (
            Prompt(
                id="a",
                text="x",
                verifier="reasoning_gym",
                reference={"name": "gcd", "entry": {"answer": "6"}},
            ),
            "6",
        ),
        (Prompt(id="a", text="x", verifier="regex", reference={"answer": "a|b"}), ""),
        (Prompt(id="a", text="x", verifier="exact"), ""),
        (ask("0*1=", "0"), "0"),
    ],
)
def test_the_answer_of_a_hint_is_the_one_the_verifier_holds(
    prompt: Prompt, answer: str
) -> None:
    assert reference_answer(prompt) == answer
