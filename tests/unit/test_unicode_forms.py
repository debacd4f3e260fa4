"""One text in two Unicode forms is one text: for prompts, exact answers, duplicates and overlap."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.canonical import composed_text, normalised_text, whole_characters
from components.contracts.recipe import Fractions, SelectSection
from components.contracts.rows import Prompt, prompt_id
from components.prepare.examples import Example
from components.prepare.splits import make_splits
from components.select.scored_samples import row_key
from components.text_similarity import shingles_of
from components.verifiers import verify
from tests.unit.crafted import ask
from tests.unit.selections import answers, reasons, select

FORMS = [
    ("Où est le caf\u00e9 ?", "Ou\u0300 est le cafe\u0301 ?"),
    ("What is 2+2?", "\ufeffWhat is 2+2?"),
    ("What is 2+2?", "What\u200b is 2+2?"),
    ("What is 2+2?", "What is\u2060 2+2?\u200e"),
    ("What is 2+2?", " What\u00a0is\n2+2?\u200b"),
    ("co-operate", "co-\u00adoperate"),
    ("caf\u00e9", "cafe\u200b\u0301"),
    ("می\u200cخواهم", "میخواهم"),
    ("क्\u200dष", "क्ष"),
    ("한국", unicodedata.normalize("NFD", "한국")),
    ("\u212b", "\u00c5"),
]


@pytest.mark.parametrize(("text", "other"), FORMS)
def test_two_forms_of_a_text_are_one(text: str, other: str) -> None:
    assert normalised_text(text) == normalised_text(other)
    assert prompt_id(text) == prompt_id(other)
    assert row_key(text, other) == row_key(other, text)
    assert shingles_of(text) == shingles_of(other)
    for reference, answer in ((text, other), (other, text)):
        prompt = ask("?", reference)
        assert verify(prompt, answer)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("cafe", "caf\u00e9"),
        ("a b", "ab"),
        ("x²", "x2"),
        ("ﬁ", "fi"),
        ("👩\u200d👧", "👩👧"),
        ("a", "A"),
    ],
)
def test_texts_that_look_different_stay_two(text: str, other: str) -> None:
    assert prompt_id(text) != prompt_id(other)
    assert not verify(ask("?", text), other)


def test_a_prompt_that_is_measured_on_is_not_trained_on_in_another_form() -> None:
    def example(prompt: str) -> Example:
        return Example(prompt, "4", "exact", {"answer": "4"})

    rows = [
        ("test", example("Combien font 2+2, s'il te pla\u00eet ?")),
        ("train", example("Combien\u200b font 2+2, s'il te plai\u0302t ?")),
        ("train", example("1+1")),
        ("validation", example("3+3")),
        ("unlabelled", example("5+5")),
    ]
    splits = make_splits(rows, Fractions(), seed=0)  # type: ignore[arg-type]
    assert [row.prompt for row in splits.train] == ["1+1"]
    assert splits.rejected_counts == {"in_evaluation": 1}


def test_overlap_with_what_is_measured_on_is_found_in_another_form() -> None:
    words = unicodedata.normalize(
        "NFC", "le café où l'élève a posé le dé et la clé hier à midi près du lac"
    )
    measured = ask(f"Trouve {words}", "x")
    other = ask("autre question", "y")
    section = SelectSection(contamination="overlap", verifier=False)
    for copy in (
        words,
        unicodedata.normalize("NFD", words),
        words.replace(" ", "\u200b "),
    ):
        outcome = select(answers(other, copy), section, evaluation=[(measured, "x")])
        assert reasons(outcome) == {"in_evaluation": 1}, copy


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("nice \ud83d", "nice \ufffd"),
        ("\ude00\ud83d!", "\ufffd\ufffd!"),
        ("\ud83d\ude00", "😀"),
        ("plain", "plain"),
    ],
)
def test_half_a_character_becomes_a_sign_that_can_be_stored(
    text: str, whole: str
) -> None:
    assert whole_characters(text) == whole
    assert normalised_text(text).encode()
    assert len(prompt_id(text)) == 16
    assert row_key(text, text) >= 0


@given(st.text())
def test_the_normalised_form_of_a_text_is_its_own(text: str) -> None:
    once = normalised_text(text)
    assert normalised_text(once) == once
    assert once.encode().decode() == once


@pytest.mark.parametrize(
    "piece", ["\u0301\u0316", "\u200d", "=\u0338", "\ud83d", "e\u0301", "\u200b"]
)
def test_normalising_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = "a" + piece * (100_000 // len(piece))
    begun = time.process_time()
    composed_text(text)
    prompt_id(text)
    verify(Prompt(id="0", text="?", verifier="exact", reference={"answer": "x"}), text)
    assert time.process_time() - begun < 10
