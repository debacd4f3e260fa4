"""A campaign without a verifier: what teaches is what independently seeded models agree on."""

from __future__ import annotations

from collections import defaultdict

from components.contracts.rows import Sample, TrainingRow, read_rows
from components.report.runs import load_run
from components.runtime.receipts import fetch, read_receipt
from tests.pipeline.conftest import MakePlace

VOTES = {
    "select.verifier": False,
    "select.min_vote_share": 1.0,
    "generate.samples_per_prompt": 2,
    "generate.shards": 1,
    "train.num_peers": 2,
    "decide.max_rounds": 1,
}


def test_only_what_all_peers_say_is_trained_on(make_place: MakePlace) -> None:
    place = make_place(VOTES)
    run = place.run("--rounds=1")
    assert run.code in (0, 1), run.said
    context = place.context
    view = load_run(context, run.told["run_id"])
    assert view.state is not None
    first, last = view.state.history
    trained = read_receipt(context, first.receipts["train"])
    weights = {
        peer: trained.objects[f"{peer}/model.safetensors"].sha256
        for peer in ("model", "peer-1")
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
            fetch(
                context,
                read_receipt(context, last.receipts["select"]),
                "accepted.jsonl",
            ),
            TrainingRow,
        )
    )
    assert accepted
    for row in accepted:
        assert set(answers[row.provenance["prompt_id"]]) == {row.completion}
        assert row.provenance["verdict"] == "unverified"
