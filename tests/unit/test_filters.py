"""What may teach: every filter, on samples like the ones models write."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.recipe import SelectSection
from components.contracts.rows import TrainingRow
from components.errors import Corrupt
from components.select.filter_settings import Classes
from components.select.scored_samples import make_scored_samples, row_key
from tests.unit.crafted import ask, say
from tests.unit.selections import LABEL_FREE, answers, kept_texts, reasons, select


def test_a_right_answer_is_kept_as_the_model_wrote_it_and_a_wrong_one_is_dropped() -> (
    None
):
    outcome = select(
        answers(ask("Capital of France?", "Paris  today"), " Paris today\n", "Lyon"),
        SelectSection(),
    )
    assert kept_texts(outcome) == [" Paris today\n"], (
        "its own text, not the reference's spelling"
    )
    assert reasons(outcome) == {"verifier": 1}
    assert "Lyon" in outcome[1][0].detail
    assert "reference" not in outcome[1][0].row


def test_cut_off_and_empty_answers_are_dropped_before_any_other_check() -> None:
    prompt = ask("1+1=", "2")
    samples = [
        say(prompt, 0, "2", finished=False),
        say(prompt, 1, " \n"),
        say(prompt, 2, "2"),
    ]
    scored_samples = make_scored_samples({prompt.id: prompt}, samples)
    assert reasons(select(scored_samples, SelectSection())) == {
        "unfinished": 1,
        "empty": 1,
    }
    allowed = select(scored_samples, SelectSection(require_finished=False))
    assert reasons(allowed) == {"empty": 1, "duplicate": 1}


def test_answers_to_evaluation_prompts_never_teach_even_under_another_id() -> None:
    prompt = ask("Secret   question", "yes")
    renamed = prompt.model_copy(update={"id": "0123456789abcdef"})
    for asked in (prompt, renamed):
        outcome = select(
            answers(asked, "yes"), SelectSection(), evaluation=[(prompt, "yes")]
        )
        assert reasons(outcome) == {"in_evaluation": 1}


def test_the_majority_answer_is_kept_where_enough_samples_agree() -> None:
    clear, split = ask("clear", "?"), ask("split", "?")
    samples = answers(clear, "7", "7 ", "8", "7") + answers(split, "1", "2", "3", "1")
    outcome = select(samples, LABEL_FREE.model_copy(update={"min_vote_share": 0.75}))
    assert kept_texts(outcome) == ["7"]
    assert reasons(outcome) == {"vote": 5, "duplicate": 2}
    everything = select(samples, LABEL_FREE)
    assert sorted(kept_texts(everything)) == ["1", "2", "3", "7", "8"]


def labelled(number: int, text: str, answer: str, label: str = "") -> TrainingRow:
    """A labelled row; with a label one of a classification."""
    tags = {"label": label} if label else {}
    return TrainingRow(
        id=str(number),
        prompt=text,
        completion=answer,
        source="labelled",
        round=0,
        tags=tags,
    )


def test_an_answer_that_is_none_of_the_classes_never_teaches() -> None:
    rows = [labelled(0, "who?", "HUM", "HUM"), labelled(1, "where?", "LOC", "LOC")]
    samples = answers(ask("where is it?", "?"), "LOC ", "LOCATION", "It is HUM", "HUM")
    outcome = select(samples, LABEL_FREE, classes=Classes.of(rows))
    assert sorted(kept_texts(outcome)) == ["HUM", "LOC "]
    assert reasons(outcome) == {"no_class": 2}
    assert {row.detail for row in outcome[1]} == {
        "'LOCATION' is none of HUM, LOC",
        "'It is HUM' is none of HUM, LOC",
    }
    # Of a mixture of tasks only questions that have a label are held to the classes.
    mixed = Classes.of([*rows, labelled(2, "1+1=", "2")])
    question, other = ask("when?", "NUM", label="NUM"), ask("2+2=", "4")
    outcome = select(
        answers(question, "4") + answers(other, "4"), LABEL_FREE, classes=mixed
    )
    assert [(row.reason, row.row["prompt"]) for row in outcome[1]] == [
        ("no_class", "when?")
    ]
    # A letter names its class where the prompt's verifier says so.
    lettered = ask("which?", "B").model_copy(update={"verifier": "choice"})
    options = Classes.of([labelled(3, "one?", "A", "A"), labelled(4, "two?", "B", "B")])
    outcome = select(
        answers(lettered, "The answer is B.", "C"), LABEL_FREE, classes=options
    )
    assert (kept_texts(outcome), reasons(outcome)) == (
        ["The answer is B."],
        {"no_class": 1},
    )
    many = Classes.of(
        [labelled(number, "?", str(number), str(number)) for number in range(65)]
    )
    assert many == Classes(), "free answers are no classes"


def test_a_tied_vote_teaches_nothing_as_the_order_of_sampling_is_no_reason() -> None:
    section = LABEL_FREE.model_copy(update={"min_vote_share": 0.5})
    candidates = answers(ask("tie", "?"), "b", "a", "a", "b")
    outcome = select(candidates, section)
    assert kept_texts(outcome) == []
    assert {row.detail for row in outcome[1]} == {
        "'a'; another answer has as many votes (0.50)",
        "'b'; another answer has as many votes (0.50)",
    }
    outcome = select(candidates, section.model_copy(update={"tie_goes_to_first": True}))
    assert kept_texts(outcome) == ["b"]


def test_cut_off_samples_count_against_the_majority() -> None:
    prompt = ask("hard", "?")
    samples = [
        say(prompt, 0, "5"),
        *(say(prompt, index, "5", finished=False) for index in (1, 2, 3)),
    ]
    scored_samples = make_scored_samples({prompt.id: prompt}, samples)
    assert scored_samples[0].vote_share == 0.25
    outcome = select(
        scored_samples, LABEL_FREE.model_copy(update={"min_vote_share": 0.5})
    )
    assert reasons(outcome) == {"unfinished": 3, "vote": 1}


def test_answers_are_measured_against_the_median_length_of_their_own_slice() -> None:
    short = [
        one
        for n in range(5)
        for one in answers(ask(f"short {n}", "?", task="gcd"), f"{n}")
    ]
    long = [
        one
        for n in range(5)
        for one in answers(ask(f"long {n}", "?", task="essay"), "x" * 40 + str(n))
    ]
    odd = answers(ask("short odd", "?", task="gcd"), "far too long") + answers(
        ask("long odd", "?", task="essay"), "x"
    )
    section = LABEL_FREE.model_copy(
        update={"min_length_ratio": 0.2, "max_length_ratio": 4.0}
    )
    outcome = select(short + long + odd, section)
    assert len(outcome[0]) == 10
    assert {row.row["text"] for row in outcome[1] if row.reason == "length"} == {
        "far too long",
        "x",
    }


def test_repeats_of_a_sample_or_of_a_labelled_row_are_dropped() -> None:
    prompt, labelled = ask("2+2=", "4"), ask("3+3=", "6")
    samples = answers(prompt, "4", " 4\n", "four") + answers(labelled, "6")
    outcome = select(
        samples, LABEL_FREE, labelled_keys=frozenset({row_key("3+3=", "6")})
    )
    assert sorted(kept_texts(outcome)) == ["4", "four"]
    assert [row.detail for row in outcome[1]].count("repeats a labelled row") == 1
    assert reasons(outcome) == {"duplicate": 2}


def test_the_same_answer_to_another_prompt_is_no_repeat() -> None:
    samples = answers(ask("2+2=", "4"), "4") + answers(ask("1+3=", "4"), "4")
    assert len(select(samples, SelectSection())[0]) == 2


def test_the_cap_keeps_the_first_samples_of_each_prompt() -> None:
    outcome = select(
        answers(ask("poem", "?"), *"abcdef"),
        LABEL_FREE.model_copy(update={"max_per_prompt": 2}),
    )
    assert kept_texts(outcome) == ["a", "b"]
    assert reasons(outcome) == {"cap": 4}


def test_samples_without_prompt_or_sampled_twice_are_corrupt() -> None:
    prompt = ask("q", "a")
    with pytest.raises(Corrupt, match=r"not in prompts\.jsonl"):
        make_scored_samples({}, [say(prompt, 0, "a")])
    with pytest.raises(Corrupt, match="comes twice"):
        make_scored_samples(
            {prompt.id: prompt}, [say(prompt, 0, "a"), say(prompt, 0, "b")]
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["1", "2", " 2", "", "33333333", "some words"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([0.0, 0.4, 0.9]),
    st.booleans(),
    st.sampled_from([0.8, 1.0]),
    st.integers(1, 3),
    st.randoms(),
)
def test_every_sample_is_kept_or_dropped_once_whatever_its_order(
    drawn: list[tuple[int, str, bool]],
    votes: float,
    verifier: bool,
    jaccard: float,
    cap: int,
    shuffle: random.Random,
) -> None:
    prompts = {
        prompt.id: prompt for prompt in (ask(f"{n}+1=", str(n + 1)) for n in range(6))
    }
    places = sorted(prompts)
    counts: Counter[str] = Counter()
    samples = []
    for place, text, finished in drawn:
        prompt = prompts[places[place]]
        samples.append(say(prompt, counts[prompt.id], text, finished))
        counts[prompt.id] += 1
    section = SelectSection(
        verifier=verifier,
        min_vote_share=votes,
        minhash_threshold=jaccard,
        max_per_prompt=cap,
    )
    kept, dropped = select(make_scored_samples(prompts, samples), section)
    out = [(one.sample.prompt_id, one.sample.index) for one in kept]
    out += [(row.row["prompt_id"], row.row["index"]) for row in dropped]
    assert sorted(out) == sorted((sample.prompt_id, sample.index) for sample in samples)
    shuffle.shuffle(samples)
    assert select(make_scored_samples(prompts, samples), section) == (kept, dropped)
