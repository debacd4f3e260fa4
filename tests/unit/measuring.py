"""Campaigns of tiny real models for tests of evaluate and publish: real checkpoints and receipts,
nothing trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.canonical import canonical_json
from components.contracts.recipe import Recipe
from components.contracts.rows import Prompt, Result, TrainingRow, prompt_id
from components.contracts.state import RoundRecord, State
from components.contracts.summaries import TrainSummary
from components.evaluate.step import EvaluateInputs, run
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch, receipt_uri
from tests.unit.crafted import (
    PLAN,
    prepare_summary,
    start_summary,
    store,
    train_summary,
)
from tests.unit.tiny import save_tiny

DIGITS = "0123456789"


def question(number: int, **tags: str) -> Prompt:
    """`17=`, to be answered 1: checked by exact match."""
    text = f"{number:02d}="
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier="exact",
        reference={"answer": text[0]},
        tags=tags,
    )


def human(number: int) -> TrainingRow:
    """A text that people wrote."""
    return TrainingRow(
        id=f"row-{number}",
        prompt="",
        completion=f"{number}+{number}",
        source="labelled",
        round=0,
    )


def begun(
    context: Context,
    recipe: Recipe,
    base: Receipt | None = None,
    **splits: Sequence[Prompt] | Sequence[TrainingRow],
) -> Receipt:
    """The start of a campaign with these splits; those not given are empty. Its base is the model
    of `base`."""
    names = (
        "train",
        "dev",
        "dev_prompts",
        "unlabelled",
        "validation",
        "test",
        "vault",
        "retention",
    )
    files: dict[str, Sequence[BaseModel] | bytes] = {
        f"splits/{name}.jsonl": splits.get(name, ()) for name in names
    }
    for name in base.objects if base is not None else ():
        assert base is not None
        files[name] = fetch(context, base, name).read_bytes()
    prepared = store(context, "prepare", files, prepare_summary())
    state = State(run_id="crafted-run", prepared=prepared.ref, plan=PLAN)
    documents = {
        "recipe.json": canonical_json(recipe.model_dump(mode="json")),
        "state.json": canonical_json(state.model_dump(mode="json")),
    }
    return store(context, "start", documents, start_summary())


def model(context: Context, seed: int, **settings: Any) -> Receipt:
    """A train receipt with random weights."""

    def work(folder: Path) -> TrainSummary:
        save_tiny(
            folder / "model",
            seed=seed,
            hidden_size=16,
            num_layers=1,
            intermediate_size=32,
            **settings,
        )
        return train_summary(round=seed)

    task = Task(run_id="crafted-run", name="train-crafted", round=0)
    return commit_once(
        context,
        task,
        "train",
        config={"weights": seed},
        inputs={},
        seed=seed,
        work=work,
    )


def evaluate(context: Context, state: Receipt | str, candidate: Receipt) -> Receipt:
    """The evaluate step itself."""
    uri = state if isinstance(state, str) else receipt_uri(context, state)
    return run(EvaluateInputs(uri, candidate), context)


def round_zero(train: Receipt, evaluation: Receipt) -> RoundRecord:
    """The first line of a history."""
    return RoundRecord(
        round=0,
        verdict="promoted",
        why="the first",
        plan=PLAN,
        score=0.5,
        interval=(0.4, 0.6),
        overall=0.5,
        test_score=0.5,
        receipts={"train": train.ref, "evaluate": evaluation.ref},
    )


def result(number: int, text: str = "1", **changes: Any) -> Result:
    """A result of the validation split."""
    about = {
        "prompt_id": f"{number:08d}",
        "split": "validation",
        "correct": True,
        "finished": True,
        "num_tokens": 2,
    }
    return Result.model_validate({**about, "text": text, **changes})
