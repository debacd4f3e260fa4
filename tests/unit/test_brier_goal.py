"""The Brier score as the measure of goal, gate and release."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pydantic import ValidationError

from components.contracts.recipe import DecideSection
from components.contracts.rows import Prompt, Result
from components.decide.gate import compare, decide
from components.errors import UserError
from components.measures import Scores, measure_of
from components.prepare.outlook import check_references, outlook_of
from components.publish.comparison import Rule
from components.publish.comparison import compare as compare_release
from components.runtime.context import Context
from tests.unit.classifying import classes, measured_choices
from tests.unit.crafted import recipe_of

SECTION = DecideSection.model_validate({"goal": {"metric": "brier", "threshold": 0.2}})


def results(errors: list[float | None], *, correct: bool = True) -> list[Result]:
    return [
        Result(
            prompt_id=str(number),
            split="validation",
            correct=correct,
            text="a",
            finished=True,
            num_tokens=1,
            label="a",
            label_error=error,
        )
        for number, error in enumerate(errors)
    ]


def test_the_score_is_a_mean_with_students_interval_and_lower_is_better() -> None:
    rng = random.Random(2)
    errors = [rng.uniform(0, 2) for _ in range(30)]
    scores = Scores.of(results([*errors]), "brier")
    assert scores.value() == pytest.approx(np.mean(errors))
    expected = scipy.stats.t.interval(
        0.95, 29, np.mean(errors), scipy.stats.sem(errors)
    )
    assert scores.interval() == pytest.approx(expected)
    assert Scores.of(results([0.0, 0.0]), "brier").interval() == (0.0, 0.0)
    assert Scores.of(results([1.0]), "brier").interval() == (0.0, 2.0)
    measure = measure_of("brier")
    assert measure.improves(0.1, 0.2)
    assert measure.reaches(0.2, 0.2)
    assert not measure.reaches(0.21, 0.2)


def test_surer_right_answers_are_promoted_and_surer_wrong_ones_are_not() -> None:
    rng = random.Random(1)
    old: list[float | None] = [rng.uniform(0.3, 0.9) for _ in range(200)]
    new = [error - rng.uniform(0.0, 0.3) for error in old if error is not None]
    # The same answers are right: an accuracy would see no difference.
    comparison = compare(results(old), results([*new]), SECTION, 0.01)
    ruling = decide(comparison)
    assert ruling.promote
    gain = float(
        np.mean(
            [before - after for before, after in zip(old, new, strict=True) if before]
        )
    )
    assert f"mean Brier score {-gain:+.4f}" in ruling.reason
    assert "200 prompts with a smaller brier" in ruling.reason
    assert comparison.power.startswith(
        "these prompts are enough to show a gain of a Brier score"
    )
    backwards = decide(compare(results([*new]), results(old), SECTION, 0.01))
    assert not backwards.promote
    assert backwards.reason.startswith("not better")
    # A little better nearly everywhere, and sure of the wrong class in a few: the mean is worse.
    few: list[float | None] = [(error or 0) - 0.01 for error in old]
    few[:10] = [2.0] * 10
    assert not decide(compare(results(old), results(few), SECTION, 0.01)).promote
    with pytest.raises(
        UserError, match="prompt 0 of split validation has no probabilities"
    ):
        compare(results([None]), results([None]), SECTION, 0.01)


def test_a_release_is_compared_by_the_probabilities_of_its_files(
    context: Context, tmp_path: Path
) -> None:
    recipe = recipe_of(decide={"goal": {"metric": "brier", "threshold": 0.2}})
    prompts = classes(*"123" * 12)
    measured, choices = measured_choices(context, recipe, prompts, tmp_path)
    for row, choice in zip(measured, choices, strict=True):
        assert row.label_error == pytest.approx(choice.squared_error, abs=1e-5)
    better = [row.model_copy(update={"label_error": 0.0}) for row in measured]
    rule = Rule(0.05, None, "brier", "brier", "")
    rival = compare_release("base", "base", measured, better, rule)
    assert rival.verdict == "better"
    assert "a smaller brier on 36 prompts" in rival.why
    assert rival.scores.value == pytest.approx(
        sum(row.label_error or 0 for row in measured) / 36
    )


def test_data_without_classes_and_scores_out_of_range_are_refused() -> None:
    recipe = recipe_of(decide={"goal": {"metric": "brier", "threshold": 0.2}})
    check_references(recipe, {"validation": classes("a", "b")})
    plain = Prompt(id="p", text="1+1=", verifier="exact", reference={"answer": "2"})
    for prompts, told in (
        ([*classes("a", "b"), plain], "1 of 3"),
        (classes("a", "a"), "1 classes"),
    ):
        with pytest.raises(
            UserError, match=rf"metric is brier, and split validation .*{told}"
        ):
            check_references(recipe, {"validation": prompts})
    outlook = outlook_of(recipe, classes(*"ab" * 20), 100)
    assert "the gate compares Brier scores over 40" in outlook.in_words
    with pytest.raises(ValidationError, match="a Brier score is from 0"):
        DecideSection.model_validate({"goal": {"metric": "brier", "threshold": 3}})
