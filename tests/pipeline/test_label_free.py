"""A campaign without a verifier: what teaches is what independently seeded models agree on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import yaml

from components.contracts.rows import Sample, TrainingRow, read_rows
from components.report.runs import load_run
from components.runtime.receipts import fetch, read_receipt
from tests.pipeline.campaigns import Place

RECIPE = """
name: agreement
model: {scratch: {hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 64, max_length: 32}}
data:
  tasks:
    - {task: copy, labelled: 600, dev: 16, unlabelled: 200, validation: 60, test: 60,
       ladder: {labelled: [1, 2], climb: [3, 3]}}
generate: {prompts_per_round: 150, samples_per_prompt: 2, temperature: 0.0, max_new_tokens: 8, batch_size: 256}
select: {verifier: false, min_vote_share: 1.0, minhash_threshold: 1.0, min_accepted: 1}
train:
  first: {steps: 150, learning_rate: 0.005}
  rounds: {steps: 20, learning_rate: 0.002}
  num_peers: 2
  batch_size: 64
  micro_batch_size: 64
  max_length: 32
  zero: 0
decide: {goal: {threshold: 1.0}, max_rounds: 1}
"""


def test_only_what_all_peers_say_is_trained_on(tmp_path: Path) -> None:
    place = Place(tmp_path, yaml.safe_load(RECIPE))
    run = place.run("--rounds=1")
    assert run.code in (0, 1), run.said
    context = place.context
    view = load_run(context, run.told["run_id"])
    assert view.state is not None
    first, last = view.state.history
    trained = read_receipt(context, first.receipts["train"])
    weights = {
        peer: trained.objects[f"{peer}/model.safetensors"].sha256 for peer in ("model", "peer-1")
    }
    assert weights["model"] != weights["peer-1"]

    answers: dict[str, list[str]] = defaultdict(list)
    for name, ref in last.receipts.items():
        if name.startswith("generate"):
            for sample in read_rows(
                fetch(context, read_receipt(context, ref), "samples.jsonl"), Sample
            ):
                answers[sample.prompt_id].append(sample.text)
    assert {len(texts) for texts in answers.values()} == {2}
    assert any(len(set(texts)) == 2 for texts in answers.values()), (
        "the peers never disagree: a vote says nothing"
    )
    accepted = list(
        read_rows(
            fetch(context, read_receipt(context, last.receipts["select"]), "accepted.jsonl"),
            TrainingRow,
        )
    )
    assert accepted
    for row in accepted:
        assert set(answers[row.provenance["prompt_id"]]) == {row.completion}
        assert row.provenance["verdict"] == "unverified"
