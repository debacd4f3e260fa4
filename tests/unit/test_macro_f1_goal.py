"""Macro-F1 as the measure of goal, gate and release, and the test behind it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydantic import ValidationError
from sklearn.metrics import f1_score

from components.contracts.recipe import DecideSection
from components.contracts.rows import Prompt, Result
from components.decide.gate import compare, decide
from components.errors import UserError
from components.macro_f1 import Choice, influences, macro_f1, macro_f1_test
from components.measures import Scores, measure_of
from components.prepare.outlook import check_references, outlook_of
from components.publish.comparison import Rule
from components.publish.comparison import compare as compare_release
from components.runtime.context import Context
from tests.unit.classifying import classes, measured_choices
from tests.unit.crafted import recipe_of

GOAL = {"goal": {"metric": "macro_f1", "threshold": 0.9}}
SECTION = DecideSection.model_validate(GOAL)


def results(choices: list[Choice]) -> list[Result]:
    return [
        Result(
            prompt_id=f"{number:04}",
            split="validation",
            correct=True,
            text="a",
            finished=True,
            num_tokens=1,
            label=right,
            predicted=chosen,
        )
        for number, (right, chosen) in enumerate(choices)
    ]


def drawn(rights: list[str], share: float, seed: int) -> list[Choice]:
    """Choices of which this share is right, and the others any class."""
    dice = random.Random(seed)
    names = sorted(set(rights))
    return [
        (name, name if dice.random() < share else dice.choice(names)) for name in rights
    ]


SKEWED = ["common"] * 300 + ["other"] * 80 + ["rare"] * 20


def test_the_value_is_scikit_learns_and_its_interval_is_of_what_a_prompt_changes() -> (
    None
):
    choices = drawn(SKEWED, 0.6, 1)
    right, chosen = zip(*choices, strict=True)
    scores = Scores.of(results(choices), "macro_f1")
    assert scores.value() == pytest.approx(f1_score(right, chosen, average="macro"))
    assert sum(influences(choices)) == pytest.approx(0)
    for place in (0, 399):
        once_more = macro_f1([*choices * 500, choices[place]])
        change = (once_more - macro_f1(choices)) * 500 * len(choices)
        assert influences(choices)[place] == pytest.approx(change, rel=0.01)
    low, high = scores.interval()
    assert low < scores.value() < high
    # As wide as the spread of such samples: 19 of 20 are within it.
    values = [macro_f1(drawn(SKEWED, 0.6, seed)) for seed in range(200)]
    middle = sum(values) / len(values)
    assert (
        0.85
        < sum(abs(value - middle) < (high - low) / 2 for value in values) / 200
        < 1.0
    )
    assert Scores.of(results([("a", "a"), ("b", "b")]), "macro_f1").interval() == (
        1.0,
        1.0,
    )
    assert measure_of("macro_f1").improves(0.6, 0.5)


def test_a_gain_in_all_classes_is_promoted_and_one_that_a_rare_class_pays_for_is_not() -> (
    None
):
    old = drawn(SKEWED, 0.5, 2)
    new = [
        (right, right if number % 2 else chosen)
        for number, (right, chosen) in enumerate(old)
    ]
    comparison = compare(results(old), results(new), SECTION, 0.01)
    ruling = decide(comparison)
    assert ruling.promote
    gain = macro_f1(new) - macro_f1(old)
    assert f"(macro-F1 {gain:+.4f}; p = " in ruling.reason
    assert (
        f"the class of {comparison.wins} prompts only the candidate found, of 0 only"
        in (ruling.reason)
    )
    assert "to show a gain of a macro-F1 more by 0." in comparison.power
    assert decide(compare(results(new), results(old), SECTION, 0.01)).reason.startswith(
        "not better"
    )
    # 40 prompts more are right, all of the common class, and 10 of the rare one are wrong now.
    base = [(name, name) for name in SKEWED]
    champion = [("common", "other")] * 40 + base[40:]
    candidate = base[:-10] + [("rare", "common")] * 10
    rejected = compare(results(champion), results(candidate), SECTION, 0.05)
    assert rejected.wins == 40
    assert rejected.losses == 10
    assert not decide(rejected).promote
    with pytest.raises(
        UserError, match=r"prompt 0000 of split validation has no likeliest class"
    ):
        compare(results([("a", "")]), results([("a", "a")]), SECTION, 0.01)


def test_five_prompts_of_a_class_that_lost_none_do_not_prove_that_it_loses_none() -> (
    None
):
    """A candidate that is wrong on 3 of 10 such prompts shows five without a loss in 1 of 6 draws."""
    pairs = [("common", "other", "common")] * 16 + [
        ("common", "common", "common")
    ] * 184
    pairs += [("other", "other", "other")] * 60 + [("rare", "rare", "rare")] * 5
    few = macro_f1_test(pairs, 0.05)
    many = macro_f1_test([*pairs, *[("rare", "rare", "rare")] * 60], 0.05)
    assert few.p_value > 0.1
    assert many.p_value < 0.05
    assert few.detectable is not None
    assert many.detectable is not None
    assert many.detectable < few.detectable
    equal = [("common", "common", "common")] * 50 + [("rare", "rare", "rare")] * 50
    assert macro_f1_test(equal, 0.05).p_value == 1.0
    # Models that agree everywhere differ by no margin, as far as 50 prompts a class can tell.
    assert macro_f1_test(equal, 0.05, margin=0.1).p_value < 0.05
    assert macro_f1_test(equal, 0.05, margin=0.01).p_value > 0.05


def test_a_release_is_compared_by_the_classes_that_its_files_find_likeliest(
    context: Context, tmp_path: Path
) -> None:
    recipe = recipe_of(decide=GOAL)
    prompts = classes(*"123" * 12)
    measured, choices = measured_choices(context, recipe, prompts, tmp_path)
    for row, prompt, choice in zip(measured, prompts, choices, strict=True):
        assert (row.label, row.predicted) == (prompt.tags["label"], choice.name)
    better = [row.model_copy(update={"predicted": row.label}) for row in measured]
    rule = Rule(0.05, 0.2, "macro_f1", "macro_f1", "")
    rival = compare_release("release", "release 1", measured, better, rule)
    assert rival.verdict == "better"
    assert f"of 36 (macro-F1 {rival.gain:+.4f}); p = " in rival.why
    assert (
        compare_release("base", "base", better, measured, rule).verdict == "not proved"
    )
    alike = compare_release("release", "release 1", better, better, rule)
    assert alike.verdict == "non-inferior"
    assert "of a loss of 0.2 or more" in alike.why


def test_classes_too_rare_to_decide_and_what_cannot_be_tested_are_refused() -> None:
    recipe = recipe_of(decide=GOAL)
    enough = classes(*"aaaaabbbbb")
    check_references(recipe, {"validation": enough, "test": classes("a", "b")})
    with pytest.raises(
        UserError, match=r"fewer than 5 prompts of some classes \(b 4, c 0\)"
    ):
        check_references(recipe, {"validation": enough[:9], "test": classes("a", "c")})
    plain = Prompt(id="p", text="1+1=", verifier="exact", reference={"answer": "2"})
    with pytest.raises(
        UserError, match=r"metric is macro_f1, and split test has 1 of 2 prompts"
    ):
        check_references(recipe, {"validation": enough, "test": [plain, *classes("a")]})
    assert (
        "the gate compares macro-F1 over 40"
        in outlook_of(recipe, classes(*"ab" * 20), 99).in_words
    )
    with pytest.raises(ValidationError, match="a macro-F1 is from 0 to 1"):
        DecideSection.model_validate({"goal": {"metric": "macro_f1", "threshold": 2}})
    with pytest.raises(
        ValidationError, match="takes every prompt for itself: leave out family"
    ):
        DecideSection.model_validate({**GOAL, "family": "topic"})
