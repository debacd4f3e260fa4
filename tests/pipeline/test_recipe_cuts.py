"""Short cuts of ready recipes: the recipe as it is shipped, with a small model and little data."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.cli.first_steps.try_model import Models, Settings, continue_texts
from components.cli.local.task_server import TaskServer
from components.contracts.rows import Dropped, TrainingRow, read_rows
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.report.runs import load_run
from components.report.views import RunView
from components.runtime.context import Context, make_context
from components.runtime.receipts import fetch, read_receipt, read_summary
from components.select.attribute_shift import attributes, distances
from components.select.filters.repeats import equations
from tests.benchmarks.pretrain_finetune import write_stages
from tests.pipeline.campaigns import call
from tests.pipeline.questions import PATTERNS, write_questions
from tests.unit.tiny import save_tiny

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL_MODEL = {
    "model.source": "scratch",
    "model.system_prompt": "",
    "model.scratch.architecture": "llama",
    "model.scratch.hidden_size": 64,
    "model.scratch.num_layers": 2,
    "model.scratch.num_heads": 4,
    "model.scratch.intermediate_size": 128,
    "model.scratch.max_length": 64,
    "model.scratch.tokenizer": "word",
}
CUT = {
    **SMALL_MODEL,
    "data.sources.0.uri": "train.jsonl",
    "data.sources.1.uri": "test.jsonl",
    "data.fractions": {
        "train": 0.2,
        "unlabelled": 0.4,
        "dev": 0.15,
        "validation": 0.25,
        "test": 0,
    },
    "generate.prompts_per_round": 120,
    "train.batch_size": 32,
    "train.micro_batch_size": 32,
    "train.precision": "fp32",
    "train.first.learning_rate": 0.003,
    "train.rounds.learning_rate": 0.0003,
    # A model that has learned for seconds is sure of little.
    "generate.temperature": 0.5,
    "train.first.steps": 26,
    "decide.goal.threshold": 1.0,
}
SLOW = 1e-6
"""A learning rate that moves nothing."""


def run_cut(
    recipe: str, folder: Path, changes: dict[str, Any], server: TaskServer
) -> tuple[Context, dict[str, Any]]:
    """Run a shipped recipe with changes from a folder with data; return (store, `--json`)."""
    write_questions(folder, rows=600, test_rows=60)
    store = f"file://{folder}/store"
    settings = [
        word
        for key, value in changes.items()
        for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    command = [
        sys.executable,
        f"{REPOSITORY}/pipeline.py",
        "run",
        recipe,
        "--store",
        store,
    ]
    done = call(
        [*command, "--rounds=1", "--json", *settings], folder, os.environ, 1100, server
    )
    assert done.returncode in (0, 1), done.stderr
    context = make_context(
        store, {**os.environ, "RATCHET_CACHE": f"{folder}/store-cache"}
    )
    return context, json.loads(done.stdout)


def accepted_of(context: Context, view: RunView) -> list[TrainingRow]:
    """The samples that round 1 learned from."""
    assert view.state is not None
    receipt = read_receipt(context, view.state.history[1].receipts["select"])
    return list(read_rows(fetch(context, receipt, "accepted.jsonl"), TrainingRow))


def test_the_cut_of_reflection_measures_classes_each_round_and_changes_what_holds_it_back(
    tmp_path: Path, server: TaskServer
) -> None:
    changes = {**CUT, "train.rounds.learning_rate": SLOW}
    context, told = run_cut("recipes/reflection.yaml", tmp_path, changes, server)
    view = load_run(context, told["run_id"])
    assert view.state is not None
    first, second = told["rounds"]
    for one in (first, second):
        assert 0 < one["macro_f1"] <= 1
        assert 0 <= one["brier"] < 2
        assert one["label_accuracy"] >= one["score"] - 0.05
    assert view.state.base is not None
    assert view.state.base.brier is not None
    assert view.state.base.brier > first["brier"], "a base from nothing knows no class"
    # No label of an unlabelled question was used, and nothing but a class was learnt.
    accepted = accepted_of(context, view)
    assert accepted
    assert {row.completion.strip() for row in accepted} <= PATTERNS.keys()
    # What holds the second training back is found, and the next round has more of it.
    (cause,) = [
        one for one in second["causes"] if one["change_name"] == "learning_rate_up"
    ]
    assert cause["name"] == "learning_rate_too_low"
    assert view.state.plan.learning_rate == 2 * SLOW
    page = (tmp_path / "store" / "runs" / told["run_id"] / "report.html").read_text(
        "utf-8"
    )
    assert f"macro-F1 {second['macro_f1']:.3f}, Brier {second['brier']:.3f}" in page
    card = fetch(context, _decided(context, view), "card.md").read_text("utf-8")
    assert f"| macro-F1 | {second['macro_f1']:.4f} |" in card


def test_the_cut_of_self_feedback_learns_from_a_union_whose_answers_are_weighted_like_labels(
    tmp_path: Path, server: TaskServer
) -> None:
    changes = {**CUT, "train.first.steps": 14, "decide.max_bias": 0.9}
    context, told = run_cut("recipes/self-feedback.yaml", tmp_path, changes, server)
    view = load_run(context, told["run_id"])
    assert view.state is not None
    assert [one["round"] for one in told["rounds"]] == [0, 1]
    accepted = accepted_of(context, view)
    assert {row.completion.strip() for row in accepted} <= PATTERNS.keys()
    # Q is the agreement of four samples, and θ is 1.
    assert all(row.provenance["vote_share"] == 1.0 for row in accepted)
    selection = read_receipt(context, view.state.history[1].receipts["select"])
    mix = list(read_rows(fetch(context, selection, "mix.jsonl"), TrainingRow))
    labelled = [row for row in mix if row.source == "labelled"]
    weights = [row.weight for row in labelled]
    # D ∪ D': every labelled row counts once, the others once on average.
    assert weights == pytest.approx([1.0] * len(weights))
    assert sum(row.weight for row in mix) == pytest.approx(len(mix))
    before = distances(attributes(accepted), attributes(labelled))["answer"]
    after = read_summary(selection, SelectSummary).bias["answer"]
    assert after <= before
    assert told["champion_macro_f1"] > 0.3


def test_the_cut_of_meta_update_learns_from_its_own_texts_alone_and_keeps_a_quarter(
    tmp_path: Path, server: TaskServer
) -> None:
    base = save_tiny(tmp_path / "base", "gpt2", tokenizer="byte", max_length=128)
    context, told = run_cut(
        "recipes/meta-update.yaml",
        tmp_path,
        {
            "model.source": str(base),
            "data.sources.0.limit": 40,
            "data.text.block": 120,
            "data.text.beginning": 40,
            "generate.prompts_per_round": 64,
            "generate.max_new_tokens": 24,
            "train.rounds.steps": 4,
            "train.precision": "fp32",
            "train.max_length": 128,
        },
        server,
    )
    view = load_run(context, told["run_id"])
    assert view.state is not None
    selection = read_receipt(context, view.state.history[0].receipts["select"])
    told_of_select = read_summary(selection, SelectSummary)
    assert told_of_select.labelled_rows == 0
    choice = told_of_select.filters["choice"]
    assert choice.accepted == math.ceil(choice.given / 4)
    mix = list(read_rows(fetch(context, selection, "mix.jsonl"), TrainingRow))
    assert {row.source for row in mix} == {"self"}
    # The quarter whose gradients lower the loss on the dev text most.
    dropped = read_rows(fetch(context, selection, "dropped.jsonl"), Dropped)
    others = [
        row.row["scores"]["influence"] for row in dropped if row.reason == "choice"
    ]
    assert min(row.provenance["scores"]["influence"] for row in mix) >= max(others)
    assert "labelled rows are 0% of what training draws" in Path(told["log"]).read_text(
        "utf-8"
    )
    # The guard is on: text of people is measured before and after.
    evaluation = read_receipt(context, view.state.history[0].receipts["evaluate"])
    collapse = read_summary(evaluation, EvaluateSummary).collapse
    assert collapse is not None
    assert collapse.perplexity is not None
    assert collapse.perplexity.n > 0


def test_the_cut_of_pretrain_finetune_learns_text_then_labels_and_goes_on_with_both(
    tmp_path: Path, server: TaskServer
) -> None:
    write_questions(tmp_path, rows=900, test_rows=60)
    num_texts = 300
    files = write_stages(tmp_path, tmp_path, num_texts)
    changes = {key: value for key, value in CUT.items() if not key.startswith("model.")}
    changes |= {
        "model.scratch.hidden_size": 64,
        **{f"data.sources.{index}.uri": str(path) for index, path in enumerate(files)},
        "train.pretrain.steps": 30,
        "train.pretrain.learning_rate": 0.003,
        "train.first.steps": 40,
        "select.min_vote_share": 0.5,
        "select.min_accepted": 1,
        "train.rounds.steps": 20,
    }
    context, told = run_cut("recipes/pretrain-finetune.yaml", tmp_path, changes, server)
    view = load_run(context, told["run_id"])
    assert view.state is not None
    supervised, improved = view.state.history
    log = fetch(
        context, read_receipt(context, supervised.receipts["train"]), "log.jsonl"
    )
    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [entry["stage"] for entry in entries] == ["pretrain"] * 30 + ["sft"] * 40
    text_losses = [entry["loss"] for entry in entries if entry["stage"] == "pretrain"]
    assert text_losses[-1] < 0.8 * text_losses[0]
    # The round has raw text in its mix, and a stage that learns from it.
    selection = read_receipt(context, improved.receipts["select"])
    mix = list(read_rows(fetch(context, selection, "mix.jsonl"), TrainingRow))
    assert sum(not row.prompt for row in mix) == num_texts
    assert {
        row.completion.strip() for row in mix if row.source == "self"
    } <= PATTERNS.keys()
    with Models(
        context, told["run_id"], Settings(0.8, 12, ""), compare=False
    ) as models:
        page = Console(record=True, width=200, file=io.StringIO())
        beginnings = ["What is the", "Who was", "How many", "", "Where is", "When did"]
        continue_texts(models, iter(beginnings), page)
    read = page.export_text().splitlines()
    assert [line.split(": ")[0] for line in read] == ["champion"] * 5
    begun = [f"champion: {beginning}" for beginning in beginnings if beginning]
    assert all(line.startswith(front) for front, line in zip(begun, read, strict=True))


def _decided(context: Context, view: RunView) -> Any:
    decided = next(task for task in view.tasks if task.last.task == "decide-r1")
    return read_receipt(context, decided.last.receipt)


def test_the_cut_of_gsm8k_learns_one_answer_for_each_way_from_its_own_training_questions(
    tmp_path: Path, server: TaskServer
) -> None:
    # Two ways to each result, and the labels show one of them.
    sums = [(first, second) for first in range(1, 10) for second in range(1, 10)]
    ways = [
        [
            f"{one}+{other}=<<{one}+{other}={one + other}>>{one + other}\n#### {one + other}"
            for one, other in (pair, pair[::-1])
        ]
        for pair in sums
    ]
    rows = [
        {
            "question": f"{name} has {first} and {second} more",
            "answer": both[number % 2],
        }
        for number, name in enumerate(("Ann", "Bob", "Eve", "Tim", "Zoe"))
        for (first, second), both in zip(sums, ways, strict=True)
    ]
    for name, part in (("sums.jsonl", rows[:360]), ("test-sums.jsonl", rows[360:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    changes = {
        **{key: value for key, value in SMALL_MODEL.items() if "tokenizer" not in key},
        "data.sources.0.uri": "sums.jsonl",
        "data.sources.1.uri": "test-sums.jsonl",
        "data.fractions": {
            "train": 0.7,
            "unlabelled": 0,
            "dev": 0.1,
            "validation": 0.2,
            "test": 0,
        },
        "generate.prompts_per_round": 100,
        "generate.temperature": 1.0,
        "generate.max_new_tokens": 32,
        "train.batch_size": 32,
        "train.micro_batch_size": 32,
        "train.precision": "fp32",
        "train.first.steps": 120,
        "train.first.learning_rate": 0.003,
        "train.rounds.steps": 20,
        "train.rounds.learning_rate": 0.001,
        "decide.goal.threshold": 1.0,
    }
    context, told = run_cut("recipes/gsm8k.yaml", tmp_path, changes, server)
    view = load_run(context, told["run_id"])
    assert view.state is not None
    prompts = {row["question"] for row in rows[:360]}
    accepted = accepted_of(context, view)
    assert accepted
    assert {row.prompt for row in accepted} <= prompts, (
        "the training questions were asked again"
    )
    ways_taught = [(row.prompt, equations(row.completion)) for row in accepted]
    assert len(set(ways_taught)) == len(ways_taught)
    # D ∪ D': each labelled row and each sample is drawn equally often.
    selection = read_receipt(context, view.state.history[1].receipts["select"])
    mix = list(read_rows(fetch(context, selection, "mix.jsonl"), TrainingRow))
    assert {round(row.weight, 6) for row in mix} == {1.0}


def test_the_cut_of_preference_learns_from_right_samples_beside_wrong_ones(
    tmp_path: Path, server: TaskServer
) -> None:
    sums = [(first, second) for first in range(10, 70) for second in range(10)]
    rows = [
        {"prompt": f"{first}+{second}=", "completion": str(first + second)}
        for first, second in sums
    ]
    (tmp_path / "sums.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    changes = {
        "model.scratch.hidden_size": 64,
        "model.scratch.num_layers": 2,
        "data.tasks": [],
        "data.sources": [{"uri": "sums.jsonl", "verifier": "exact"}],
        "data.fractions": {
            "train": 0.5,
            "unlabelled": 0.2,
            "dev": 0.1,
            "validation": 0.15,
            "test": 0.05,
        },
        "generate.prompts_per_round": 100,
        "generate.max_new_tokens": 4,
        "train.first.steps": 150,
        "train.rounds.steps": 20,
        "train.evaluate_every": 10,
    }
    context, told = run_cut("recipes/preference.yaml", tmp_path, changes, server)
    view = load_run(context, told["run_id"])
    assert view.state is not None
    assert [one["round"] for one in told["rounds"]] == [0, 1]
    selection = read_receipt(context, view.state.history[1].receipts["select"])
    pairs = read_summary(selection, SelectSummary).pairs
    assert pairs
    mix = list(read_rows(fetch(context, selection, "mix.jsonl"), TrainingRow))
    taught = [row for row in mix if row.worse]
    assert len(taught) == pairs
    right = {row["prompt"]: row["completion"] for row in rows}
    assert all(row.completion == right[row.prompt] != row.worse for row in taught)
