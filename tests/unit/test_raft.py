"""Rejection sampling with clipped importance weights: its loss against TRL's trainer, and the
likelihoods under which samples are drawn, from generate to training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from pydantic import ValidationError
from torch import Tensor

from components.contracts.recipe import TrainSection
from components.contracts.rows import TrainingRow
from components.errors import UserError
from components.generate.step import GenerateInputs, run
from components.modeling.likelihood import EncodedRow, collate, collate_sampled
from components.modeling.scoring import token_log_probabilities
from components.runtime.context import Context
from components.train.process.objective import ClippedObjective, Objective
from components.train.process.row_batches import training_set
from tests.unit.crafted import recipe_of
from tests.unit.generations import PROMPTS, begun, samples_of
from tests.unit.gradient_checks import assert_same, gradients, some_rows
from tests.unit.tiny import tiny_model
from tests.unit.trainings import carry_out, make_job, reversal

PAD = 0


def drawn_by(model: Any, rows: list[EncodedRow]) -> list[EncodedRow]:
    """Rows with the likelihoods of their tokens by a model."""
    values = token_log_probabilities(model, rows, PAD, batch_size=4)
    return [
        replace(row, sampled=tuple(row_values))
        for row, row_values in zip(rows, values, strict=True)
    ]


def row_log_probabilities(model: Any, row: EncodedRow) -> Tensor:
    """log π of each token of a row's answer, by full softmax."""
    logs = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    positions = range(row.num_masked, len(row.ids))
    return torch.stack([logs[t - 1, row.ids[t]] for t in positions])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "lstm"])
@pytest.mark.parametrize("chunk_tokens", [None, 4])
def test_the_clipped_loss_and_its_gradient_are_those_of_the_formula(
    architecture: str, chunk_tokens: int | None
) -> None:
    model, _ = tiny_model(architecture, seed=1)
    rows = some_rows(weights=(1.0, 0.5, 3.0))
    # A model since then has moved by up to 0.4 nats. Of rows of people it is not known.
    mixed = rows[4:]
    for row in drawn_by(model, rows[:4]):
        moved = [
            value + (0.4, -0.1, -0.4)[t % 3] for t, value in enumerate(row.sampled)
        ]
        mixed.append(replace(row, sampled=tuple(moved)))
    expected = torch.zeros(())
    clipped = 0
    for row in mixed:
        logs = row_log_probabilities(model, row)
        terms = -logs
        if row.sampled:
            ratios = (logs - torch.tensor(row.sampled)).exp()
            clipped += int((ratios > 1.2).sum())
            terms = -torch.minimum(ratios, ratios.clamp(0.8, 1.2))
        expected = expected + row.weight * terms.mean()
    assert clipped > 0
    objective = ClippedObjective(model, clip=0.2, chunk_tokens=chunk_tokens).train()
    assert_same(objective(collate_sampled(mixed, PAD)), expected, model)
    # A look at dev rows is plain cross-entropy.
    plain = collate(rows, PAD)
    torch.testing.assert_close(objective.eval()(plain), Objective(model).eval()(plain))


def test_before_the_first_step_the_gradient_is_that_of_the_likelihood() -> None:
    model, _ = tiny_model("llama", seed=1)
    rows = some_rows()
    clipped = ClippedObjective(model, clip=0.2).train()
    first = clipped(collate_sampled(drawn_by(model, rows), PAD))
    assert first.item() == pytest.approx(-len(rows), rel=1e-5)
    likelihood = clipped(collate_sampled(rows, PAD))
    for mine, other in zip(
        gradients(first, model), gradients(likelihood, model), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_loss_and_gradient_are_those_of_trl(tmp_path: Path) -> None:
    """Their GRPO objective with an advantage of 1 and without a KL term."""
    model, codec = tiny_model("llama", seed=1)
    sampler, _ = tiny_model("llama", seed=2)
    rows = []
    for row in reversal(6, 0):
        ids, num_masked = codec.row_ids(row.prompt, row.completion)
        rows.append(EncodedRow(ids, num_masked))
    rows = drawn_by(sampler, rows)
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **more: [1.0] * len(completions),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=6,
            num_generations=2,
            loss_type="grpo",
            beta=0.0,
            epsilon=0.2,
            temperature=1.0,
            bf16=False,
            use_cpu=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row.prompt} for row in reversal(6, 0)]
        ),
        processing_class=codec.tokenizer,
    )
    prompts = [torch.tensor(row.ids[: row.num_masked]) for row in rows]
    answers = [torch.tensor(row.ids[row.num_masked :]) for row in rows]
    sampled = [torch.tensor(row.sampled) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = {
        # Prompts are padded on the left, answers on the right.
        "prompt_ids": pad(prompts, batch_first=True, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(ids) for ids in prompts], True, 0, "left"),
        "completion_ids": pad(answers, batch_first=True),
        "completion_mask": pad(
            [torch.ones_like(ids) for ids in answers], batch_first=True
        ),
        "old_per_token_logps": pad(sampled, batch_first=True),
        "advantages": torch.ones(len(rows)),
    }
    theirs = trainer._compute_loss(model, inputs)
    objective = ClippedObjective(model, clip=0.2).train()
    ours = objective(collate_sampled(rows, codec.pad_id)) / len(rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        gradients(ours, model), gradients(theirs, model), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.process
def test_samples_hold_the_likelihoods_of_the_tokens_that_they_teach(
    context: Context,
) -> None:
    [plain, sampled] = [
        run(GenerateInputs(begun(context, train={"method": method}), 0), context)
        for method in ("sft", "raft")
    ]
    assert plain.key != sampled.key
    assert not any(
        sample.log_probabilities for sample in samples_of(context, plain).values()
    )
    model, codec = tiny_model(seed=0)
    prompts = {prompt.id: prompt.text for prompt in PROMPTS}
    lengths = set()
    for sample in samples_of(context, sampled).values():
        ids, num_masked = codec.sampled_ids(prompts[sample.prompt_id], sample.text)
        # An answer that was cut off has no end.
        row = EncodedRow(ids if sample.finished else ids[:-1], num_masked)
        lengths.add((row.num_targets, sample.finished))
        expected = row_log_probabilities(model, row).tolist() if row.num_targets else []
        assert sample.log_probabilities == pytest.approx(expected, abs=2e-5)
    assert len(lengths) > 5


def test_a_training_row_keeps_them_as_far_as_they_fit() -> None:
    _, codec = tiny_model()

    def row(name: str, count: int) -> TrainingRow:
        return TrainingRow(
            id=name,
            prompt="1+1=",
            completion="23456",
            source="self",
            round=1,
            log_probabilities=tuple(-float(number) for number in range(count)),
        )

    def taken(**more: Any) -> list[tuple[float, ...]]:
        rows = training_set(
            [row("whole", 6), row("of another tokenizer", 4), row("unknown", 0)],
            codec,
            "sft",
            with_text=True,
            weighting="sampling",
            **{"max_length": 64, "with_sampled": True, **more},
        )
        return [encoded.sampled for encoded in rows.rows]

    assert taken() == [(-0.0, -1.0, -2.0, -3.0, -4.0, -5.0), (), ()]
    assert taken(with_sampled=False) == [(), (), ()]
    # Five tokens are the prompt's.
    assert taken(max_length=8, too_long="cut")[0] == (-0.0, -1.0, -2.0)
    batch = collate_sampled([EncodedRow([1, 2, 3, 4], 2, sampled=(-1.0, -2.0))], PAD)
    assert batch.sampled is not None
    assert [math.isnan(value) for value in batch.sampled[0]] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.process
def test_trainings_begin_at_equal_likelihoods_and_end_at_the_clip(
    tmp_path: Path,
) -> None:
    model, codec = tiny_model()
    drawn = []
    for row in reversal(60, 0):
        ids, num_masked = codec.sampled_ids(row.prompt, row.completion)
        (encoded,) = drawn_by(model, [EncodedRow(ids, num_masked)])
        update = {"source": "self", "log_probabilities": encoded.sampled}
        drawn.append(row.model_copy(update=update))
    layout: dict[str, Any] = {"zero": 3, "num_processes": 2, "micro_batch_size": 4}
    done = carry_out(
        make_job(tmp_path / "run", rows=drawn, steps=12, method="raft", **layout)
    )
    assert done["status"] == 0, done["failure"]
    losses = done["losses"]
    # A ratio of 1 for every token, and 1.2 at most.
    assert losses[0] == pytest.approx(-1.0, rel=1e-3)
    assert -1.2001 < min(losses) < -1.1


def test_settings_that_do_not_go_with_it_are_refused() -> None:
    for section, problem in (
        ({"packing": True}, "unset packing"),
        ({"kl_beta": 0.1}, "use clip"),
        ({"clip": 0.0}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=problem):
            TrainSection.model_validate({"method": "raft", **section})
    with pytest.raises(UserError, match=r"leave out generate\.teacher"):
        recipe_of(
            train={"method": "raft"}, generate={"teacher": {"source": "file:///other"}}
        )
