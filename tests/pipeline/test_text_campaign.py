"""A campaign of raw text alone, through the real command line: a cut of recipes/self-augmentation.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from components.cli.local.task_server import TaskServer
from components.contracts.rows import TrainingRow, read_rows
from components.report.runs import load_run
from components.runtime.receipts import fetch, read_receipt
from tests.pipeline.campaigns import PIPELINE, Place

pytestmark = pytest.mark.process


def cut(folder: Path, server: TaskServer) -> Place:
    """The recipe with a small model and one round of few steps."""
    recipe = PIPELINE.parent / "recipes" / "self-augmentation.yaml"
    document = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    small = {"embedding_size": 32, "hidden_size": 32, "vocabulary": 800}
    document["model"]["scratch"] |= small
    document["generate"] |= {
        "prompts_per_round": 40,
        "samples_per_prompt": 2,
        "max_new_tokens": 16,
        "shards": 1,
    }
    document["train"] |= {
        "first": {"steps": 40, "learning_rate": 0.01},
        "rounds": {"steps": 4, "learning_rate": 0.0003},
        "zero": 0,
    }
    document["decide"]["max_rounds"] = 1
    return Place(folder, document, server=server)


def test_raw_text_alone_makes_a_campaign_that_is_decided_by_perplexity(
    tmp_path: Path, server: TaskServer
) -> None:
    place = cut(tmp_path, server)
    run = place.run()
    assert run.code == 1, run.said
    assert run.told["metric"] == "perplexity"
    assert run.told["base_score"] > 300 > run.told["champion_score"] > 60
    assert run.verdicts[0] == "promoted"
    first = run.told["rounds"][0]
    low, high = first["interval"]
    assert low < first["score"] < high < run.told["base_score"]
    assert "perplexity -" in first["why"]
    # The release compares by perplexity too, and the page tells it by its name.
    assert run.told["published"]
    page = (place.store / "runs" / run.told["run_id"] / "report.html").read_text(
        encoding="utf-8"
    )
    assert "validation perplexity went from the base model" in page
    listed = json.loads(place.cli("releases", "self-augmentation", "--json").stdout)
    line = listed["lines"][-1]
    assert line["metric"] == "perplexity"
    assert line["interval"][0] < line["score"] < line["interval"][1]
    # Round 1 learns from continuations of the text, which are no turns of a conversation.
    context = place.context
    state = load_run(context, run.told["run_id"]).state
    assert state is not None
    record = state.history[-1]
    assert record.generated == 80
    assert record.accepted >= 16
    mix = fetch(context, read_receipt(context, record.receipts["select"]), "mix.jsonl")
    made = [row for row in read_rows(mix, TrainingRow) if row.source == "self"]
    assert len(made) == record.accepted
    assert all(row.is_text and row.prompt and row.completion for row in made)
