"""Numbers of a model's results, against their definitions and other libraries."""

from __future__ import annotations

import math
import random

import pytest
from sklearn.metrics import brier_score_loss, f1_score, precision_recall_fscore_support

from components.contracts.rows import Prompt, Sample, TextResult
from components.evaluate.scores import intervals, scores_of, text_scores
from components.evaluate.verification_gap import generation_verification
from components.measures import class_choice
from components.statistics import pass_at_k
from components.verifiers.numeric_error import error_of
from tests.unit.measuring import question, result


def sampled(number: int, texts: str) -> list[Sample]:
    return [
        Sample(
            prompt_id=question(number).id,
            index=index,
            seed=index,
            text=text,
            num_tokens=2,
            finished=True,
        )
        for index, text in enumerate(texts)
    ]


def test_pass_at_k_is_given_for_every_power_of_two_with_its_interval() -> None:
    rows = [
        result(100, split="test"),
        *(
            result(
                number,
                split="validation",
                num_samples=6,
                num_correct=number % 7,
                tags={"kind": "ab"[number % 2]},
            )
            for number in range(42)
        ),
    ]
    scores = scores_of(rows, 6)
    assert list(scores.pass_at) == ["1", "2", "4", "6"]
    assert scores.pass_at["1"].value == pytest.approx(0.5)
    expected = sum(pass_at_k(6, right, 2) for right in range(7)) / 7
    assert scores.pass_at["2"].value == pytest.approx(expected)
    for point in scores.pass_at.values():
        assert 0 <= point.low < point.value < point.high <= 1
        assert point.n == 42
    assert scores.pass_at_k is not None
    assert scores.pass_at_k == scores.pass_at["6"]
    shares = [own.pass_at_k or 0.0 for own in scores.slices.values()]
    assert list(scores.slices) == ["kind=a", "kind=b"]
    assert sum(shares) / 2 == pytest.approx(scores.pass_at_k.value)


def test_slices_have_accuracy_with_interval_ends_and_lengths() -> None:
    rows = [
        result(
            number,
            split=split,
            correct=number % 4 > 0,
            num_tokens=number,
            tags={"length": str(number % 2)},
        )
        for split in ("validation", "test")
        for number in range(40)
    ]
    scores = scores_of(rows, 0)
    one = scores.slices["length=1"]
    assert (one.accuracy, one.n, one.mean_answer_tokens) == (1.0, 20, 20.0)
    assert one.high == 1.0
    assert 0.8 < one.low < 0.9
    assert not scores.pass_at
    assert not scores.numeric
    assert not scores.classification
    low, high = intervals(rows, scores, None).test_accuracy
    assert low < scores.test_accuracy == 0.75 < high


def test_macro_f1_and_its_parts_are_those_of_scikit_learn() -> None:
    draw = random.Random(1)
    truth = [draw.choice("abc") for _ in range(200)]
    said = [one if draw.random() < 0.6 else draw.choice("abcd") for one in truth]
    rows = [
        result(number, split="test", label=right, predicted=guess)
        for number, (right, guess) in enumerate(zip(truth, said, strict=True))
    ]
    found = scores_of([result(999, split="validation"), *rows], 0).classification[
        "test"
    ]
    assert found.macro_f1 == pytest.approx(
        f1_score(truth, said, average="macro", zero_division=0)
    )
    parts = precision_recall_fscore_support(
        truth, said, labels=list("abcd"), zero_division=0
    )
    for place, label in enumerate("abcd"):
        mine = found.labels[label]
        assert (mine.precision, mine.recall, mine.f1, mine.n) == pytest.approx(
            tuple(part[place] for part in parts)
        )
    assert found.low < found.accuracy < found.high


def test_the_brier_score_is_that_of_scikit_learn_and_ties_go_to_the_first_label() -> (
    None
):
    draw = random.Random(2)
    labels = ["a", "b", "c"]
    truth = [draw.choice(labels) for _ in range(50)]
    raw = [[draw.random() for _ in labels] for _ in truth]
    chances = [[one / sum(row) for one in row] for row in raw]
    choices = [
        class_choice(labels, row, right)
        for row, right in zip(chances, truth, strict=True)
    ]
    rows = [
        result(
            number,
            split="test",
            label=right,
            predicted=one.name,
            label_error=one.squared_error,
        )
        for number, (right, one) in enumerate(zip(truth, choices, strict=True))
    ]
    found = scores_of([result(999, split="validation"), *rows], 0).classification[
        "test"
    ]
    assert found.brier == pytest.approx(brier_score_loss(truth, chances, labels=labels))
    tied = class_choice(labels, [0.4, 0.4, 0.2], "b")
    assert tied.name == "a"
    assert tied.squared_error == pytest.approx(0.4**2 + 0.6**2 + 0.2**2)
    older = [row.model_copy(update={"label_error": None}) for row in rows]
    measured = scores_of([result(999, split="validation"), *older], 0).classification[
        "test"
    ]
    assert measured.brier is None


def test_numbers_have_a_squared_error_and_what_is_no_number_is_counted() -> None:
    def asked(answer: str) -> Prompt:
        return Prompt(
            id="x", text="?", verifier="numeric", reference={"answer": answer}
        )

    assert error_of(asked("40"), "so the answer is 42") == 2.0
    assert error_of(asked("0.5"), "50%") == 0.0
    assert error_of(asked("40"), "I do not know") is None
    assert error_of(asked("40"), "9" * 300) is None
    assert error_of(question(10), "42") is None
    rows = [
        result(number, split="test", numeric=True, error=error)
        for number, error in enumerate((1.0, -3.0, None, 0.0, 3.0, -5.0))
    ]
    found = scores_of([result(9, split="validation"), *rows], 0).numeric
    assert found.keys() == {"test"}
    errors = found["test"]
    assert (errors.n, errors.unparsed) == (6, 1)
    # The error of 5 counts like the largest of the others.
    assert errors.mse == pytest.approx(28 / 5)
    assert errors.mae == pytest.approx(10 / 5)
    assert errors.low is not None
    assert errors.high is not None
    assert errors.low < 28 / 5 < errors.high


def test_one_answer_that_is_far_off_does_not_decide_the_mean_errors() -> None:
    errors = [float(size) for size in range(-10, 11)]
    for far in (11.0, -1e67):
        rows = [
            result(
                number,
                split="validation",
                numeric=True,
                error=error,
                tags={"length": "2"},
            )
            for number, error in enumerate([*errors, far])
        ]
        scores = scores_of([*rows, result(99, split="test")], 0)
        numeric = scores.numeric["validation"]
        assert numeric.mse == pytest.approx((770 + 100) / 22)
        assert numeric.mae == pytest.approx((110 + 10) / 22)
        assert scores.slices["length=2"].mse == numeric.mse
    right = [
        result(number, split="validation", numeric=True, error=0.0)
        for number in range(3)
    ]
    all_right = scores_of([*right, result(99, split="test")], 0).numeric["validation"]
    assert (all_right.mse, all_right.mae) == (0.0, 0.0)


def test_the_generation_verification_gap_is_what_agreement_gains_over_one_sample() -> (
    None
):
    prompts = [question(number) for number in (17, 25, 31)]
    samples = [*sampled(17, "1112"), *sampled(25, "3344"), *sampled(31, "3399")]
    verdicts = [
        sample.text == {17: "1", 25: "2", 31: "3"}[number]
        for number, sample in zip([17] * 4 + [25] * 4 + [31] * 4, samples, strict=True)
    ]
    found = generation_verification(prompts, samples, verdicts)
    assert found is not None
    assert found.sample_accuracy == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert found.majority_accuracy == pytest.approx(2 / 3), (
        "of equally frequent answers the first drawn counts"
    )
    assert found.gap == pytest.approx(found.majority_accuracy - found.sample_accuracy)
    assert found.low < found.gap < found.high
    assert (found.k, found.n) == (4, 3)
    assert generation_verification(prompts, [], []) is None


def test_perplexity_weighs_tokens_and_its_interval_holds_the_truth_19_times_of_20() -> (
    None
):
    draw = random.Random(3)

    def texts() -> list[TextResult]:
        return [
            TextResult(
                id=str(number),
                split="retention",
                loss=draw.gauss(2.0, 0.5),
                num_tokens=draw.randint(5, 50),
                num_right=3,
            )
            for number in range(60)
        ]

    found = text_scores(
        [
            TextResult(id="a", split="retention", loss=1.0, num_tokens=1, num_right=1),
            TextResult(id="b", split="retention", loss=2.0, num_tokens=3, num_right=0),
        ]
    )
    assert found is not None
    assert found.perplexity == pytest.approx(math.exp(1.75))
    assert (found.token_accuracy, found.accuracy, found.tokens) == (0.25, 0.5, 4)
    held = [
        one.low < math.exp(2.0) < one.high
        for one in (text_scores(texts()) for _ in range(400))
        if one
    ]
    assert 0.92 < sum(held) / len(held) < 0.98
    assert text_scores([]) is None
