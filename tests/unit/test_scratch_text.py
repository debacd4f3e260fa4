"""A model from nothing writes its data as it is: no character is silently <unk>."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.recipe import ModelSection, Scratch
from components.contracts.rows import Prompt, TrainingRow
from components.errors import UserError
from components.modeling.scratch import make_scratch
from components.prepare.scratch_text import scratch_model, training_texts
from components.prepare.splits import Splits

TEXTS = ["How much is 2 plus 2?"] * 50 + ["Grüße  aus\nKöln 🙂"] * 3


def tokenizer_of(**settings: Any) -> Any:
    shape = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, **settings}
    return make_scratch(Scratch.model_validate(shape), TEXTS)[1]


@pytest.mark.parametrize("name", ["byte", "word", "bpe"])
@pytest.mark.parametrize(
    "text",
    [
        TEXTS[0],
        TEXTS[-1],
        "never seen: žluťoučký\t漢字  two\r\n",
        " leading and trailing ",
    ],
)
def test_every_text_comes_back_as_it_was(name: str, text: str) -> None:
    tokenizer = tokenizer_of(tokenizer=name, vocabulary=300)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_words_that_occur_once_are_written_in_bytes_so_that_bytes_are_trained() -> None:
    texts = ["one fish two fish", "red fish blue fish", "my two bluebottles"]
    tokenizer = make_scratch(Scratch(tokenizer="word", vocabulary=4096), texts)[1]
    assert len(tokenizer.tokenize(" two fish")) == 2
    assert len(tokenizer.tokenize(" bluebottles")) == len(" bluebottles")
    for text in (*texts, "a word that nobody knows"):
        assert (
            tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
            == text
        )


def test_a_trained_tokenizer_has_the_words_of_the_text_and_no_more_tokens_than_asked_for() -> (
    None
):
    for name in ("word", "bpe"):
        tokenizer = tokenizer_of(tokenizer=name, vocabulary=300)
        assert len(tokenizer) <= 300
        assert len(tokenizer(TEXTS[0], add_special_tokens=False).input_ids) == 7
        # The same text gives the same tokens.
        assert (
            tokenizer_of(tokenizer=name, vocabulary=300).get_vocab()
            == tokenizer.get_vocab()
        )
    with pytest.raises(UserError, match="no text to train it on"):
        make_scratch(Scratch(tokenizer="word"))


def splits_of(prompt: str) -> Splits:
    row = TrainingRow(
        id="1", prompt="12+34=", completion="64", source="labelled", round=0, tags={}
    )
    asked = Prompt(id="2", text=prompt, verifier="exact")
    return Splits(
        train=[row],
        unlabelled=[asked],
        validation=[Prompt(id="3", text="9", verifier="exact")],
    )


def test_the_tokenizer_that_is_left_open_writes_the_rows() -> None:
    open_choice = ModelSection()
    assert scratch_model(open_choice, splits_of("1+1=")).scratch.tokenizer is None
    assert (
        scratch_model(open_choice, splits_of("Wie viel?")).scratch.tokenizer == "byte"
    )
    assert "9" not in training_texts(splits_of("1+1="))


@pytest.mark.parametrize(
    "scratch", [{"tokenizer": "character"}, {"alphabet": "0123456789+="}]
)
def test_an_alphabet_that_lacks_characters_of_the_rows_is_an_error_that_names_them(
    scratch: dict[str, str],
) -> None:
    section = ModelSection.model_validate({"scratch": scratch})
    with pytest.raises(
        UserError, match=r"\d+\.\d% of the characters .*'e'.*tokenizer: byte"
    ):
        scratch_model(section, splits_of("Wie viele?"))
