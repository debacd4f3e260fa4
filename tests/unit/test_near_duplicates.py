"""Which texts are told as near-duplicates: like ones go, templates and minimal pairs stay."""

from __future__ import annotations

import itertools
import random

import pytest

from components.contracts.recipe import SelectSection
from components.select.scored_samples import ScoredSample
from components.text_similarity import (
    NUM_PERMUTATIONS,
    jaccard,
    rows_per_band,
    shingles_of,
)
from tests.unit.crafted import ask
from tests.unit.made_up_text import sentence
from tests.unit.selections import LABEL_FREE, answers, reasons, select


def test_likeness_is_the_shared_part_of_all_shingles() -> None:
    one, two, none = frozenset("a"), frozenset("ab"), frozenset[str]()
    assert jaccard(one, one) == jaccard(two, two) == 1.0
    assert jaccard(one, two) == 0.5
    assert jaccard(one, frozenset("b")) == jaccard(one, none) == 0.0
    assert jaccard(none, none) == 0.0


def test_planted_near_duplicates_are_found_and_distinct_texts_stay() -> None:
    draw = random.Random(3)
    originals = [sentence(draw) for _ in range(60)]
    copies = [text.replace(" ", " very ", 1) for text in originals[:20]]
    samples = [
        one
        for n, text in enumerate(originals + copies)
        for one in answers(ask(f"story {chr(0x4E00 + n)}", "?"), text)
    ]
    kept, dropped = select(
        samples, LABEL_FREE.model_copy(update={"minhash_threshold": 0.8})
    )
    assert len(kept) == 60
    # Of each pair one stays, whichever has the smaller prompt id.
    pairs = {
        frozenset((original, copy))
        for original, copy in zip(originals, copies, strict=False)
    }
    left = {one.text for one in kept}
    assert all(len(pair & left) == 1 for pair in pairs)
    assert {row.reason for row in dropped} == {"near_duplicate"}
    shingles = [shingles_of(f"{one.prompt.text}\n{one.text}") for one in kept]
    assert max(jaccard(*pair) for pair in itertools.combinations(shingles, 2)) < 0.8, (
        "compared all with all"
    )


def test_problems_of_one_template_are_no_near_duplicates() -> None:
    draw = random.Random(1)
    samples: list[ScoredSample] = []
    for number in range(80):
        a, b = draw.randrange(10, 1000), draw.randrange(10, 1000)
        question = f"Find the Greatest Common Divisor of these numbers: {a}, {b}. Give only the GCD as your answer."
        samples += answers(ask(question, "?", task="gcd"), str(number % 9))
        word = "".join(draw.choices("abcdefghij", k=6))
        question = f"Spell this word backward (example: sun -> nus). Give only the word as your answer: {word}"
        samples += answers(ask(question, "?", task="spell"), word[::-1])
    assert (
        len(
            select(samples, LABEL_FREE.model_copy(update={"minhash_threshold": 0.8}))[0]
        )
        == 160
    )


@pytest.mark.parametrize(
    ("prompts", "sharing", "near_duplicates"),
    [
        (100, 20, 0),  # a fifth of all prompts: a template
        (100, 19, 18),  # fewer: the first stays, the others repeat it
        (30, 10, 0),
        (30, 9, 8),  # nearly a third, and yet too few to be sure
    ],
)
def test_text_is_a_template_if_a_fifth_and_at_least_ten_of_a_tasks_prompts_share_it(
    prompts: int, sharing: int, near_duplicates: int
) -> None:
    draw = random.Random(7)
    long = sentence(draw, 60).upper()
    texts = [f"{long} {sentence(draw, 2)}" for _ in range(sharing)]
    texts += [sentence(draw) for _ in range(prompts - sharing)]
    candidates = [
        one for text in texts for one in answers(ask(text, "?", task="story"), "yes")
    ]
    outcome = select(
        candidates, LABEL_FREE.model_copy(update={"minhash_threshold": 0.8})
    )
    assert reasons(outcome).get("near_duplicate", 0) == near_duplicates


@pytest.mark.parametrize(
    ("threshold", "rows", "missed_once_in"),
    [(0.8, 6, 500), (0.75, 6, 59), (0.74, 4, 60_000), (0.6, 4, 84), (0.59, 2, 1e11)],
)
def test_bands_are_as_wide_as_the_threshold_allows(
    threshold: float, rows: int, missed_once_in: float
) -> None:
    """Wide bands propose few pairs that are not alike; too wide ones miss some that are."""
    assert rows_per_band(threshold) == rows
    missed = (1 - threshold**rows) ** (NUM_PERMUTATIONS // rows)
    assert missed <= 1 / missed_once_in


def test_two_problems_that_differ_in_their_numbers_alone_are_no_near_duplicates() -> (
    None
):
    """Too few to know the template by: the numbers decide."""
    question = "A farmer sells {} eggs every morning at the market in the village and keeps the rest. How many in a week?"
    samples = [
        one
        for n in (3, 4)
        for one in answers(ask(question.format(n), "?"), "It depends on the hens.")
    ]
    assert (
        len(
            select(samples, LABEL_FREE.model_copy(update={"minhash_threshold": 0.8}))[0]
        )
        == 2
    )
    same = answers(
        ask(question.format(3), "?"),
        "It depends on the hens.",
        "It depends on the hens!",
    )
    assert (
        len(select(same, LABEL_FREE.model_copy(update={"minhash_threshold": 0.8}))[0])
        == 1
    )


MINIMAL_PAIRS = [
    (
        "Is it {}true that every natural number above one has a prime factor?",
        "",
        "not ",
        "yes",
        "no",
    ),
    (
        "Take the {} of the words in alphabetical order: pear, apple, quince, medlar, fig.",
        "first",
        "final",
        "apple",
        "quince",
    ),
    (
        "Does the moon {} the light of the sun at night? Say yes or no.",
        "reflect",
        "make",
        "yes",
        "no",
    ),
    (
        "If all cats are pets, are {} pets cats? Answer in one word.",
        "some",
        "all",
        "yes",
        "no",
    ),
    (
        "In the sentence 'Ann gave Tom a book', who {} the book?",
        "gave",
        "got",
        "Ann",
        "Tom",
    ),
    (
        "Which option is {}: A copper, B wood, C glass, D paper?",
        "a metal",
        "a fuel",
        "A",
        "B",
    ),
    (
        "Which is the {} of these planets: Mars, Venus, Earth, Saturn?",
        "largest",
        "reddest",
        "S",
        "M",
    ),
    (
        "Name the {} month of the year in the northern half of the world.",
        "last",
        "1st",
        "D",
        "J",
    ),
    (
        "\u8fd9\u53e5\u8bdd\u662f{}\u5bf9\u7684\u5417\uff1f\u6240\u6709\u7684\u732b\u90fd\u662f\u52a8\u7269\u3002",
        "",
        "\u4e0d",
        "\u662f",
        "\u5426",
    ),
    (
        "Translate to French, {}: the child sees the house.",
        "singular",
        "plural!!",
        "la",
        "les",
    ),
]


def test_a_question_and_its_negation_both_stay() -> None:
    section = SelectSection(minhash_threshold=0.6, max_length_ratio=100.0)
    for template, first, second, first_answer, second_answer in MINIMAL_PAIRS:
        pair = [
            *answers(ask(template.format(first), first_answer), first_answer),
            *answers(ask(template.format(second), second_answer), second_answer),
        ]
        assert len(select(pair, section)[0]) == 2, template
        # With one right answer they may be two wordings of one question.
        same = [
            *answers(ask(template.format(first) * 3, "so"), "so"),
            *answers(ask(template.format(first) * 3 + " Go.", "so"), "so"),
        ]
        assert reasons(select(same, section)) == {"near_duplicate": 1}, template


def test_short_digit_answers_are_not_merged() -> None:
    draw = random.Random(2)
    numbers = draw.sample(range(10**8, 10**9), 400)
    samples = [
        one
        for n in numbers
        for one in answers(ask(f"{n}=", str(n)[::-1], length="9"), str(n)[::-1])
    ]
    assert len(select(samples, SelectSection())[0]) == 400
    few = [
        one
        for n in (1, 2, 11, 12)
        for one in answers(ask(f"{n}=", str(n)[::-1]), str(n)[::-1])
    ]
    assert len(select(few, SelectSection())[0]) == 4


def test_threshold_one_means_exact_duplicates_only() -> None:
    draw = random.Random(5)
    text = sentence(draw, 40)
    samples = answers(ask("story", "?"), text, text + " indeed")
    assert len(select(samples, LABEL_FREE)[0]) == 2
    merged = select(samples, LABEL_FREE.model_copy(update={"minhash_threshold": 0.8}))
    assert reasons(merged) == {"near_duplicate": 1}
    assert "sample 0 of prompt" in merged[1][0].detail


def test_the_last_characters_of_a_text_are_in_a_shingle() -> None:
    assert shingles_of("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert shingles_of("abc") == {"abc"}
