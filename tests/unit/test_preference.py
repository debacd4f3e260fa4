"""Training on pairs: the loss against its formula and TRL's trainer, the pairs, and real trainings."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from pydantic import ValidationError
from torch import Tensor

from components.contracts.recipe import LoraStructure, TrainSection
from components.contracts.rows import Dropped, TrainingRow, write_rows
from components.modeling.likelihood import (
    EncodedRow,
    collate,
    collate_pairs,
    collate_unpaired,
)
from components.modeling.load import load_model
from components.modeling.scoring import score_rows
from components.select.worse_answers import worse_answer, worse_answers
from components.train.process.adapters import attach, lora_layers, save_adapter
from components.train.process.references import mismatched
from components.train.process.row_objectives import KtoObjective, PreferenceObjective
from tests.unit.gradient_checks import assert_same, gradients
from tests.unit.tiny import save_tiny, tiny_model
from tests.unit.trainings import carry_out, make_job, paired, reversal

PAD = 0


def encoded_pairs(num_pairs: int, num_plain: int) -> list[EncodedRow]:
    """Rows of random tokens, of which the first have a worse answer to the same prompt."""
    rng = random.Random(3)

    def tokens(count: int) -> list[int]:
        return [rng.randint(4, 13) for _ in range(count)]

    rows = []
    for index in range(num_pairs + num_plain):
        prompt = tokens(rng.randint(2, 5))
        row = EncodedRow(
            prompt + tokens(rng.randint(1, 7)), len(prompt), weight=0.5 + index
        )
        if index < num_pairs:
            worse = EncodedRow(prompt + tokens(rng.randint(1, 9)), len(prompt))
            row = replace(row, worse=worse, reference=rng.uniform(-3, 3))
        rows.append(row)
    return rows


def log_likelihood(model: Any, row: EncodedRow) -> Tensor:
    """Log π of a row's answer, by full softmax."""
    log_probabilities = (
        model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    )
    positions = range(row.num_masked, len(row.ids))
    return torch.stack([log_probabilities[t - 1, row.ids[t]] for t in positions]).sum()


def the_long_way(
    model: Any, rows: list[EncodedRow], beta: float, nll_weight: float
) -> Tensor:
    """The sum over rows, one after the other."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        log_row = log_likelihood(model, row)
        likelihood = -log_row / row.num_targets
        if row.worse is None:
            total = total + row.weight * likelihood
            continue
        margin = log_row - log_likelihood(model, row.worse) - row.reference
        preference = torch.log1p(torch.exp(-beta * margin))
        total = total + row.weight * (preference + nll_weight * likelihood)
    return total


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "lstm"])
@pytest.mark.parametrize("chunk_tokens", [None, 4])
def test_the_loss_on_pairs_and_its_gradient_are_those_of_the_formula(
    architecture: str, chunk_tokens: int | None
) -> None:
    model, _ = tiny_model(architecture, seed=1)
    rows = encoded_pairs(num_pairs=3, num_plain=2)
    for beta, nll_weight in ((0.1, 0.0), (0.5, 1.0), (0.1, 0.3)):
        objective = PreferenceObjective(
            model, beta=beta, nll_weight=nll_weight, chunk_tokens=chunk_tokens
        ).train()
        assert_same(
            objective(collate_pairs(rows, PAD)),
            the_long_way(model, rows, beta, nll_weight),
            model,
        )


def test_without_pairs_every_row_counts_the_same_and_a_dev_loss_is_plain_cross_entropy() -> (
    None
):
    model, _ = tiny_model(seed=1)
    rows = [replace(row, weight=1.0) for row in encoded_pairs(num_pairs=0, num_plain=4)]
    objective = PreferenceObjective(model, beta=0.1, nll_weight=0.0).train()
    assert_same(
        objective(collate_pairs(rows, PAD)), the_long_way(model, rows, 0.1, 0.0), model
    )
    objective.eval()
    expected = -torch.stack([log_likelihood(model, row) for row in rows]).sum()
    torch.testing.assert_close(
        objective(collate(rows, PAD)), expected, check_dtype=False, rtol=1e-5, atol=1e-5
    )


def trl_settings(folder: Path) -> dict[str, Any]:
    """Settings of a trainer of TRL that takes all rows as one batch on the CPU."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 6,
        "beta": 0.2,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
    }


def test_loss_and_gradient_are_those_of_trl(tmp_path: Path) -> None:
    model, codec = tiny_model("llama", seed=1)
    reference, _ = tiny_model("llama", seed=2)
    rows = [
        {
            "prompt": f"{row.prompt}",
            "chosen": row.completion,
            "rejected": row.prompt[:-1] + "0",
        }
        for row in reversal(6, 0)
    ]
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=reference,
        args=trl.DPOConfig(**trl_settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=codec.tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(model, batch)
    sequences = [
        EncodedRow(ids[: int(end)].tolist(), int(first))
        for ids, end, first in zip(
            batch["input_ids"],
            batch["attention_mask"].sum(1),
            batch["completion_mask"].argmax(1),
            strict=True,
        )
    ]
    pairs = []
    for better, worse in zip(sequences[:6], sequences[6:], strict=True):
        with torch.no_grad():
            margin = log_likelihood(reference, better) - log_likelihood(
                reference, worse
            )
        pairs.append(replace(better, worse=worse, reference=float(margin)))
    objective = PreferenceObjective(model, beta=0.2, nll_weight=0.0).train()
    ours = objective(collate_pairs(pairs, codec.pad_id)) / len(pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        gradients(ours, model), gradients(theirs, model), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def unpaired_rows(wrong: tuple[bool, ...]) -> list[EncodedRow]:
    """Rows of random tokens, some of them wrong answers."""
    rows = encoded_pairs(num_pairs=0, num_plain=len(wrong))
    return [
        replace(row, wrong=is_wrong, reference=-3.0 - index)
        for index, (row, is_wrong) in enumerate(zip(rows, wrong, strict=True))
    ]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "lstm"])
@pytest.mark.parametrize("chunk_tokens", [None, 4])
def test_the_loss_on_unpaired_answers_and_its_gradient_are_those_of_the_formula(
    architecture: str, chunk_tokens: int | None
) -> None:
    model, _ = tiny_model(architecture, seed=1)
    for wrong in ((False, True, True, False), (False, False), (True, True)):
        rows = unpaired_rows(wrong)
        objective = KtoObjective(
            model, beta=0.3, wrong_weight=1.5, chunk_tokens=chunk_tokens
        ).train()
        objective.divergence = 0.7
        expected = torch.zeros((), dtype=torch.float64)
        for row in rows:
            gain = log_likelihood(model, row) - row.reference - 0.7
            value = (
                1.5 * torch.sigmoid(-0.3 * gain)
                if row.wrong
                else torch.sigmoid(0.3 * gain)
            )
            expected = expected + row.weight * ((1.5 if row.wrong else 1.0) - value)
        assert_same(objective(collate_unpaired(rows, PAD)), expected, model)


def test_loss_divergence_and_gradient_of_unpaired_answers_are_those_of_trl(
    tmp_path: Path,
) -> None:
    model, codec = tiny_model("llama", seed=1)
    reference, _ = tiny_model("llama", seed=2)
    rows = [
        {"prompt": row.prompt, "completion": row.completion, "label": index % 3 > 0}
        for index, row in enumerate(reversal(6, 0))
    ]
    trainer = trl.KTOTrainer(
        model=model,
        ref_model=reference,
        args=trl.KTOConfig(
            desirable_weight=1.0, undesirable_weight=1.4, **trl_settings(tmp_path)
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=codec.tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(model, batch)
    sequences = [
        EncodedRow(ids[: int(end)].tolist(), int(first), wrong=not label)
        for ids, end, first, label in zip(
            batch["input_ids"],
            batch["attention_mask"].sum(1),
            batch["completion_mask"].argmax(1),
            batch["label"],
            strict=True,
        )
    ]
    others = mismatched(sequences, context_length=64)
    objective = KtoObjective(model, beta=0.2, wrong_weight=1.4).train()
    with torch.no_grad():
        gaps = [
            log_likelihood(model, row) - log_likelihood(reference, row)
            for row in others
        ]
        objective.divergence = max(0.0, float(torch.stack(gaps).mean()))
        ours_rows = [
            replace(row, reference=float(log_likelihood(reference, row)))
            for row in sequences
        ]
    assert objective.divergence == pytest.approx(
        trainer._metrics["eval"]["kl"][-1], rel=1e-5
    )
    ours = objective(collate_unpaired(ours_rows, codec.pad_id)) / len(ours_rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        gradients(ours, model), gradients(theirs, model), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_mismatched_row_has_the_answer_of_the_row_before_it() -> None:
    rows = [
        EncodedRow([1, 2, 10, 11], 2),
        EncodedRow([3, 20, 21, 22, 23], 1, gaps=((2, 4),)),
        EncodedRow([4, 5, 6, 30], 3),
    ]
    assert mismatched(rows, context_length=6) == [
        EncodedRow([1, 2, 30], 2),
        EncodedRow([3, 10, 11], 1),
        # Cut; the turns of others in between bear no loss here either.
        EncodedRow([4, 5, 6, 20, 21, 22], 3, gaps=((4, 6),)),
    ]
    # A prompt without room for an answer says nothing about the model.
    (nothing, _) = mismatched([rows[0], rows[2]], context_length=2)
    assert nothing.num_targets == 0


def test_wrong_answers_are_those_that_were_called_wrong_and_ended(
    tmp_path: Path,
) -> None:
    def dropped(
        reason: str, prompt: str, index: int, text: str, **more: Any
    ) -> Dropped:
        sample = {
            "prompt_id": prompt,
            "index": index,
            "seed": 0,
            "text": text,
            "num_tokens": 3,
            "finished": True,
        }
        return Dropped(reason=reason, detail="", row={"prompt": "?", **sample, **more})

    path = tmp_path / "dropped.jsonl"
    write_rows(
        path,
        [
            dropped("vote", "a", 5, "seven"),
            dropped("verifier", "a", 3, "eight"),
            dropped("verifier", "a", 4, "eight"),
            dropped("verifier", "a", 1, "cut off", finished=False),
            dropped("verifier", "a", 2, "shown", hinted=True),
            dropped("duplicate", "b", 1, "right"),
            dropped("unfinished", "b", 2, "and so on", finished=False),
        ],
    )
    answers = worse_answers(path)
    assert answers == {"a": ["eight", "seven"]}
    turns = [worse_answer(answers, "a", number) for number in range(3)]
    assert turns == ["eight", "seven", "eight"]
    assert worse_answer(answers, "b", 0) is None


def mean_margin(folder: Path, rows: list[TrainingRow]) -> float:
    """Mean of log π(right) - log π(wrong) over rows."""
    model = load_model(folder)
    _, codec = tiny_model()
    right = [EncodedRow(*codec.sampled_ids(row.prompt, row.completion)) for row in rows]
    wrong = [EncodedRow(*codec.sampled_ids(row.prompt, str(row.worse))) for row in rows]
    losses = [
        score.loss for score in score_rows(model, right + wrong, codec.pad_id, 64)
    ]
    differences = [
        wrong - right
        for right, wrong in zip(losses[: len(rows)], losses[len(rows) :], strict=True)
    ]
    return float(sum(differences) / len(differences))


@pytest.mark.process
def test_trainings_on_pairs_tell_right_from_wrong_at_every_stage_and_process_count(
    tmp_path: Path,
) -> None:
    rows = paired(reversal(120, 0))
    mix = rows + reversal(40, 2)
    wrong = [
        row.model_copy(update={"completion": row.worse, "wrong": True}) for row in rows
    ]
    runs = {}
    preference = {"beta": 1.0}
    sections: dict[str, dict[str, Any]] = {
        "dpo": {"method": "dpo", "preference": preference, "zero": 0},
        "rpo": {"method": "rpo", "preference": preference, "zero": 0},
        "sft": {"method": "sft", "zero": 0},
        "dpo-zero-3": {
            "method": "dpo",
            "preference": preference,
            "zero": 3,
            "num_processes": 2,
            "micro_batch_size": 4,
        },
        "kto": {"method": "kto", "preference": preference, "zero": 0, "wrong": wrong},
    }
    for name, section in sections.items():
        runs[name] = carry_out(make_job(tmp_path / name, rows=mix, steps=60, **section))
        assert runs[name]["status"] == 0, runs[name]["failure"]
    assert runs["dpo"]["losses"] == pytest.approx(
        runs["dpo-zero-3"]["losses"], rel=5e-3
    )
    # The reference is the model before its first step.
    assert runs["kto"]["losses"][0] == pytest.approx(0.5, abs=1e-4)
    margins = {name: mean_margin(run["folder"], rows) for name, run in runs.items()}
    before = mean_margin(tmp_path / "kto" / "base", rows)
    assert margins["dpo"] > margins["sft"] + 0.5
    assert margins["rpo"] > margins["sft"] + 0.5
    # Without a term of likelihood, so it learns slower from a model that knows nothing.
    assert margins["kto"] > before + 0.8
    # Its likelihood term holds on to right answers as such.
    assert runs["rpo"]["best_dev_loss"] < runs["dpo"]["best_dev_loss"]


@pytest.mark.process
def test_the_base_as_reference_is_the_adapter_switched_off_or_a_model_of_its_own(
    tmp_path: Path,
) -> None:
    base = save_tiny(tmp_path / "base")
    structure = LoraStructure(rank=4)
    torch.manual_seed(5)
    champion = attach(load_model(base), structure)
    for layer in lora_layers(champion).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    save_adapter(champion, structure, tmp_path / "adapter")
    rows = reversal(40, 0)
    wrong = [
        row.model_copy(update={"completion": row.prompt, "wrong": True}) for row in rows
    ]
    cases: dict[str, tuple[Path, dict[str, Any]]] = {
        "off": (base, {"zero": 3, "num_processes": 2, "micro_batch_size": 4}),
        "loaded": (shutil.copytree(base, tmp_path / "same"), {"zero": 1}),
    }
    losses = []
    for name, (reference, section) in cases.items():
        job = make_job(
            tmp_path / name,
            rows=rows,
            wrong=wrong,
            steps=6,
            init=base,
            lora=structure,
            adapter=tmp_path / "adapter",
            reference=reference,
            method="kto",
            **section,
        )
        run = carry_out(job)
        assert run["status"] == 0, run["failure"]
        losses.append(run["losses"])
    # The estimate of the divergence is that of the whole step, whatever processes, micro-batches and
    # ZeRO stages there are.
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    # The champion has left the base: it is not where the comparison begins.
    assert abs(losses[0][0] - 0.5) > 1e-3
    assert losses[0][-1] != losses[0][0]


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"packing": True}, "unset packing"),
        ({"kl_beta": 0.1}, "use preference.beta"),
        ({"preference": {"beta": 0.0}}, "greater than 0"),
    ],
)
def test_settings_that_do_not_go_with_pairs_are_refused(
    section: Any, problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        TrainSection.model_validate({"method": "dpo", **section})
