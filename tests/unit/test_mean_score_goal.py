"""The mean score of a graded checker as the measure of goal, gate and release."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from pydantic import ValidationError

from components.contracts.recipe import DecideSection
from components.contracts.rows import Check, Prompt, Result, prompt_id, read_rows
from components.contracts.summaries import EvaluateSummary
from components.decide.gate import compare, decide
from components.errors import UserError
from components.measures import Scores, measure_of
from components.prepare.outlook import check_references, check_texts, outlook_of
from components.publish.comparison import Rule, results_of
from components.publish.comparison import compare as compare_release
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_summary
from components.sandbox.code_bundles import register
from tests.unit.crafted import recipe_of
from tests.unit.measuring import begun, evaluate, human, model
from tests.unit.tiny import save_tiny

GOAL = {"goal": {"metric": "mean_score", "threshold": 0.9}}
SECTION = DecideSection.model_validate(GOAL)
SOURCE = "def check(prompt, answer, reference):\n    return min(1.0, len(answer) / 4)\n"
"""A checker that gives a quarter for each of the first four characters."""


def results(scores: Sequence[float | None]) -> list[Result]:
    return [
        Result(
            prompt_id=str(number),
            split="validation",
            correct=True,
            score=score,
            text="a",
            finished=True,
            num_tokens=1,
        )
        for number, score in enumerate(scores)
    ]


def graded_prompts(count: int, first: int = 0, code: str = "") -> list[Prompt]:
    return [
        Prompt(
            id=prompt_id(f"{number}+{number}="),
            text=f"{number}+{number}=",
            verifier="my_checker.py:check",
            check=Check(code=code, threshold=0.75),
            reference={"answer": "1"},
        )
        for number in range(first, first + count)
    ]


def registered(folder: Path) -> str:
    """Return the digest of the checker's code, which is known from now on."""
    with zipfile.ZipFile(folder / "checker.zip", "w") as bundle:
        bundle.writestr("my_checker.py", SOURCE)
    digest = hashlib.sha256((folder / "checker.zip").read_bytes()).hexdigest()
    register(digest, folder / "checker.zip")
    return digest


def test_the_measure_is_a_mean_with_students_interval_and_higher_is_better() -> None:
    rng = random.Random(3)
    values = [rng.random() for _ in range(30)]
    scores = Scores.of(results(values), "mean_score")
    assert scores.value() == pytest.approx(np.mean(values))
    expected = scipy.stats.t.interval(0.95, 29, scores.value(), scipy.stats.sem(values))
    assert scores.interval() == pytest.approx(expected)
    assert Scores.of(results([1.0]), "mean_score").interval() == (0.0, 1.0)
    measure = measure_of("mean_score")
    assert measure.improves(0.6, 0.5)
    assert measure.reaches(0.9, 0.9)
    assert not measure.reaches(0.89, 0.9)
    assert measure.text(0.5) == "0.5"


def test_answers_that_come_nearer_are_promoted_and_a_few_ruined_ones_are_seen() -> None:
    rng = random.Random(1)
    old = [rng.uniform(0.2, 0.6) for _ in range(200)]
    new = [score + rng.uniform(0.0, 0.3) for score in old]
    # All of them are right by their threshold: an accuracy would see no difference.
    comparison = compare(results(old), results(new), SECTION, 0.01)
    ruling = decide(comparison)
    assert ruling.promote
    gain = float(
        np.mean([after - before for before, after in zip(old, new, strict=True)])
    )
    assert f"(mean score {gain:+.4f}; p = " in ruling.reason
    assert (
        "200 prompts with a larger score than the champion's, 0 with a smaller"
        in ruling.reason
    )
    assert "to show a gain of a mean score more by 0." in comparison.power
    backwards = decide(compare(results(new), results(old), SECTION, 0.01))
    assert not backwards.promote
    assert backwards.reason.startswith("not better")
    # A little better nearly everywhere, and nothing right in a few that were all right.
    whole = [1.0] * 10 + old[10:]
    few = [0.0] * 10 + [score + 0.01 for score in old[10:]]
    assert not decide(compare(results(whole), results(few), SECTION, 0.01)).promote
    with pytest.raises(UserError, match="prompt 0 of split validation has no score"):
        compare(results([None]), results([None]), SECTION, 0.01)


@pytest.mark.process
def test_evaluate_and_release_keep_the_scores_of_a_checker(
    context: Context, tmp_path: Path
) -> None:
    code = registered(tmp_path)
    recipe = recipe_of(decide=GOAL, generate={"max_new_tokens": 6})
    splits: dict[str, Any] = {
        "validation": graded_prompts(20, code=code),
        "test": graded_prompts(20, 20, code),
        "retention": [human(number) for number in range(4)],
    }
    receipt = evaluate(context, begun(context, recipe, **splits), model(context, 0))
    rows = list(read_rows(fetch(context, receipt, "results.jsonl"), Result))
    assert [row.score for row in rows] == [min(1.0, len(row.text) / 4) for row in rows]
    assert [row.correct for row in rows] == [len(row.text) >= 3 for row in rows]
    measured = read_summary(receipt, EvaluateSummary).measured["validation"][""]
    asked = [row.score or 0 for row in rows if row.split == "validation"]
    assert measured.value == pytest.approx(np.mean(asked))
    folder = save_tiny(tmp_path / "model", seed=0)
    released = results_of(context, recipe, folder, splits["test"], "test")
    assert [row.score for row in released] == [
        min(1.0, len(row.text) / 4) for row in released
    ]
    worse = [row.model_copy(update={"score": 0.0}) for row in released]
    better = [row.model_copy(update={"score": 1.0}) for row in released]
    rule = Rule(0.05, None, "mean_score", "score", "")
    rival = compare_release("base", "base", worse, better, rule)
    assert rival.verdict == "better"
    assert rival.why.startswith(
        "a larger score on 20 prompts, a smaller one on 0, of 20 (mean score +1.0000)"
    )
    assert compare_release("base", "base", better, worse, rule).verdict == "not proved"


def test_verifiers_without_scores_and_thresholds_out_of_range_are_refused() -> None:
    recipe = recipe_of(decide=GOAL)
    check_references(
        recipe, {"validation": graded_prompts(3), "test": graded_prompts(3, 3)}
    )
    plain = Prompt(id="p", text="1+1=", verifier="exact", reference={"answer": "2"})
    check_references(recipe, {"validation": [plain, *graded_prompts(1)]})
    with pytest.raises(
        UserError, match=r"mean_score, .* split test \(exact\) know right and wrong"
    ):
        check_references(recipe, {"validation": graded_prompts(3), "test": [plain]})
    text = Prompt(id="t", text="To be", is_text=True, verifier="exact")
    with pytest.raises(UserError, match="the data is raw text"):
        check_texts(recipe, [text])
    assert (
        "compares scores of answers over 40"
        in outlook_of(recipe, graded_prompts(40), 9).in_words
    )
    with pytest.raises(ValidationError, match="a mean score is from 0 to 1"):
        DecideSection.model_validate(
            {"goal": {"metric": "mean_score", "threshold": 1.5}}
        )
    with pytest.raises(ValidationError, match="score error is for"):
        DecideSection.model_validate({**GOAL, "score": "error"})
