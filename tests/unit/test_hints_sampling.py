"""A hard prompt is asked again with its answer as a hint, by any engine, peer and division of the
work; nothing else of a round changes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.rows import Dropped, HardPrompt, Sample
from components.contracts.summaries import GenerateSummary
from components.contracts.summaries.select import HintPool
from components.errors import Transient
from components.generate.hint_prompts import hinted
from components.generate.step import GenerateInputs
from components.generate.step import run as generate
from components.modeling.load import save_checkpoint
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary
from components.select.step import SelectInputs
from components.select.step import run as select
from components.verifiers import reference_answer, verify
from tests.doubles.openai_api import MODEL, OpenAiApi
from tests.unit.crafted import rows, store
from tests.unit.hinted import EASY, HARD, SUMS, TEMPLATE, after, begun, hinted_counts
from tests.unit.selecting import summary_of
from tests.unit.tiny import save_tiny, tiny_model

# They sample for six seconds.
pytestmark = pytest.mark.process

# A model that needs the hint


@pytest.fixture(scope="module")
def champion_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tiny decoder that adds up where the sum is even, says 9 where it is odd, and with a hint
    says what it adds up and then the hint."""
    folder = tmp_path_factory.mktemp("champion")
    model, codec = tiny_model("llama", max_length=32)
    answers = {one.text: reference_answer(one) for one in SUMS}
    pairs = [(hinted(one, TEMPLATE).text, one.text + answers[one.text]) for one in SUMS]
    pairs += [
        (one.text, one.text + (answers[one.text] if one in EASY else "9"))
        for one in SUMS
    ]
    encoded = [codec.row_ids(prompt, completion) for prompt, completion in pairs]
    length = max(len(row) for row, _ in encoded)
    ids = torch.tensor(
        [row + [codec.pad_id] * (length - len(row)) for row, _ in encoded]
    )
    places = torch.arange(length)
    # What follows a row is seen by none of its tokens and bears no loss.
    taught = torch.stack(
        [(places >= masked) & (places < len(row)) for row, masked in encoded]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    model.train()
    for _ in range(100):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids.masked_fill(~taught, -100)).loss.backward()
        optimizer.step()
    save_checkpoint(model.eval(), codec.tokenizer, folder)
    return {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_prompts_the_model_never_answers_teach_in_the_next_round_without_the_hint(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    champion = store(context, "train", champion_files, {"round": 0})
    state = begun(
        context, SUMS, champion=champion, hints={"template": TEMPLATE}, shards=2
    )
    selections: list[Receipt] = []
    for _ in range(2):
        uri = after(context, state, *selections)
        shards = tuple(
            generate(GenerateInputs(uri, shard), context) for shard in range(2)
        )
        selections.append(select(SelectInputs(uri, shards), context))
    first, second = selections
    hard = {one.id: one for one in HARD}
    assert {
        row.prompt_id for row in rows(context, first, "too_hard.jsonl", HardPrompt)
    } == set(hard)
    assert summary_of(first).too_hard == HintPool(found=12, answered=0, waiting=12)
    assert hinted_counts(first).generated == 0
    helped = [
        row
        for row in rows(context, second, "accepted.jsonl")
        if row.provenance.get("hinted")
    ]
    assert {row.provenance["prompt_id"] for row in helped} == set(hard), (
        "every hard prompt has its row"
    )
    for row in helped:
        prompt = hard[row.provenance["prompt_id"]]
        assert row.prompt == prompt.text, (
            "the row's prompt is the prompt as it is, not as the model saw it"
        )
        assert row.completion == prompt.text + reference_answer(prompt), (
            "the way to the answer, then the answer"
        )
        assert verify(prompt, row.completion)
        assert "pass_rate" not in row.provenance
        assert row in [
            one.model_copy(update={"weight": row.weight})
            for one in rows(context, second, "mix.jsonl")
        ]
    assert hinted_counts(second).prompts_accepted == 12
    assert summary_of(second).too_hard == HintPool(found=12, answered=12, waiting=0)
    # Without a hint it is as wrong as before, and that is what the round tells of the model.
    assert (
        summary_of(second).prompts_accepted == summary_of(first).prompts_accepted == 13
    )
    assert summary_of(second).acceptance == summary_of(first).acceptance


def test_hints_change_no_other_sample_and_no_division_changes_any(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    champion = store(context, "train", champion_files, {"round": 0})
    pool = store(
        context,
        "select",
        {"too_hard.jsonl": [HardPrompt(prompt_id=one.id, round=1) for one in HARD]},
        {},
    )
    drawn = []
    for shards, hints in ((1, True), (3, True), (1, False)):
        section = (
            {"template": TEMPLATE, "samples_per_prompt": 2, "prompts_per_round": 8}
            if hints
            else None
        )
        state = begun(context, SUMS, champion=champion, hints=section, shards=shards)
        receipts = [
            generate(GenerateInputs(after(context, state, pool), one), context)
            for one in range(shards)
        ]
        names = (
            ("samples.jsonl", "hinted_samples.jsonl") if hints else ("samples.jsonl",)
        )
        drawn.append(
            [
                sorted(
                    (
                        one
                        for receipt in receipts
                        for one in rows(context, receipt, name, Sample)
                    ),
                    key=lambda one: (one.prompt_id, one.index),
                )
                for name in names
            ]
        )
    assert drawn[0] == drawn[1]
    assert drawn[2][0] == drawn[0][0]
    assert {one.prompt_id for one in drawn[0][1]} == {one.id for one in HARD[:8]}, (
        "the first eight of the pool"
    )
    assert {one.index for one in drawn[0][1]} == {4, 5}
    assert len({one.seed for one in (*drawn[0][0], *drawn[0][1])}) == 4 * 25 + 2 * 8


def test_every_peer_is_shown_its_share_of_the_hints(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    random_peer = {f"peer-1/{name}": tiny for name, tiny in _random_files().items()}
    champion = store(context, "train", {**champion_files, **random_peer}, {"round": 0})
    pool = store(
        context,
        "select",
        {"too_hard.jsonl": [HardPrompt(prompt_id=one.id, round=1) for one in HARD]},
        {},
    )
    for wanted in (1, 2):
        section = {"template": TEMPLATE, "samples_per_prompt": wanted}
        state = begun(
            context, SUMS, champion=champion, hints=section, samples=3, peers=2
        )
        shard = generate(GenerateInputs(after(context, state, pool), 0), context)
        right = Counter(
            (
                one.index,
                verify(
                    next(sum_of for sum_of in HARD if sum_of.id == one.prompt_id),
                    one.text,
                ),
            )
            for one in rows(context, shard, "hinted_samples.jsonl", Sample)
        )
        # Sample 3 is of the peer that knows nothing, sample 4 of the champion.
        assert right[3, False] > right[3, True]
        assert right[4, True] == (12 if wanted == 2 else 0)
        assert right.total() == 12 * wanted


def _random_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {
            path.name: path.read_bytes()
            for path in save_tiny(Path(folder), "llama", max_length=32).iterdir()
        }


def test_without_hints_a_round_is_addressed_and_written_as_ever(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    champion = store(context, "train", champion_files, {"round": 0})
    plain = begun(context, SUMS, champion=champion, hints=None)
    shard = generate(GenerateInputs(plain, 0), context)
    receipt = select(SelectInputs(plain, (shard,)), context)
    assert "hints" not in shard.config["section"]
    assert shard.inputs.keys() == {"prepare", "champion"}
    assert shard.objects.keys() == {"prompts.jsonl", "samples.jsonl"}
    assert receipt.objects.keys() == {"accepted.jsonl", "dropped.jsonl", "mix.jsonl"}
    assert "hint" not in receipt.config
    assert read_summary(shard, GenerateSummary).hinted is None
    assert (summary_of(receipt).hinted, summary_of(receipt).too_hard) == (None, None)
    assert not any(
        "hinted" in row.row for row in rows(context, receipt, "dropped.jsonl", Dropped)
    )


# Another engine, and a shard that is cut short


class Solver(OpenAiApi):
    """Adds up where the sum is even or it is told."""

    def completion(self, payload: dict[str, Any]) -> dict[str, Any]:
        done = super().completion(payload)
        text = payload["messages"][-1]["content"]
        prompt, _, hint = text.removesuffix(")").partition("(")
        sum_of = next(
            str(one.reference["answer"]) for one in SUMS if one.text == prompt
        )
        answer = hint or (sum_of if int(sum_of) % 2 == 0 else "9")
        done["choices"][0] |= {
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": prompt + answer},
        }
        return done


@pytest.fixture
def solver() -> Iterator[Solver]:
    server = Solver()
    yield server
    server.close()


def test_an_endpoint_is_shown_hints_too_and_a_shard_goes_on_after_its_last_hinted_batch(
    context: Context, solver: Solver
) -> None:
    context = dataclasses.replace(context, environment=solver.environment)
    asked = {"model": MODEL, "concurrency": 1, "max_retries": 0}
    champion = store(context, "train", {"model/config.json": b"{}"}, {})
    state = begun(
        context,
        SUMS,
        champion=champion,
        hints={"template": TEMPLATE},
        engine="openai",
        endpoint=asked,
        samples=1,
    )
    first = select(
        SelectInputs(state, (generate(GenerateInputs(state, 0), context),)), context
    )
    uri = after(context, state, first)
    solver.answers_left = 25 + 4
    with pytest.raises(Transient):
        generate(GenerateInputs(uri, 0), context)
    saved = [key.rpartition("-")[2] for key in context.store.list("progress/")]
    # Twenty-five prompts in four batches, then twelve hinted ones in four, of which one was done.
    assert saved == [f"{number:05d}.json" for number in range(5)]
    for key in list(context.store.list("replay/")):
        context.store.delete(key)
    solver.payloads.clear()
    solver.answers_left = None
    shard = generate(GenerateInputs(uri, 0), context)
    assert len(solver.payloads) == 9, "only what was not saved is asked again"
    assert {one["messages"][-1]["content"] for one in solver.payloads} <= {
        hinted(one, TEMPLATE).text for one in HARD
    }
    assert not list(context.store.list("progress/"))
    receipt = select(SelectInputs(uri, (shard,)), context)
    assert hinted_counts(receipt).prompts_accepted == 12
    counts = read_summary(shard, GenerateSummary)
    assert counts.hinted is not None
    assert (counts.hinted.generated, counts.generated) == (12, 25)
