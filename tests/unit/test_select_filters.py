"""The filters that a recipe may turn on: difficulty, paths, the choice among what is left; bias."""

from __future__ import annotations

import itertools
import random

import pytest

from components.contracts.recipe import SelectSection
from components.contracts.rows import Prompt, TrainingRow
from components.select.attribute_shift import Balanced, attributes, distances
from components.select.filters.repeats import edit_distance, equations
from components.select.scored_samples import Block, make_scored_samples
from tests.unit.crafted import ask, say
from tests.unit.made_up_text import sentence
from tests.unit.selections import (
    account_of,
    answers,
    kept_texts,
    reasons,
    select,
    with_settings,
)
from tests.unit.test_mix import rows


def test_solved_prompts_are_replayed_a_little_and_half_solved_ones_count_most() -> None:
    solved = [
        one
        for n in range(200)
        for one in answers(ask(f"easy {chr(97 + n % 26)} {n}", "1"), "1", "1 ")
    ]
    half = answers(ask("half", "1"), "1", "2", "1 ", "3")
    rare = answers(ask("rare", "1"), "1", "2", "3", "4", "5", "6", "7", "8")
    hopeless = answers(ask("hopeless", "1"), "2", "3")
    section = SelectSection(minhash_threshold=1.0, difficulty={"replay": 0.1})
    kept, dropped = select([*solved, *half, *rare, *hopeless], section, seed=3)
    weights = {one.prompt.text: one.weight for one in kept}
    assert weights["half"] == 1.0
    assert weights["rare"] == pytest.approx(4 * 1 / 8 * 7 / 8)
    replayed = [one for one in kept if one.prompt.text.startswith("easy")]
    assert 8 <= len(replayed) <= 35
    assert {one.weight for one in replayed} == {4 * 0.75 * 0.25}
    assert {row.row["prompt"] for row in dropped if row.reason == "solved"}.isdisjoint(
        {"half", "rare", "hopeless"}
    )
    assert all(one.prompt.text != "hopeless" for one in kept)


def test_difficulty_without_a_verifier_is_an_error_of_the_recipe() -> None:
    with pytest.raises(ValueError, match="difficulty needs"):
        SelectSection(verifier=False, difficulty={})


def test_of_answers_by_the_same_equations_the_most_unlike_stays() -> None:
    same = "48/2 = 24 in May. 48+24 = 72 in all."
    texts = [
        same,
        f"First of all, {same}",
        f"Let us see what she did in May and then in April: {same}",
        "48+48/2 = 72 clips.",
        "It is 72.",
        "Surely 72.",
    ]
    outcome = select(
        answers(ask("clips", "?"), *texts), with_settings(distinct_paths=True)
    )
    assert kept_texts(outcome) == texts[2:]
    assert reasons(outcome) == {"same_path": 2}


def test_equations_are_read_in_order_however_they_are_spaced() -> None:
    assert equations(
        "She sold 48 / 2 = <<48/2=24>>24 clips.\nSo 48+24 = 72."
    ) == equations("48/2 = <<48/2=24>>24; so\n48 + 24=72")
    assert equations("no numbers at all") == ()
    assert equations("3+4 = 7") != equations("4+3 = 7")


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distance_is_levenshteins(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize("by", ["diversity", "k-centre"])
def test_a_diverse_choice_covers_what_a_flood_of_like_rows_would_hide(by: str) -> None:
    draw = random.Random(4)
    begin = "tell me something about the sheep that graze"
    cased = {
        "".join(draw.choice((letter, letter.upper())) for letter in begin)
        for _ in range(120)
    }
    flood = [
        one
        for text in sorted(cased)
        for one in answers(ask(text, "?"), "a white sheep on a green hill")
    ]
    rare = [
        one for n in range(8) for one in answers(ask(f"rare {n}", "?"), sentence(draw))
    ]
    choice = {"by": by, "rows": 16, "clusters": 16}
    kept, dropped = select([*flood, *rare], with_settings(keep=choice))
    assert len(kept) == 16
    assert sum(one.prompt.text.startswith("rare") for one in kept) >= 7
    assert {row.reason for row in dropped} == {"choice"}
    assert select([*flood, *rare], with_settings(keep=choice))[0] == kept, (
        "the choice is the same every time"
    )


SCORES = {"1": 0.5, "2": 0.9, "3": 0.1, "4": None, "5": 0.7, "6": 0.3}
"""Text of a sample → its score by whatever scorer is asked; 4 is too long for the model."""


@pytest.mark.parametrize(
    ("by", "kept", "scorer"),
    [
        ("influence", {"2", "5", "1"}, "influence"),
        # A perplexity: the lowest is the likeliest.
        ("likelihood", {"3", "6", "1"}, "base"),
        ("difficulty", {"2", "5", "1"}, "difficulty"),
    ],
)
def test_strategies_keep_as_many_samples_and_say_by_which_score(
    by: str, kept: set[str], scorer: str
) -> None:
    asked_for: list[str] = []

    def score(block: Block) -> list[float | None]:
        asked_for.extend(one.text for one in block)
        return [SCORES[one.text] for one in block]

    samples = answers(ask("q", "?"), *SCORES)
    section = with_settings(keep={"by": by, "share": 0.5})
    outcome, dropped, account = account_of(samples, section, scorers={scorer: score})
    assert {one.text for one in outcome} == kept
    assert {one.text: one.scores for one in outcome} == {
        text: {scorer: SCORES[text]} for text in kept
    }
    assert account.by_reason == {"choice": 2, "unscored": 1}
    assert {row.row["scores"][scorer] for row in dropped if row.reason == "choice"} == {
        SCORES[text] for text in SCORES.keys() - kept - {"4"}
    }
    assert sorted(asked_for) == sorted(SCORES), "each sample is scored once"
    for other in ("random", "diversity", "k-centre", "score"):
        section = with_settings(keep={"by": other, "share": 0.5})
        assert len(select(samples, section)[0]) == 3


def test_the_top_score_and_the_most_undecided_prompts_are_kept() -> None:
    agreed = answers(ask("agreed", "?"), "1", "1 ", "1  ", "2")
    split = answers(ask("split", "?"), "1", "2", "3", "4")
    both = [*agreed, *split]
    top = select(both, with_settings(keep={"by": "score", "rows": 2}))
    assert {one.prompt.text for one in top[0]} == {"agreed"}
    undecided = ask("undecided", "1"), ask("nearly sure", "1")
    right = [
        *answers(undecided[0], "1", "1 ", "2", "3"),
        *answers(undecided[1], "1", "1 ", "1  ", "2"),
    ]
    section = SelectSection(
        keep={"by": "difficulty", "share": 0.5}, minhash_threshold=1.0
    )
    assert {one.prompt.text for one in select(right, section)[0]} == {"undecided"}
    assert len(select(both, with_settings(keep={"by": "random", "rows": 3}))[0]) == 3
    assert len(select(agreed, with_settings(keep={"by": "random", "rows": 30}))[0]) == 2
    smaller = {"by": "random", "rows": 3, "share": 0.2}
    assert len(select(both, with_settings(keep=smaller))[0]) == 2
    with pytest.raises(ValueError, match="give `share` or `rows`"):
        with_settings(keep={"by": "random"})


def test_bias_is_nothing_for_like_rows_and_one_for_rows_with_nothing_in_common() -> (
    None
):
    labelled = attributes(rows(100, 0))
    assert distances(attributes(rows(100, 1)), labelled) == {
        "length": 0.0,
        "answer": 0.0,
        "slice": 0.0,
    }
    other = [
        row.model_copy(
            update={"completion": "x" * 500, "tags": {"task": "essay"}, "id": str(n)}
        )
        for n, row in enumerate(rows(100, 1))
    ]
    assert distances(attributes(other), labelled) == {
        "length": 1.0,
        "answer": 1.0,
        "slice": 1.0,
    }
    assert distances(attributes([]), labelled) == {}


def test_bias_sees_a_class_that_is_no_longer_answered() -> None:
    def labels(*answers: str) -> list[TrainingRow]:
        texts = itertools.cycle(answers)
        return [
            row.model_copy(update={"completion": next(texts)}) for row in rows(100, 1)
        ]

    even, one_sided = attributes(labels("yes", "no")), attributes(labels("yes"))
    assert distances(one_sided, even)["answer"] == pytest.approx(0.558, abs=0.01)
    # Weights bring it back, unless an answer is too rare for a factor of four.
    most = labels("yes", "yes", "yes", "no")
    balanced = Balanced(most, even)
    assert distances(attributes(most), even)["answer"] > 0.15
    assert distances(attributes(balanced), even)["answer"] == pytest.approx(0, abs=1e-6)
    assert (
        [row.id for row in balanced]
        == [row.id for row in balanced]
        == [row.id for row in most]
    )
    rare = Balanced(labels(*["yes"] * 19, "no"), even)
    assert {row.completion: row.weight for row in rare} == {
        "yes": pytest.approx(10 / 19),
        "no": 4,
    }


def test_prompts_of_any_kind_of_id_are_all_there() -> None:
    odd = Prompt(id="not-hex", text="odd", verifier="exact", reference={"answer": "1"})
    samples = make_scored_samples({"not-hex": odd}, [say(odd, 0, "1")])
    assert kept_texts(select(samples, SelectSection())) == ["1"]
