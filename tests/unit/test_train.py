"""Training: one loss curve for every ZeRO stage and process count, loss on completions only, real
early stopping."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.contracts.rows import Conversation, TrainingRow
from components.errors import UserError
from components.modeling.encoding import load_codec
from components.modeling.likelihood import (
    CompletionLoss,
    EncodedRow,
    collate,
    mean_loss,
)
from components.modeling.load import load_model
from components.train.process.preflight import check_rows
from components.train.process.row_batches import (
    TooLongRule,
    TrainingSet,
    cut,
    draw,
    learning_rate_at,
    plan_batches,
    share_of,
    training_set,
)
from components.train.process.sizing import fixed_positions
from tests.unit.chat_models import save_chat_model
from tests.unit.tiny import ARCHITECTURES, tiny_model
from tests.unit.trainings import carry_out, make_job, reversal, train

pytestmark = pytest.mark.process


def test_every_zero_stage_and_process_count_follows_one_loss_curve(
    tmp_path: Path,
) -> None:
    reference = train(tmp_path / "plain", zero=0)
    variants: list[dict[str, Any]] = [
        {"zero": 1},
        {"zero": 2},
        {"zero": 3},
        {"zero": 1, "num_processes": 2},
        {"zero": 3, "num_processes": 2},
        {"zero": 1, "micro_batch_size": 4},
        {"zero": 2, "offload": True},
        {"zero": 3, "offload": True},
    ]
    for number, variant in enumerate(variants):
        other = train(tmp_path / str(number), **variant)
        np.testing.assert_allclose(
            other["losses"], reference["losses"], atol=1e-3, err_msg=str(variant)
        )
        assert other["tokens_trained"] == reference["tokens_trained"]
        assert (
            "updated by the AdamW of torch, which is slower" in other["said"]
        ) == variant.get("offload", False)
        mine, theirs = (
            load_model(other["folder"]).state_dict(),
            load_model(reference["folder"]).state_dict(),
        )
        assert (
            max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)
            < 5e-3
        ), variant


def test_training_lowers_the_loss_and_the_saved_model_is_the_best_one_seen(
    tmp_path: Path,
) -> None:
    done = train(tmp_path / "run", steps=150, zero=0)
    assert done["final_loss"] < 0.8 * done["first_loss"]
    model, codec = load_model(done["folder"]), tiny_model()[1]
    rows = [
        EncodedRow(*codec.row_ids(row.prompt, row.completion))
        for row in reversal(40, 1)
    ]
    loss = mean_loss(CompletionLoss(model), rows, codec.pad_id, 16)
    assert loss == pytest.approx(done["best_dev_loss"], rel=1e-4)


def test_training_stops_early_once_the_dev_loss_rises(tmp_path: Path) -> None:
    done = train(
        tmp_path / "run",
        steps=2000,
        rows=reversal(8, 0),
        zero=0,
        early_stopping_patience=3,
    )
    assert done["stopped_early"]
    assert done["steps"] < 2000
    assert done["best_step"] < done["steps"]
    assert done["best_dev_loss"] < done["final_dev_loss"]


def test_a_row_longer_than_the_context_is_refused_with_numbers(tmp_path: Path) -> None:
    done = train(tmp_path / "run", max_length=8, too_long="error")
    assert done["status"] == 2
    assert done["failure"]["kind"] == "UserError"
    assert "longer than train.max_length 8" in done["failure"]["message"]


def test_a_row_that_is_too_long_is_left_out_or_cut_and_counted(tmp_path: Path) -> None:
    """One long row of the model's own does not end the round: nobody could remove it."""
    long = TrainingRow(
        id="own", prompt="1" * 30 + "=", completion="1" * 30, source="self", round=1
    )
    for rule, fate in (("drop", "left out"), ("cut", "cut")):
        done = train(
            tmp_path / rule,
            key=rule[0] * 32,
            steps=2,
            rows=[*reversal(20, 0), long],
            dev=[*reversal(4, 1), long],
            max_length=40,
            too_long=rule,
        )
        assert (done["rows_too_long"], done["dev_rows_too_long"]) == (1, 1)
        said = (
            f"{fate}, since longer than train.max_length 40: 1 (longest 63 tokens): own"
        )
        assert f"stage sft: {said}" in done["said"]
        assert f"the dev split: {said}" in done["said"]


def test_a_row_is_cut_at_its_end_and_left_out_if_nothing_to_learn_is_left() -> None:
    _, codec = tiny_model()
    rows = [
        TrainingRow(
            id=str(number),
            prompt="1" * number + "=",
            completion="23456",
            source="self",
            round=1,
        )
        for number in (1, 5, 7, 9, 10, 20)
    ]

    def fitted(rule: TooLongRule, pairs: bool = False) -> TrainingSet:
        taken = (
            [row.model_copy(update={"worse": "6" * 6}) for row in rows]
            if pairs
            else rows
        )
        return training_set(
            taken,
            codec,
            "sft",
            with_text=True,
            max_length=10,
            weighting="sampling",
            with_pairs=pairs,
            too_long=rule,
        )

    whole = {row.id: codec.row_ids(row.prompt, row.completion) for row in rows}
    long_names = [name for name, (ids, _) in whole.items() if len(ids) > 10]
    assert 0 < len(long_names) < len(rows)
    dropped = fitted("drop")
    assert dropped.names == [name for name in whole if name not in long_names]
    assert dropped.too_long.names == long_names
    assert dropped.too_long.longest == max(len(ids) for ids, _ in whole.values())
    shortened = fitted("cut")
    assert shortened.names == [
        name for name, (_, masked) in whole.items() if masked < 10
    ]
    for row, name in zip(shortened.rows, shortened.names, strict=True):
        assert (row.ids, row.num_masked) == (whole[name][0][:10], whole[name][1])
    assert len(shortened.shares) == len(shortened.names)
    assert shortened.too_long.names == long_names
    for row in fitted("cut", pairs=True).rows:
        assert row.worse is not None
        assert row.longest <= 10
        assert min(row.num_targets, row.worse.num_targets) > 0
    with pytest.raises(UserError, match=r"longer than train.max_length 10 \(longest"):
        fitted("error")
    rows = rows[-1:]
    with pytest.raises(
        UserError, match=r"1 of 1 rows are longer than train\.max_length 10"
    ):
        fitted("drop")


def test_a_continuation_of_a_text_may_be_cut_into_windows_which_end_anywhere() -> None:
    model, codec = tiny_model()
    rows = [
        TrainingRow(
            id="own",
            prompt="1+1=",
            completion="2" * 30,
            source="self",
            round=1,
            is_text=True,
        ),
        TrainingRow(
            id="short",
            prompt="1+1=",
            completion="2",
            source="self",
            round=1,
            is_text=True,
        ),
    ]
    taught = training_set(
        rows, codec, "sft", with_text=True, max_length=10, weighting="sampling"
    )
    assert taught.names == ["own"] * 4 + ["short"]
    check_rows("sft", taught, codec, model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_falls_on_the_completion_alone(architecture: str) -> None:
    model, codec = tiny_model(architecture)
    ids, masked = codec.row_ids("123=", "321")
    batch = collate([EncodedRow(ids, masked)], codec.pad_id)
    with torch.inference_mode():
        logits = model(input_ids=batch.input_ids).logits[0]
        expected = torch.nn.functional.cross_entropy(
            logits[masked - 1 : -1], batch.input_ids[0, masked:], reduction="sum"
        )
        assert float(CompletionLoss(model)(batch)) == pytest.approx(
            float(expected), rel=1e-4
        )
    assert codec.tokenizer.decode(ids[masked:]) == "321<eos>"


def test_rows_are_drawn_in_proportion_to_their_weight() -> None:
    picked = Counter(draw([1.0, 3.0, 0.5, 0.0], 900, seed=3).tolist())
    assert all(
        abs(picked[row] - expected) <= 1
        for row, expected in enumerate([200, 600, 100, 0])
    )
    assert sorted(draw([1.0] * 50, 50, seed=1).tolist()) == list(range(50))


def test_grouping_by_length_leaves_little_padding_and_no_process_with_other_work() -> (
    None
):
    rng = random.Random(0)
    lengths = [rng.randint(1, 100) for _ in range(4096)]
    padding = {}
    for grouped in (True, False):
        batches = plan_batches(
            [1.0] * 4096, lengths, 128, 32, group_by_length=grouped, seed=5
        )
        assert sorted(index for batch in batches for index in batch) == list(
            range(4096)
        )
        computed = sum(
            max(lengths[index] for index in batch) * len(batch) for batch in batches
        )
        padding[grouped] = 1 - sum(lengths) / computed
    assert padding[True] < 0.12 < 0.4 < padding[False]
    batch = batches[0]
    shares = [share_of(batch, lengths, rank, 2) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(batch)
    assert len(shares[0]) == len(shares[1])


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    def curve(schedule: str) -> list[float]:
        return [
            learning_rate_at(
                step, 100, 1.0, warmup_share=0.1, schedule=schedule, min_ratio=0.1
            )
            for step in range(100)
        ]

    assert curve("cosine")[0] == pytest.approx(0.1)
    assert max(curve("cosine")) == pytest.approx(1.0)
    assert curve("cosine")[-1] == pytest.approx(0.1)
    assert curve("constant")[10:] == [1.0] * 90


def test_tensorboard_and_mlflow_show_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # MLflow's own store in a folder: what a tracking server would have been told.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    server = f"file://{tmp_path}/mlflow"
    job = make_job(tmp_path / "run", steps=12, zero=0)
    done = carry_out(job, MLFLOW_TRACKING_URI=server, MLFLOW_EXPERIMENT_NAME="reversal")
    events = EventAccumulator(
        str(tmp_path / "store" / "runs" / "run" / "tensorboard" / "train-r0")
    )
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx(dict(enumerate(done["losses"], 1)))
    assert {
        "train/learning_rate",
        "train/gradient_norm",
        "train/tokens_per_second",
        "train/memory_gib",
    } <= set(events.Tags()["scalars"])
    client = MlflowClient(server)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("reversal").experiment_id]
    )
    assert run.info.status == "FINISHED"
    kept = {
        metric.step: metric.value
        for metric in client.get_metric_history(run.info.run_id, "loss")
    }
    assert kept == pytest.approx(shown)


def test_a_run_of_mlflow_that_was_begun_for_the_task_is_used_and_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    server = f"file://{tmp_path}/mlflow"
    client = MlflowClient(server)
    injected = client.create_run(client.create_experiment("of the pipeline"))
    run_id = injected.info.run_id
    job = make_job(tmp_path / "run", steps=3)
    carry_out(job, MLFLOW_TRACKING_URI=server, MLFLOW_RUN_ID=run_id)
    assert client.get_experiment_by_name("ratchet") is None
    assert client.get_run(run_id).info.status == "RUNNING"
    assert len(client.get_metric_history(run_id, "loss")) == 3


@pytest.mark.parametrize("most_rows", [1, 3, 7])
@pytest.mark.parametrize("fixed", [0, 5, 40, 10_000])
def test_micro_batches_cost_the_least_of_all_ways_to_cut(
    most_rows: int, fixed: int
) -> None:
    rng = random.Random(f"{most_rows} {fixed}")
    lengths = sorted((rng.randint(1, 50) for _ in range(7)), reverse=True)

    def cost(ends: tuple[int, ...]) -> int:
        return sum(
            (end - start) * lengths[start] + fixed
            for start, end in itertools.pairwise(ends)
        )

    ways = [
        (0, *ends, 7)
        for count in range(7)
        for ends in itertools.combinations(range(1, 7), count)
    ]
    allowed = [
        way
        for way in ways
        if all(end - start <= most_rows for start, end in itertools.pairwise(way))
    ]
    found = cut(lengths, most_rows, fixed)
    assert cost((0, *(one.stop for one in found))) == min(map(cost, allowed))
    assert [place for one in found for place in range(7)[one]] == list(range(7))
    assert all(one.stop - one.start <= most_rows for one in found)


def test_batches_of_a_small_model_are_left_whole_and_those_of_a_large_one_are_cut() -> (
    None
):
    lengths = sorted((2 * (place % 12) + 5 for place in range(128)), reverse=True)
    assert cut(lengths, 128, fixed_positions(150_000, gpu=False)) == [slice(0, 128)]
    assert len(cut(lengths, 128, fixed_positions(135_000_000, gpu=False))) > 3


@pytest.mark.parametrize("packing", [False, True])
def test_conversations_are_trained_on_turn_by_turn(
    tmp_path: Path, packing: bool
) -> None:
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "4"},
    ]
    row = TrainingRow(
        id="talk",
        prompt="as text",
        completion="4",
        conversation=Conversation(messages=tuple(talk)),
        source="labelled",
        round=0,
    )
    base = save_chat_model(tmp_path / "chat")
    done = train(
        tmp_path / "run",
        init=base,
        rows=[row] * 16,
        dev=[row],
        steps=40,
        packing=packing,
    )
    assert done["final_loss"] < 0.5 * done["first_loss"]
    codec = load_codec(base)
    (encoded,) = codec.encode(row)
    one = EncodedRow(encoded.ids, encoded.num_masked, gaps=encoded.gaps)
    loss = mean_loss(CompletionLoss(load_model(done["folder"])), [one], codec.pad_id, 1)
    assert loss == pytest.approx(done["best_dev_loss"], rel=1e-3)
