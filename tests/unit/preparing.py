"""A small recipe as a person writes it, and the step prepare carried out on it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from components.prepare.step import PrepareInputs, run
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, receipt_uri

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "model": {
        "scratch": {
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_size": 32,
        }
    },
    "data": {
        "tasks": [
            {
                "task": "reverse",
                "ladder": {"labelled": [1, 4], "climb": [5, 6]},
                "labelled": 40,
                "dev": 8,
                "unlabelled": 10,
                "validation": 12,
                "test": 12,
            }
        ]
    },
    "decide": {"goal": {"threshold": 0.9, "slice": "length=6"}},
}


def prepare(
    context: Context, recipe: dict[str, Any] = RECIPE, **inputs: Any
) -> Receipt:
    return run(
        PrepareInputs(
            **{
                "recipe": recipe,
                "overrides": {},
                "resume_from": "",
                "job_id": "",
                **inputs,
            }
        ),
        context,
    )


def data_of(context: Context, start: Receipt) -> Receipt:
    """The receipt of data and base model behind a start receipt."""
    return load_campaign(context, receipt_uri(context, start)).prepared


def changed(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECIPE), **sections}


def with_file(path: Path, **settings: Any) -> dict[str, Any]:
    return changed(
        data={
            **RECIPE["data"],
            "sources": [{"uri": f"file://{path}", "split": "train", **settings}],
        }
    )
