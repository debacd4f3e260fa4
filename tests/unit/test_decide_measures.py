"""A round in numbers: each is computed from rows like those of a run that has something wrong."""

from __future__ import annotations

import math
import random

import pytest

from components.contracts.rows import Prompt, Result, TrainingRow
from components.contracts.summaries.select import PromptKind, Votes
from components.decide.reflection.measures import (
    answer_measures,
    human_loss_measures,
    loosely,
    loss_measures,
    mix_measures,
    references_of,
    spikes,
    verifier_measures,
)
from tests.unit.crafted import ask, evaluate_summary, train_summary


def row(
    prompt: str, completion: str, source: str = "labelled", weight: float = 1.0
) -> TrainingRow:
    return TrainingRow.model_validate(
        {
            "id": prompt,
            "prompt": prompt,
            "completion": completion,
            "source": source,
            "round": 0,
            "weight": weight,
        }
    )


def answer(prompt: Prompt, text: str, *, finished: bool = True) -> Result:
    right = text == prompt.reference["answer"]
    return Result(
        prompt_id=prompt.id,
        split="validation",
        correct=right,
        text=text,
        finished=finished,
        num_tokens=3,
        tags=prompt.tags,
    )


def test_a_loss_that_is_not_finite_counts_as_a_skipped_step() -> None:
    found = loss_measures(
        train_summary(skipped_steps=1), [2.0, None, math.inf, 1.5, 1.0, 0.8, 0.7]
    )
    assert found["skipped_steps"] == 3
    assert found["first_loss"] == 2.0
    assert found["last_loss"] == pytest.approx(0.75)
    without_dev = train_summary(best_dev_loss=None, final_dev_loss=None)
    assert loss_measures(without_dev, [None]) == {"skipped_steps": 1.0}


def test_training_far_above_the_dev_loss_is_told() -> None:
    train = train_summary(best_dev_loss=0.2, final_dev_loss=0.3)
    found = loss_measures(train, [1.0, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert found["above_dev"] == pytest.approx(0.6)
    assert found["dev_rise"] == pytest.approx(0.1)


def test_spikes_stand_out_of_noise_and_noise_does_not() -> None:
    draw = random.Random(0)
    quiet = [1.0 + draw.uniform(-0.3, 0.3) for _ in range(100)]
    assert spikes(quiet) == []
    assert spikes([*quiet[:40], 7.0, *quiet[40:70], 5.0, *quiet[70:]]) == [40, 71]


def test_longer_rows_that_are_another_task_are_no_spikes_and_spikes_among_them_are() -> (
    None
):
    draw = random.Random(0)
    tokens = [
        draw.choice([95, 100, 105, 300]) if step % 7 else 300 for step in range(200)
    ]
    losses = [
        draw.uniform(0.05, 0.1) if count < 300 else draw.uniform(1.5, 2.5)
        for count in tokens
    ]
    assert len(spikes(losses)) > 10
    assert spikes(losses, tokens) == []
    at = next(step for step in range(100, 200) if tokens[step] == 300)
    losses[at] = 9.0
    assert spikes(losses, tokens) == [at]
    assert loss_measures(train_summary(), losses, tokens)["loss_spikes"] == 1.0


def test_the_loss_on_human_text_is_compared_with_the_champions() -> None:
    candidate, champion = (
        evaluate_summary(perplexity=value) for value in (math.e, 1.0)
    )
    assert human_loss_measures(candidate, champion) == {
        "human_loss": pytest.approx(1.0),
        "human_loss_rise": pytest.approx(1.0),
    }
    assert human_loss_measures(evaluate_summary(perplexity=None), champion) == {}
    assert human_loss_measures(candidate, None) == {"human_loss": pytest.approx(1.0)}


def test_answers_that_go_on_are_told_from_answers_that_are_cut() -> None:
    prompts = [ask(f"{number}=", f"{number}") for number in range(10, 14)]
    given = [
        answer(prompts[0], "10 10 10", finished=False),
        answer(prompts[1], "1", finished=False),
        answer(prompts[2], "99", finished=False),
        answer(prompts[3], "13"),
    ]
    found = answer_measures(
        given,
        [answer(prompts[3], "13"), answer(prompts[2], "12")],
        references_of(prompts),
    )
    assert found == {
        "accuracy": 0.25,
        "finished_share": 0.25,
        "runs_on": 0.25,
        "cut_short": 0.25,
        "same_answers": 0.25,
    }


def test_rows_that_look_the_same_are_repeated_and_validation_prompts_are_found_in_the_mix() -> (
    None
):
    rows = [
        row("12=", "3"),
        row("1 2=", "3"),
        row("12 =", "3."),
        row("5=", "7", "self", 2.0),
        row("8=", "9", "self", 1.0),
    ]
    found = mix_measures(rows, [ask("5 =", "7"), ask("77=", "1")])
    assert found["repeated"] == found["repeated_labelled"] == pytest.approx(2 / 6)
    assert found["labelled_weight"] == pytest.approx(0.5)
    assert found["contaminated"] == 0.5
    assert found["answer_shift"] == pytest.approx(1.0)
    assert mix_measures([], []) == {}


def test_texts_are_the_same_to_a_person_but_numbers_and_signs_stay_different() -> None:
    assert loosely(" What is 3 + 4? ") == loosely("what is 3+4")
    assert loosely("3-4") != loosely("3+4")


def test_a_verifier_is_held_against_what_the_champion_gets_right() -> None:
    votes = Votes(
        prompts=60,
        agreement=1.0,
        prompts_passed=15,
        passed_agreement=1.0,
        refused_agreement=1.0,
        minority=0,
        minority_passed=0,
        accepted=60,
        disputed=0,
        kinds=(PromptKind(tags={"task": "add"}, prompts=60),),
    )
    champion = [answer(ask(f"9{number}", "1", task="add"), "1") for number in range(40)]
    champion += [
        answer(ask("other", "1", task="sort"), "2")
    ]  # another kind of prompt says nothing of these
    found = verifier_measures(votes, champion)
    assert (found["majority_passed"], found["majority_expected"]) == (0.25, 1.0)
    assert found["verifier_z"] < -8
    assert (
        found["agreement"],
        found["refused_agreement"],
        found["passed_agreement"],
    ) == (
        1.0,
        1.0,
        1.0,
    )
    assert found["disputed"] == 0.0
    assert "minority_passed" not in found, "no share is taken of a few answers"


def test_a_champion_that_was_never_asked_the_like_says_nothing_of_a_verifier() -> None:
    votes = Votes(
        prompts=60,
        agreement=0.5,
        prompts_passed=0,
        passed_agreement=None,
        refused_agreement=0.5,
        minority=120,
        minority_passed=30,
        accepted=30,
        disputed=30,
        kinds=(),
    )
    found = verifier_measures(votes, [answer(ask("1+1=", "2"), "2")])
    assert found == {
        "agreement": 0.5,
        "majority_passed": 0.0,
        "disputed": 1.0,
        "majority_prompts": 60.0,
        "minority_passed": 0.25,
        "refused_agreement": 0.5,
    }
