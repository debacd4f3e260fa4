"""The firewall of select: a question of an evaluation never teaches, nor does its answer."""

from __future__ import annotations

import pytest

from components.select.scored_samples import ScoredSample
from tests.unit.crafted import ask
from tests.unit.selections import (
    LABEL_FREE,
    answers,
    kept_texts,
    reasons,
    select,
    with_settings,
)

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def asked(text: str) -> list[ScoredSample]:
    return answers(ask(text, "72"), "She sold 72.")


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        QUESTION.upper().replace(",", " ;"),
        QUESTION.replace("Natalia", "Weng"),
        f"Please solve this carefully. {QUESTION} Think step by step.",
        QUESTION.replace("friends", "pals").replace("altogether", "in total"),
    ],
)
def test_a_reworded_evaluation_question_never_teaches_where_the_firewall_is_asked_to_look(
    text: str,
) -> None:
    evaluation = [(ask(QUESTION, "72"), "She sold 48/2 = 24 clips in May.")]
    section = with_settings(contamination="overlap")
    assert reasons(select(asked(text), section, evaluation=evaluation)) == {
        "in_evaluation": 1
    }
    # Without, other words are another question.
    whole = "atalia" in text.lower() and "pals" not in text
    assert (
        reasons(select(asked(text), LABEL_FREE, evaluation=evaluation))
        == {"in_evaluation": 1}
    ) is whole


def test_the_answer_of_an_evaluation_item_is_no_training_text_either() -> None:
    solution = "She sold 48 divided by 2 which is 24 clips in May so 48 plus 24 is 72 clips altogether"
    leaked = answers(
        ask("Tell me about clips.", "?"),
        f"Well: {solution}.",
        "No idea about any clips.",
    )
    outcome = select(
        leaked,
        with_settings(contamination="overlap"),
        evaluation=[(ask(QUESTION, "72"), solution)],
    )
    assert kept_texts(outcome) == ["No idea about any clips."]


def test_other_questions_and_those_of_a_shared_template_pass_the_firewall() -> None:
    template = "Find the greatest common divisor of two whole numbers and give nothing but the answer as a numeral: {}"
    evaluation = [
        (ask(template.format(f"{n} and {n + 7}"), "1"), "1") for n in range(100, 120)
    ]
    other = ask(
        "A farmer has 12 cows and buys 5 more at the market on Monday. How many cows does he have now?",
        "17",
    )
    outcome = select(
        answers(other, "17"),
        with_settings(contamination="overlap"),
        evaluation=evaluation,
    )
    assert reasons(outcome) == {}
    short, like = answers(ask("12+35=", "47"), "47"), [(ask("12+34=", "46"), "46")]
    assert (
        reasons(select(short, with_settings(contamination="overlap"), evaluation=like))
        == {}
    )


@pytest.mark.parametrize(("items", "dropped"), [(9, {"in_evaluation": 1}), (10, {})])
def test_a_run_of_words_that_ten_evaluation_items_share_is_their_template(
    items: int, dropped: dict[str, int]
) -> None:
    run = "give the answer as one whole number with nothing before it or after it"
    evaluation = [
        (ask(f"Item {'abcdefghijk'[n] * 9}: {run}", "1"), "1") for n in range(items)
    ]
    outcome = select(
        answers(ask("Say something of your own.", "?"), f"They say: {run}."),
        with_settings(contamination="overlap"),
        evaluation=evaluation,
    )
    assert reasons(outcome) == dropped


def test_thirteen_words_in_a_row_are_needed_and_enough() -> None:
    question = (
        "Tell: the quick brown fox jumps over the lazy dog near a calm river bank"
    )
    words = question.split()[1:]
    evaluation = [(ask(question, "?"), "1")]
    section = with_settings(contamination="overlap")
    for count, kept in ((12, 1), (13, 0)):
        text = " ".join(["I", "like", *words[:count], "much"])
        outcome = select(
            answers(ask("Say something.", "?"), text), section, evaluation=evaluation
        )
        assert len(outcome[0]) == kept
