"""Measures of how varied texts are, against their definitions."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from components.evaluate.diversity import (
    distinct_share,
    entropy,
    ngrams,
    self_bleu,
    tokens_of,
    vendi_score,
)


def test_words_digits_and_signs_are_tokens() -> None:
    assert tokens_of("Reverse 4711, PLEASE!") == [
        "reverse",
        "4",
        "7",
        "1",
        "1",
        ",",
        "please",
        "!",
    ]


def test_distinct_n_is_the_share_of_different_ngrams() -> None:
    assert distinct_share(ngrams(["a b a b"], 1)) == 2 / 4
    assert distinct_share(ngrams(["a b a b", "b a"], 2)) == 2 / 4
    assert distinct_share(ngrams(["a", "", "b"], 2)) is None, (
        "no n-gram reaches over the end of a text"
    )


def test_distinct_n_at_a_smaller_size_is_the_mean_over_all_samples_of_that_size() -> (
    None
):
    counts = ngrams(["a a a b b c d"], 1)
    words = "aaabbcd"
    exact = statistics.fmean(
        len({words[place] for place in drawn})
        for drawn in itertools.combinations(range(7), 3)
    )
    assert distinct_share(counts, 3) == pytest.approx(exact / 3)
    assert distinct_share(counts, 7) == distinct_share(counts) == 4 / 7
    with pytest.raises(ValueError, match="8 of 7"):
        distinct_share(counts, 8)


def test_more_of_the_same_text_looks_less_varied_unless_compared_at_equal_size() -> (
    None
):
    draw = random.Random(0)
    short = [" ".join(draw.choices("abcdefgh", k=6)) for _ in range(50)]
    long = [" ".join(draw.choices("abcdefgh", k=24)) for _ in range(50)]
    few, many = ngrams(short, 2), ngrams(long, 2)
    all_few, all_many = distinct_share(few) or 0.0, distinct_share(many) or 0.0
    assert all_many < 0.5 * all_few
    assert distinct_share(many, few.total()) == pytest.approx(all_few, rel=0.05)


def test_self_bleu_is_high_for_repetition_and_zero_for_texts_without_a_word_in_common() -> (
    None
):
    assert self_bleu(["the cat sat on the mat"] * 5) == pytest.approx(100.0)
    apart = self_bleu(
        [" ".join(chr(97 + 5 * row + place) for place in range(5)) for row in range(5)]
    )
    assert apart is not None
    assert apart < 15
    assert self_bleu(["alone"]) is None


def test_the_vendi_score_counts_different_texts() -> None:
    apart = ["red green", "one two", "cat dog", "north south"]
    assert vendi_score(apart) == pytest.approx(4.0, rel=1e-6)
    assert vendi_score(["the same words"] * 7) == pytest.approx(1.0, rel=1e-6)
    assert vendi_score(apart * 3) == pytest.approx(4.0, rel=1e-6)
    assert vendi_score(["", "", "x"]) == pytest.approx(
        math.exp(entropy("aab")), rel=1e-6
    )
    assert vendi_score([]) is None


def test_entropy_is_in_nats() -> None:
    assert entropy("abcd") == pytest.approx(math.log(4))
    assert entropy("aaaa") == entropy("") == 0.0
