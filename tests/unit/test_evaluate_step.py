"""The evaluate step over tiny real models: what it measures, and that champion and candidate are
held side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.contracts.recipe import Recipe
from components.contracts.rows import (
    Prompt,
    Result,
    Sample,
    TextResult,
    TrainingRow,
    prompt_id,
    read_rows,
)
from components.contracts.summaries import EvaluateSummary, TrainSummary
from components.contracts.summaries.evaluate import Collapse, RatioSign
from components.modeling.scoring import WORST_TOKEN_LOSS
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch, read_summary
from tests.unit.crafted import decided, recipe_of, train_summary
from tests.unit.measuring import begun, evaluate, human, model, question, round_zero
from tests.unit.tiny import save_tiny

SPLITS: dict[str, Any] = {
    "validation": [
        question(number, parity="odd" if number % 2 else "even") for number in range(40)
    ],
    "test": [question(number) for number in range(40, 80)],
    "retention": [human(number) for number in range(12)],
}


def recipe(**evaluation: Any) -> Recipe:
    return recipe_of(
        generate={"max_new_tokens": 4}, evaluate={"batch_size": 16, **evaluation}
    )


def summary_of(receipt: Receipt) -> EvaluateSummary:
    return read_summary(receipt, EvaluateSummary)


def rows(
    context: Context, receipt: Receipt, name: str, kind: Any = Result
) -> list[Any]:
    return list(read_rows(fetch(context, receipt, name), kind))


def later(
    context: Context,
    start: Receipt,
    champion: Receipt,
    evaluation: Receipt,
    **changes: Any,
) -> str:
    """URI of the state after round 0."""
    return decided(
        context,
        start,
        champion=champion.ref,
        champion_evaluation=evaluation.ref,
        first_evaluation=evaluation.ref,
        history=(round_zero(champion, evaluation),),
        **changes,
    )


def test_round_0_is_measured_alone(context: Context) -> None:
    start = begun(context, recipe(pass_k=3), **SPLITS)
    receipt = evaluate(context, start, model(context, 0))
    told = summary_of(receipt)
    assert receipt.objects.keys() == {
        "results.jsonl",
        "retention.jsonl",
        "samples.jsonl",
    }
    assert (told.champion, told.collapse, told.blocks, told.warnings) == (
        None,
        Collapse(),
        (),
        (),
    )
    for name, interval in told.intervals:
        low, high = interval
        assert low <= getattr(told, name) <= high, name
    assert told.slices.keys() == {"parity=even", "parity=odd"}
    assert len(rows(context, receipt, "results.jsonl")) == 80
    drawn = rows(context, receipt, "samples.jsonl", Sample)
    assert len(drawn) == 3 * 40
    asked = {
        row.prompt_id: row
        for row in rows(context, receipt, "results.jsonl")
        if row.num_samples
    }
    answers = {prompt.id: prompt.reference["answer"] for prompt in SPLITS["validation"]}
    assert asked.keys() == answers.keys(), (
        "no test prompt is sampled for what may block"
    )
    for prompt, row in asked.items():
        own = [sample.text for sample in drawn if sample.prompt_id == prompt]
        assert row.num_correct == sum(text == answers[prompt] for text in own)
    human_text = rows(context, receipt, "retention.jsonl", TextResult)
    assert [row.id for row in human_text] == [row.id for row in SPLITS["retention"]]
    assert told.retention is not None
    assert told.retention.perplexity == told.perplexity
    assert told.generation_verification is not None
    assert told.generation_verification.n == 40
    assert told.diversity.texts == 80
    assert told.diversity.sample_entropy is not None
    assert told.diversity.sample_entropy >= 0


def test_dev_prompts_are_answered_greedily_and_have_scores_of_their_own(
    context: Context,
) -> None:
    dev = [question(number, parity="odd") for number in range(80, 90)]
    start = begun(context, recipe(pass_k=2), **SPLITS, dev_prompts=dev)
    receipt = evaluate(context, start, model(context, 0))
    told = summary_of(receipt)
    asked = [
        row for row in rows(context, receipt, "results.jsonl") if row.split == "dev"
    ]
    assert {row.prompt_id for row in asked} == {prompt.id for prompt in dev}
    assert not any(row.num_samples for row in asked)
    assert told.dev_accuracy == sum(row.correct for row in asked) / 10
    assert told.dev_slices.keys() == {"parity=odd"}
    assert (told.dev_slices["parity=odd"].n, told.slices["parity=odd"].n) == (10, 20)
    without = evaluate(
        context, begun(context, recipe(pass_k=2), **SPLITS), model(context, 0)
    )
    assert (summary_of(without).dev_accuracy, summary_of(without).dev_slices) == (
        None,
        {},
    )
    # Other dev prompts change no score that decides.
    for name in (
        "validation_accuracy",
        "test_accuracy",
        "intervals",
        "pass_at",
        "slices",
    ):
        assert getattr(summary_of(without), name) == getattr(told, name), name


def test_a_champion_of_the_same_work_is_taken_from_its_receipt(
    context: Context,
) -> None:
    start, first = begun(context, recipe(pass_k=2), **SPLITS), model(context, 0)
    before = evaluate(context, start, first)
    context.costs.clear()
    after = evaluate(context, later(context, start, first, before), model(context, 1))
    assert summary_of(after).measurement.champion_reused is True
    assert (
        summary_of(after).measurement.champion
        == summary_of(before).measurement.candidate
    )
    assert (
        summary_of(after).measurement.candidate
        != summary_of(before).measurement.candidate
    )
    for name in ("results.jsonl", "retention.jsonl", "samples.jsonl"):
        assert after.objects[f"champion/{name}"] == before.objects[name]
        assert after.objects[name] != before.objects[name]
    assert context.costs["tokens_generated"] == summary_of(after).tokens, (
        "only the candidate was asked"
    )
    champion = summary_of(after).champion
    assert champion is not None
    for name, value in champion:
        assert value == getattr(summary_of(before), name)
    mine, theirs = (
        [row.prompt_id for row in rows(context, after, name)]
        for name in ("results.jsonl", "champion/results.jsonl")
    )
    assert mine == theirs
    assert after.inputs["champion"] == first.digest
    assert summary_of(after).collapse.signs.keys() >= {
        "perplexity",
        "length",
        "pass_at_k",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_computes_no_numbers_is_measured_as_bad_as_can_be(
    context: Context, value: float
) -> None:
    start, first = begun(context, recipe(pass_k=2), **SPLITS), model(context, 0)
    before = evaluate(context, start, first)

    def work(folder: Path) -> TrainSummary:
        save_tiny(
            folder / "model", seed=1, hidden_size=16, num_layers=1, intermediate_size=32
        )
        [path] = (folder / "model").glob("*.safetensors")
        weights = load_file(path)
        name = "model.layers.0.self_attn.q_proj.weight"
        save_file(
            weights | {name: torch.full_like(weights[name], value)},
            path,
            {"format": "pt"},
        )
        return train_summary(round=1)

    broken = commit_once(
        context,
        Task(run_id="crafted-run", name="train-broken", round=1),
        "train",
        config={"weights": str(value)},
        inputs={},
        seed=1,
        work=work,
    )
    told = summary_of(evaluate(context, later(context, start, first, before), broken))
    assert (told.validation_accuracy, told.test_accuracy, told.pass_at_k) == (
        0.0,
        0.0,
        0.0,
    )
    assert told.retention is not None
    assert (told.retention.loss, told.retention.accuracy) == (WORST_TOKEN_LOSS, 0.0)
    assert "perplexity" in {block.measure for block in told.blocks}


def test_a_champion_measured_by_other_settings_is_measured_anew_beside_the_candidate(
    context: Context,
) -> None:
    first, second = model(context, 0), model(context, 1)
    old = evaluate(
        context,
        begun(context, recipe_of(generate={"max_new_tokens": 2}), **SPLITS),
        first,
    )
    start = begun(context, recipe(), **SPLITS)
    context.costs.clear()
    after = evaluate(context, later(context, start, first, old), second)
    assert summary_of(after).measurement.champion_reused is False
    assert context.costs["tokens_generated"] > summary_of(after).tokens, (
        "both were asked"
    )
    fresh = evaluate(context, start, first)
    assert (
        after.objects["champion/results.jsonl"]
        == fresh.objects["results.jsonl"]
        != old.objects["results.jsonl"]
    )
    assert (
        summary_of(after).measurement.champion
        == summary_of(fresh).measurement.candidate
    )


def test_the_first_promoted_model_stays_the_base_of_collapse_when_another_is_champion(
    context: Context,
) -> None:
    start, first, second = (
        begun(context, recipe(), **SPLITS),
        model(context, 0),
        model(context, 1),
    )
    zero = evaluate(context, start, first)
    one = evaluate(context, later(context, start, first, zero), second)
    state = later(context, start, first, zero)
    state = decided(
        context,
        start,
        round=1,
        champion=second.ref,
        champion_round=1,
        champion_evaluation=one.ref,
        first_evaluation=zero.ref,
        history=(round_zero(first, zero),),
    )
    same_as_zero = evaluate(context, state, first)
    assert summary_of(same_as_zero).measurement.champion_reused is True
    assert (
        same_as_zero.objects["champion/results.jsonl"] == one.objects["results.jsonl"]
    )
    told = summary_of(same_as_zero)
    for sign in told.collapse.signs.values():
        assert isinstance(sign, RatioSign)
        assert sign.ratio == 1.0
    assert told.blocks == told.warnings == ()


def test_a_model_that_lost_human_text_raises_the_alarm(context: Context) -> None:
    start, first = begun(context, recipe(), **SPLITS), model(context, 0)
    zero = evaluate(context, start, first)
    candidates = [
        evaluate(context, later(context, start, first, zero), model(context, seed))
        for seed in (1, 2)
    ]
    told = [summary_of(candidate) for candidate in candidates]
    worst = max(told, key=lambda one: one.perplexity or 0.0)
    first_perplexity = summary_of(zero).perplexity
    assert worst.perplexity is not None
    assert first_perplexity is not None
    ratio = worst.perplexity / first_perplexity
    assert worst.collapse.perplexity is not None
    assert worst.collapse.perplexity.ratio == pytest.approx(ratio)
    alarms = {one.measure for one in (*worst.blocks, *worst.warnings)}
    assert ("perplexity" in alarms) == (ratio > 1.05)


def test_labels_are_chosen_by_likelihood(context: Context) -> None:
    def labelled(number: int) -> Prompt:
        label = "11" if number % 2 else "2"
        text = f"{number:02d}="
        return Prompt(
            id=prompt_id(text),
            text=text,
            verifier="exact",
            reference={"answer": label},
            tags={"label": label},
        )

    taught = TrainingRow(
        id="t",
        prompt="0=",
        completion="305",
        source="labelled",
        round=0,
        tags={"label": "305"},
    )
    start = begun(
        context,
        recipe(),
        validation=[labelled(number) for number in range(10)],
        test=[*(labelled(number) for number in range(10, 30)), question(50)],
        train=[taught],
    )
    receipt = evaluate(context, start, model(context, 0))
    told = summary_of(receipt)
    found = told.classification
    assert (found["validation"].n, found["test"].n) == (10, 20)
    asked = [row for row in rows(context, receipt, "results.jsonl") if row.label]
    assert {row.predicted for row in asked} <= {"11", "2", "305"}
    right = [row.predicted == row.label for row in asked if row.split == "test"]
    assert found["test"].accuracy == sum(right) / 20
    errors = [row.label_error for row in asked if row.split == "validation"]
    assert all(0 <= error <= 2 for error in errors)
    assert found["validation"].brier == pytest.approx(sum(errors) / 10)
    headline = (told.label_accuracy, told.macro_f1, told.brier)
    validation = found["validation"]
    assert headline == (validation.accuracy, validation.macro_f1, validation.brier)
    assert told.test_slices["label=11"].label_accuracy == pytest.approx(
        sum(
            row.predicted == "11"
            for row in asked
            if row.label == "11" and row.split == "test"
        )
        / 10
    )
    assert summary_of(receipt).retention is None
    assert summary_of(receipt).perplexity is None


def test_what_is_not_measured_is_said(context: Context) -> None:
    def labelled(number: int) -> Prompt:
        text = f"{number}="
        return Prompt(
            id=prompt_id(text),
            text=text,
            verifier="exact",
            reference={"answer": text},
            tags={"label": text},
        )

    long = TrainingRow(
        id="long", prompt="1" * 600, completion="2", source="labelled", round=0
    )
    start = begun(
        context,
        recipe_of(generate={"max_new_tokens": 2}, train={"max_length": 20}),
        validation=[labelled(number) for number in range(70)],
        test=[question(99)],
        retention=[human(1), long],
    )
    told = summary_of(evaluate(context, start, model(context, 0)))
    assert told.skipped == {
        "classification": "70 labels, at most 64",
        "texts": "1 rows whose prompt is as long as train.max_length",
    }
    assert told.classification == {}
    assert told.retention is not None
    assert told.retention.n == 1
