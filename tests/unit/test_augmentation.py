"""Noise on training rows: new copies for every draw, and nothing wrong is learned from them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from components.contracts.recipe import Augmentation, Scratch
from components.contracts.rows import Conversation, TrainingRow
from components.modeling.encoding import Codec
from components.modeling.likelihood import IGNORED, EncodedRow, collate
from components.modeling.scratch import make_scratch
from components.train.process.augmentation import (
    Augmenter,
    make_augmenter,
    masked_spans,
)
from components.train.process.job import Stage
from components.train.process.packing import collate_packed
from components.train.process.row_batches import training_set
from tests.unit.chat_models import chat_tokenizer
from tests.unit.chat_templates import SYSTEM, TALK
from tests.unit.trainings import train

TEXT = "the quick brown fox jumps over a lazy dog while seven tall wizards quietly mix some jam"
WORDS = TEXT.split()
HIDING: list[dict[str, Any]] = [{"word_dropout": 0.3}, {"span_masking": 0.3}]
CHANGING: list[dict[str, Any]] = [
    {"word_deletion": 0.3},
    {"word_swap": 0.3},
    {"case_noise": 0.3},
    {"spacing_noise": 0.3},
]
EVERYTHING: dict[str, Any] = {
    "word_dropout": 0.2,
    "span_masking": 0.2,
    **{k: 0.2 for each in CHANGING for k in each},
}


def scratch_codec(tokenizer: str) -> Codec:
    settings = {
        "tokenizer": tokenizer,
        "hidden_size": 8,
        "num_layers": 1,
        "num_heads": 1,
    }
    if tokenizer in ("bpe", "word"):
        settings["vocabulary"] = 400
    if tokenizer == "character":
        settings["alphabet"] = "".join(sorted({*TEXT, *TEXT.upper()}))
    return Codec(make_scratch(Scratch.model_validate(settings), [TEXT] * 4)[1])


def gpt2_like_codec() -> Codec:
    """Bytes, and one token that is the end of text and of unknown words at once."""
    symbols = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(
        models.BPE({symbol: place for place, symbol in enumerate(symbols)}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    inner.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return Codec(
        PreTrainedTokenizerFast(
            tokenizer_object=inner, bos_token=end, eos_token=end, unk_token=end
        )
    )


def sentencepiece_like_codec() -> Codec:
    """Words that begin with ▁, as a text itself does."""
    words = [
        f"▁{word}"
        for text in (TEXT, TEXT.upper(), TEXT.title())
        for word in text.split()
    ]
    letters = sorted({*"▁\n", *TEXT, *TEXT.upper()} - {" "})
    symbols = dict.fromkeys(["<unk>", "<s>", "</s>", "<pad>", *letters, *words])
    inner = Tokenizer(models.Unigram([(symbol, -1.0) for symbol in symbols], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return Codec(
        PreTrainedTokenizerFast(
            tokenizer_object=inner,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
        )
    )


CODECS = {
    "byte": lambda: scratch_codec("byte"),
    "character": lambda: scratch_codec("character"),
    "bpe": lambda: scratch_codec("bpe"),
    "word": lambda: scratch_codec("word"),
    "gpt2": gpt2_like_codec,
    "sentencepiece": sentencepiece_like_codec,
}


def row(prompt: str, completion: str, **more: Any) -> TrainingRow:
    return TrainingRow(
        id="1", prompt=prompt, completion=completion, source="labelled", round=0, **more
    )


def rows_of(
    rows: Sequence[TrainingRow], codec: Codec, max_length: int = 200, **noise: Any
) -> tuple[list[EncodedRow], Augmenter]:
    settings = Augmentation.model_validate({"max_word_dropout": 0.5, **noise})
    stage = "sft" if rows[0].prompt and not rows[0].is_text else "pretrain"
    encoded = training_set(
        rows,
        codec,
        stage,
        with_text=False,
        max_length=max_length,
        weighting="loss",
        augmentation=settings,
    ).rows
    return encoded, make_augmenter(settings, encoded, codec, max_length, seed=5)


def copies_of(
    rows: list[EncodedRow], augmenter: Augmenter, count: int = 40
) -> list[EncodedRow]:
    return [copy for step in range(count) for copy in augmenter.copies(rows, step)]


def targets_of(encoded: EncodedRow) -> list[tuple[int, int]]:
    """(position, token) of every token that bears loss."""
    labels = collate([encoded], 0).labels[0, 1:]
    return [
        (place + 1, int(token))
        for place, token in enumerate(labels)
        if token != IGNORED
    ]


def is_subsequence(tokens: Sequence[int], of: Sequence[int]) -> bool:
    remaining = iter(of)
    return all(token in remaining for token in tokens)


@pytest.mark.parametrize("noise", HIDING, ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_hidden_words_are_read_as_others_and_predicted_as_they_are(
    name: str, noise: dict[str, Any]
) -> None:
    codec = CODECS[name]()
    rows, augmenter = rows_of([row("", TEXT)], codec, **noise)
    (clean,) = rows
    copies = copies_of(rows, augmenter)
    assert {targets == targets_of(clean) for targets in map(targets_of, copies)} == {
        True
    }
    assert {tuple(copy.ids) for copy in copies} == {tuple(clean.ids)}
    hidden = np.array([np.array(copy.inputs) != np.array(clean.ids) for copy in copies])
    # A filler may happen to be the token that it hides.
    assert 0.15 < hidden.mean() < 0.45
    special = [token in codec.tokenizer.all_special_ids for token in clean.ids]
    assert not hidden[:, special].any()
    unknown = codec.tokenizer.unk_token_id
    fillers = {
        token for copy in copies for token in np.array(copy.inputs)[hidden[0]].tolist()
    }
    if name == "gpt2":
        assert unknown not in fillers
        assert fillers <= set(clean.ids)
    else:
        assert unknown in fillers


@pytest.mark.parametrize("noise", [*CHANGING, EVERYTHING], ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_of_raw_text_no_changed_word_is_predicted(
    name: str, noise: dict[str, Any]
) -> None:
    codec = CODECS[name]()
    rows, augmenter = rows_of([row("", TEXT), row("", TEXT.upper())], codec, **noise)
    copies = copies_of(rows, augmenter)
    assert any(copy.ids != rows[0].ids for copy in copies[::2])
    for number, copy in enumerate(copies):
        clean = rows[number % 2]
        learned = targets_of(copy)
        # In their order, some left out.
        assert is_subsequence([token for _, token in learned], clean.ids)
        assert 0 < len(learned) <= clean.num_targets
        assert len(learned) == copy.num_targets
        # Where no word is left to learn, the row is as it was.
        assert copy.inputs is not None or copy is clean
        assert len(copy.inputs or clean.ids) == len(copy.ids)
    assert any(len(targets_of(copy)) < rows[0].num_targets for copy in copies[::2])


def test_what_follows_a_deleted_word_is_predicted_from_no_other_word() -> None:
    codec = scratch_codec("word")
    rows, augmenter = rows_of([row("", TEXT)], codec, word_deletion=0.4)
    (clean,) = rows
    assert len(set(clean.ids)) == len(clean.ids)
    follower = dict(zip(clean.ids, clean.ids[1:], strict=False))
    for copy in copies_of(rows, augmenter):
        for position, token in targets_of(copy):
            assert follower[copy.ids[position - 1]] == token


def test_swapped_and_rewritten_words_are_the_words_of_the_text() -> None:
    codec = scratch_codec("bpe")
    longer = row("", f"{TEXT} {TEXT} {TEXT} {TEXT}")
    for name, folded in (("word_swap", False), ("case_noise", True)):
        noise: dict[str, Any] = {name: 0.4}
        rows, augmenter = rows_of([row("", TEXT), longer], codec, **noise)
        texts = {codec.text(copy.ids) for copy in copies_of(rows, augmenter)[::2]}
        assert len(texts) > 10
        for text in texts:
            words = text.casefold().split() if folded else sorted(text.split())
            assert words == (WORDS if folded else sorted(WORDS))
    rows, augmenter = rows_of([row("", TEXT), longer], codec, spacing_noise=0.4)
    texts = {codec.text(copy.ids) for copy in copies_of(rows, augmenter)[::2]}
    assert {"".join(text.split()) for text in texts} == {"".join(WORDS)}
    assert any("\n" in text for text in texts)
    assert any("  " in text for text in texts)


@pytest.mark.parametrize("noise", [*HIDING, *CHANGING, EVERYTHING], ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_an_answer_is_learned_as_it_is_whatever_becomes_of_its_prompt(
    name: str, noise: dict[str, Any]
) -> None:
    codec = CODECS[name]()
    rows, augmenter = rows_of([row(TEXT, "a lazy dog")], codec, **noise)
    (clean,) = rows
    copies = copies_of(rows, augmenter)
    answer = clean.ids[clean.num_masked :]
    for copy in copies:
        assert copy.ids[-len(answer) :] == answer
        assert [token for _, token in targets_of(copy)] == answer
    seen = {tuple(copy.inputs or ()) for copy in copies}
    assert len(seen) > 10
    # Prompts that may not be changed are read as they are; answers may be hidden all the same.
    rows, augmenter = rows_of([row(TEXT, "a lazy dog")], codec, prompts=False, **noise)
    for copy in copies_of(rows, augmenter):
        assert copy.ids == clean.ids
        assert (copy.inputs or [])[: clean.num_masked] == clean.ids[: clean.num_masked]


def test_of_a_chat_only_the_last_message_of_the_user_is_changed() -> None:
    codec = Codec(chat_tokenizer(), "Do be brief")
    (question,) = rows_of([row(TEXT, "a dog")], codec, **EVERYTHING)[0]
    ((start, end),) = question.changeable
    assert codec.text(question.ids[start:end]) == TEXT
    messages = (
        SYSTEM,
        *TALK[:2],
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": "x"},
    )
    talk = Conversation(messages=messages)
    rows, augmenter = rows_of([row("x", "x", conversation=talk)], codec, **EVERYTHING)
    (clean,) = rows
    ((start, end),) = clean.changeable
    assert codec.text(clean.ids[start:end]) == TEXT
    for copy in copies_of(rows, augmenter):
        assert copy.ids[:start] == clean.ids[:start]
        assert copy.ids[end - len(clean.ids) :] == clean.ids[end:]
        learned = [token for _, token in targets_of(copy)]
        assert learned == [token for _, token in targets_of(clean)]


def test_a_row_that_is_drawn_again_has_another_copy_and_the_same_draw_the_same() -> (
    None
):
    codec = scratch_codec("word")
    rows, augmenter = rows_of([row("", TEXT)], codec, **EVERYTHING)
    twice = [rows[0], rows[0]]
    first, second = augmenter.copies(twice, 0)
    assert first != second
    assert augmenter.copies(twice, 0) == [first, second]
    assert augmenter.copies(twice, 1)[0] != first
    other = make_augmenter(augmenter.settings, rows, codec, 200, seed=6)
    assert other.copies(twice, 0)[0] != first


def test_of_a_prompt_a_word_is_left_however_short_it_is() -> None:
    codec = scratch_codec("word")
    # Then nothing at all stands before the prompt.
    codec.tokenizer.bos_token = None
    for text in ("quick", "quick brown"):
        rows, augmenter = rows_of([row(f" {text}", "a dog")], codec, word_deletion=0.5)
        (clean,) = rows
        lengths = set()
        for copy in copies_of(rows, augmenter):
            assert copy.num_masked > 0
            assert [token for _, token in targets_of(copy)] == clean.ids[
                clean.num_masked :
            ]
            lengths.add(copy.num_masked)
        assert lengths == set(range(1, clean.num_masked + 1))


def test_no_copy_is_longer_than_the_longest_row() -> None:
    codec = scratch_codec("word")
    noise: dict[str, Any] = {"case_noise": 0.5, "spacing_noise": 0.5}
    # In other letters these words are written in bytes: a copy would be several times as long. A
    # text loses its end for them.
    rows, augmenter = rows_of([row("", TEXT)], codec, max_length=20, **noise)
    assert augmenter.longest == 20
    copies = copies_of(rows, augmenter)
    assert {len(copy.ids) <= augmenter.longest for copy in copies} == {True}
    assert len({tuple(copy.ids) for copy in copies}) > 30
    # A prompt has to fit, with its whole answer.
    prompts = [row(TEXT, "a"), row(" ".join(WORDS[:9]), "a dog")]
    rows, augmenter = rows_of(prompts, codec, **noise)
    copies = copies_of(rows, augmenter)
    assert {len(copy.ids) <= augmenter.longest for copy in copies} == {True}
    assert max(len(copy.ids) for copy in copies) > len(rows[0].ids)
    assert any(len(copy.ids) > len(rows[1].ids) for copy in copies[1::2])
    answer = rows[1].ids[rows[1].num_masked :]
    assert {tuple(copy.ids[-len(answer) :]) for copy in copies[1::2]} == {tuple(answer)}


def test_text_in_windows_and_a_text_of_a_single_word_are_noisy_too_and_never_empty() -> (
    None
):
    codec = scratch_codec("byte")
    rows, augmenter = rows_of(
        [row("", TEXT), row("", "a b")], codec, max_length=24, **EVERYTHING
    )
    assert len(rows) > 3
    for copy in copies_of(rows, augmenter, 200):
        assert copy.num_targets > 0
        assert copy.num_masked >= 1
    block = row("the quick brown", " fox jumps over", is_text=True)
    rows, augmenter = rows_of([block], codec, word_deletion=0.5)
    assert rows[0].changeable == ((1, len(rows[0].ids)),)
    for copy in copies_of(rows, augmenter):
        assert is_subsequence([token for _, token in targets_of(copy)], rows[0].ids)


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3, 0.5])
def test_masked_stretches_are_as_long_and_as_many_as_they_should_be(
    share: float,
) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    spans = list(masked_spans(60_000, share, generator))
    lengths = [end - start for start, end in spans]
    assert sum(lengths) / 60_000 == pytest.approx(share, rel=0.08)
    # Geometric with mean 3, cut at 10.
    assert 2.7 < np.mean(lengths) < 3.0
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_a_packed_batch_reads_the_noise_and_learns_the_words() -> None:
    codec = scratch_codec("word")
    rows, augmenter = rows_of(
        [row("", TEXT), row("", "a lazy dog")], codec, word_dropout=0.4
    )
    copies = augmenter.copies(rows, 3)
    packed = collate_packed([copies], codec.pad_id)
    alone = [collate([copy], codec.pad_id) for copy in copies]
    assert torch.equal(
        packed.input_ids[0], torch.cat([batch.input_ids[0] for batch in alone])
    )
    assert torch.equal(
        packed.labels[0], torch.cat([batch.labels[0] for batch in alone])
    )
    assert not torch.equal(
        packed.input_ids, collate_packed([rows], codec.pad_id).input_ids
    )


@pytest.mark.process
def test_processes_see_the_same_noise_and_it_changes_what_is_learned(
    tmp_path: Path,
) -> None:
    noise = Augmentation(word_dropout=0.3)
    stages = (Stage(name="sft", steps=8, learning_rate=3e-3, augmentation=noise),)
    alone = train(tmp_path / "one", stages=stages)
    two = train(tmp_path / "two", stages=stages, num_processes=2, key="t" * 32)
    without = train(tmp_path / "without", steps=8, key="w" * 32)
    np.testing.assert_allclose(two["losses"], alone["losses"], atol=1e-4)
    assert alone["tokens_trained"] == without["tokens_trained"]
    assert np.abs(np.subtract(alone["losses"], without["losses"])).max() > 0.01


def sentences(count: int, seed: int) -> list[TrainingRow]:
    """Texts whose next word depends on the word before, with some chance in it."""
    dice = random.Random(seed)
    texts = []
    for _ in range(count):
        number = dice.randrange(10)
        digits = []
        for _ in range(20):
            digits.append(str(number))
            number = (number * 3 + dice.choice([1, 2])) % 10
        texts.append(" ".join(digits))
    return [
        row("", text).model_copy(update={"id": str(n)}) for n, text in enumerate(texts)
    ]


@pytest.mark.process
def test_few_rows_are_memorised_less_when_words_are_dropped(tmp_path: Path) -> None:
    alphabet = {"alphabet": "0123456789 "}
    found = {}
    for name, share in (("plain", 0.0), ("noisy", 0.3)):
        noise = Augmentation(word_dropout=share) if share else None
        stage = Stage(
            name="pretrain", steps=150, learning_rate=1e-2, augmentation=noise
        )
        found[name] = train(
            tmp_path / name,
            rows=sentences(12, 0),
            dev=sentences(40, 1),
            stages=(stage,),
            model=alphabet,
            evaluate_every=10,
            early_stopping_patience=100,
            pretrain={"steps": 150},
            key=name[0] * 32,
        )
    rises = {
        name: one["final_dev_loss"] - one["best_dev_loss"]
        for name, one in found.items()
    }
    assert rises["plain"] > 0.3
    assert rises["noisy"] < 0.6 * rises["plain"]


@pytest.mark.parametrize(
    "text",
    [
        "1234567890" * 4,
        "你好世界,今天天气很好,我们去公园散步吧。",
        "مرحبا بالعالم كيف حالك اليوم",
        "def f(x):\n\treturn x + 1\n\n\nclass A:\n    pass",
        "<eos>Tab\tsep\tvalues\r\nnext  <unk> line",
    ],
)
def test_any_kind_of_text_has_noise_of_which_nothing_wrong_is_learned(
    text: str,
) -> None:
    codec = scratch_codec("byte")
    for each in (row("", text), row(text, "yes")):
        rows, augmenter = rows_of([each], codec, **EVERYTHING)
        (clean,) = rows
        copies = copies_of(rows, augmenter)
        assert len({tuple(copy.inputs or ()) for copy in copies}) > 30
        for copy in copies:
            learned = [token for _, token in targets_of(copy)]
            assert is_subsequence(learned, clean.ids)
            if each.prompt:
                assert learned == clean.ids[clean.num_masked :]


def test_words_of_several_bytes_a_letter_are_words() -> None:
    greeting = "مرحبا بالعالم كيف حالك اليوم"
    rows, augmenter = rows_of([row("", greeting)], scratch_codec("byte"), word_swap=0.5)
    texts = {augmenter.codec.text(copy.ids) for copy in copies_of(rows, augmenter)}
    assert len(texts) > 1
    assert {tuple(sorted(text.split())) for text in texts} == {
        tuple(sorted(greeting.split()))
    }
