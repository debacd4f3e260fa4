"""A two-minute cut of recipes/smollm2.yaml: the same model and tasks, few rows and steps."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from components.cli.local.task_server import TaskServer
from components.contracts.summaries import EvaluateSummary, TrainSummary
from components.modeling.encoding import Codec
from components.modeling.load import load_model, load_tokenizer
from components.report.runs import load_run
from components.runtime.context import make_context
from components.runtime.receipts import fetch_folder, read_receipt, read_summary
from tests.pipeline.campaigns import call

REPOSITORY = Path(__file__).resolve().parents[2]
CUT = {
    # To read the prompts is most of an evaluation, and there are three.
    **{
        f"data.tasks.{task}.{part}": count
        for task in range(4)
        for part, count in {
            "labelled": 4,
            "dev": 2,
            "validation": 4,
            "test": 2,
            "unlabelled": 16,
        }.items()
    },
    "generate.prompts_per_round": 16,
    "generate.samples_per_prompt": 2,
    "generate.shards": 1,
    "select.min_accepted": 1,
    # The time of a step is in proportion to its rows.
    "train.batch_size": 4,
    "train.micro_batch_size": 4,
    "train.first.steps": 4,
    "train.rounds.steps": 2,
    "train.evaluate_every": 10,
    "evaluate.pass_k": 2,
    "evaluate.max_perplexity_rows": 4,
    "decide.max_rounds": 1,
    # Four steps teach little and few prompts prove little, so the base may sample: its answers are
    # long and mostly wrong.
    "select.verifier": False,
    "select.require_finished": False,
}


@pytest.mark.timeout(1800)
def test_a_real_language_model_goes_through_a_whole_round_and_is_ready_to_use(
    tmp_path: Path, server: TaskServer
) -> None:
    store = f"file://{tmp_path}/store"
    settings = [
        word for key, value in CUT.items() for word in ("--set", f"{key}={value}")
    ]
    command = [
        sys.executable,
        "pipeline.py",
        "run",
        "recipes/smollm2.yaml",
        "--store",
        store,
        "--rounds=1",
        "--json",
    ]
    done = call([*command, *settings], REPOSITORY, os.environ, 1700, server)
    assert done.returncode == 1, done.stderr
    context = make_context(
        store, {**os.environ, "RATCHET_CACHE": f"{tmp_path}/store-cache"}
    )
    view = load_run(context, json.loads(done.stdout)["run_id"])
    assert view.state is not None
    assert len(view.state.history) == 2
    assert view.state.base is not None
    receipts = [record.receipts for record in view.state.history]
    trained = read_summary(read_receipt(context, receipts[0]["train"]), TrainSummary)
    assert trained.final_loss < trained.first_loss
    assert view.state.history[1].accepted > 0
    measured = read_summary(
        read_receipt(context, receipts[1]["evaluate"]), EvaluateSummary
    )
    assert measured.perplexity is not None
    assert 5 < measured.perplexity < 100
    assert measured.pass_at_k is not None
    assert set(measured.slices) == {
        f"task={name}"
        for name in ("chain_sum", "decimal_chain_sum", "gcd", "family_relationships")
    }

    published = next(
        task.last.receipt for task in view.tasks if task.last.step == "publish"
    )
    files = read_receipt(context, published).objects
    # So few prompts prove no gain, so the base stays the champion, and a card says so.
    assert view.publication is not None
    assert not view.publication.released
    assert "no round was proved better" in view.publication.why
    assert {"README.md", "metrics.json"} <= set(files)
    assert not any(name.endswith(".safetensors") for name in files)
    assert not any(name.endswith((".bin", ".gguf", ".pt", ".py")) for name in files)
    assert view.state.champion is not None
    folder = fetch_folder(context, read_receipt(context, view.state.champion), "model")
    codec = Codec(load_tokenizer(folder), "Answer only.")
    model = load_model(folder)
    import torch

    ids = torch.tensor([codec.prompt_ids("What is 12 + 30?")])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
    )
    assert codec.text(answer[0, ids.shape[1] :].tolist()).strip()
