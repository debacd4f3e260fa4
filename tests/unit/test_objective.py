"""The training loss against its formulas, computed the long way."""

from __future__ import annotations

import random
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GraniteConfig, GraniteForCausalLM

from components.modeling.likelihood import (
    Batch,
    CompletionLoss,
    EncodedRow,
    collate,
    mean_loss,
)
from components.train.process.objective import Objective, row_lengths, with_noise
from components.train.process.packing import bins, collate_packed
from tests.unit.gradient_checks import PAD, assert_same, gradients, some_rows
from tests.unit.tiny import ARCHITECTURES, tiny_model


def the_long_way(
    model: Any, rows: list[EncodedRow], reference: Any = None, beta: float = 0.0
) -> Tensor:
    """Σ_rows w Σ_t −log π(x_t) + β Σ_v π(v) log(π(v) / π_ref(v)), one row after the other, by full
    softmax."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor([row.ids])
        policy = model(input_ids=ids).logits[0].double().softmax(-1)
        for t in range(row.num_masked, len(row.ids)):
            total = total - row.weight * policy[t - 1, row.ids[t]].log()
            if reference is not None:
                with torch.no_grad():
                    base = reference(input_ids=ids).logits[0].double().softmax(-1)
                divergence = (policy[t - 1] * (policy[t - 1] / base[t - 1]).log()).sum()
                total = total + row.weight * beta * divergence
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk_tokens", [None, 4])
def test_cross_entropy_and_kl_to_the_base_are_those_of_the_formula(
    architecture: str, chunk_tokens: int | None
) -> None:
    model, reference = (
        tiny_model(architecture, seed=1)[0],
        tiny_model(architecture, seed=2)[0],
    )
    rows = some_rows(weights=(1.0, 0.5, 3.0))
    for beta in (0.0, 0.1):
        objective = Objective(
            model, kl_beta=beta, reference=reference, chunk_tokens=chunk_tokens
        ).train()
        assert_same(
            objective(collate(rows, PAD)),
            the_long_way(model, rows, reference, beta),
            model,
        )


def test_kl_to_itself_is_nothing_and_no_kl_is_plain_cross_entropy() -> None:
    model, twin, batch = (
        tiny_model(seed=1)[0],
        tiny_model(seed=1)[0],
        collate(some_rows(), PAD),
    )
    plain = CompletionLoss(model)(batch)
    assert torch.equal(Objective(model).train()(batch), plain)
    assert torch.equal(
        Objective(model, kl_beta=0.0, reference=tiny_model(seed=5)[0]).train()(batch),
        plain,
    )
    to_itself = Objective(model, kl_beta=0.1, reference=twin).train()(batch)
    assert_same(to_itself, plain, model)


def test_a_held_out_look_is_plain_cross_entropy() -> None:
    model, batch = tiny_model(seed=1)[0], collate(some_rows(), PAD)
    objective = Objective(
        model, neftune_alpha=5.0, kl_beta=0.1, reference=tiny_model(seed=2)[0]
    ).train()
    plain = CompletionLoss(model)(batch)
    assert not torch.equal(objective(batch), plain)
    assert torch.equal(objective.eval()(batch), plain)


def test_the_base_is_frozen_and_no_part_of_what_is_trained() -> None:
    model, reference = tiny_model(seed=1)[0], tiny_model(seed=2)[0].train()
    objective = Objective(model, kl_beta=0.1, reference=reference).train()
    names = [f"model.{name}" for name, _ in model.named_parameters()]
    assert [name for name, _ in objective.named_parameters()] == names
    assert list(objective.state_dict()) == [
        f"model.{name}" for name in model.state_dict()
    ]
    objective(collate(some_rows(), PAD)).backward()
    assert not reference.training
    assert all(
        weight.grad is None and not weight.requires_grad
        for weight in reference.parameters()
    )
    with pytest.raises(ValueError, match="reference"):
        Objective(model, kl_beta=0.1)


def test_weights_scale_the_loss_of_their_rows() -> None:
    model = tiny_model(seed=1)[0]
    single, double = (some_rows(weights=(1.0 * by, 0.25 * by)) for by in (1, 2))
    objective = Objective(model, kl_beta=0.1, reference=tiny_model(seed=2)[0]).train()
    once, twice = (objective(collate(rows, PAD)).detach() for rows in (single, double))
    assert float(twice) == pytest.approx(2 * float(once))

    rows = some_rows(weights=(1.0, 0.0))
    for batch in (collate(rows, PAD), collate_packed([rows], PAD)):
        kept = [row for row in rows if row.weight]
        assert_same(objective(batch), objective(collate(kept, PAD)), model)
    nothing = objective(collate([row for row in rows if not row.weight], PAD))
    assert nothing == 0.0
    assert not any(gradient.any() for gradient in gradients(nothing, model))


def test_the_mean_over_rows_is_weighted_too() -> None:
    model, rows = tiny_model(seed=1)[0], some_rows(weights=(1.0, 0.5))
    expected = float(the_long_way(model, rows)) / sum(
        row.weight * row.num_targets for row in rows
    )
    assert mean_loss(CompletionLoss(model), rows, PAD, 4) == pytest.approx(
        expected, rel=1e-5
    )


def test_noise_is_uniform_within_its_bound_by_the_length_of_the_row_itself() -> None:
    torch.manual_seed(0)
    embeddings, lengths = (
        torch.zeros(2, 300, 64),
        torch.tensor([[300] * 300, [30] * 30 + [1] * 270]),
    )
    noise = with_noise(embeddings, lengths, 5.0)
    for own, length in ((noise[0], 300), (noise[1, :30], 30)):
        bound = 5.0 / (length * 64) ** 0.5
        assert 0.99 * bound < float(own.abs().max()) <= bound
        assert float(own.std()) == pytest.approx(bound / 3**0.5, rel=0.03)
        assert abs(float(own.mean())) < 0.05 * bound


def test_a_row_has_its_own_length_beside_padding_and_in_a_packed_sequence() -> None:
    rows = [EncodedRow([5] * 4, 2), EncodedRow([6] * 7, 1), EncodedRow([7] * 2, 1)]
    padded = row_lengths(collate(rows, PAD))
    assert [
        padded[index, : len(row.ids)].tolist() for index, row in enumerate(rows)
    ] == [
        [4] * 4,
        [7] * 7,
        [2] * 2,
    ]
    silent = EncodedRow([8] * 4, 4)
    assert row_lengths(collate([silent, rows[1]], PAD))[0, :4].tolist() == [1] * 4
    packed = row_lengths(collate_packed([rows[:2], rows[2:]], PAD))
    assert packed[0].tolist() == [4] * 4 + [7] * 7
    assert packed[1, :2].tolist() == [2, 2]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_noise_reaches_the_model_in_training_alone_and_follows_the_seed(
    architecture: str,
) -> None:
    model, batch = tiny_model(architecture, seed=1)[0], collate(some_rows(), PAD)
    objective = Objective(model, neftune_alpha=5.0).train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(objective(batch).detach()))
    assert losses[0] == losses[1] != losses[2]
    assert not model.get_input_embeddings()._forward_hooks

    torch.manual_seed(0)
    embeddings = with_noise(
        model.get_input_embeddings()(batch.input_ids), row_lengths(batch), 5.0
    )
    logits = model(inputs_embeds=embeddings).logits
    chosen = batch.labels[:, 1:] != -100
    expected = nn.functional.cross_entropy(
        logits[:, :-1][chosen], batch.labels[:, 1:][chosen], reduction="sum"
    )
    assert losses[0] == pytest.approx(float(expected.detach()), rel=1e-5)


class LargestTensor(TorchDispatchMode):  # type: ignore[misc]
    """Elements of the largest tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        parts = made if isinstance(made, tuple | list) else (made,)
        self.elements = max(
            [
                self.elements,
                *(part.numel() for part in parts if isinstance(part, Tensor)),
            ]
        )
        return made


def test_logits_are_never_whole_in_memory() -> None:
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    model, _ = tiny_model("llama", alphabet=alphabet)
    vocabulary = 3004
    rows = [
        EncodedRow([random.Random(seed).randrange(vocabulary) for _ in range(60)], 1)
        for seed in range(8)
    ]
    batch = collate(rows, PAD)
    losses: dict[int, Tensor] = {}
    largest: dict[int, int] = {}
    for chunk_tokens in (16, 1000):
        objective = Objective(model, chunk_tokens=chunk_tokens).train()
        with LargestTensor() as seen:
            losses[chunk_tokens] = objective(batch)
            losses[chunk_tokens].backward()
        largest[chunk_tokens] = seen.elements
    assert largest[1000] == 8 * 59 * vocabulary
    assert largest[16] == 32 * vocabulary  # the head's own weight
    with LargestTensor() as seen, torch.inference_mode():
        torch.testing.assert_close(
            Objective(model, chunk_tokens=16).eval()(batch), losses[1000].detach()
        )
    assert seen.elements <= 16 * vocabulary


@pytest.mark.parametrize("frozen", ["nothing", "head", "body"])
@pytest.mark.parametrize("packed", [False, True])
def test_chunks_change_neither_loss_nor_gradients(frozen: str, packed: bool) -> None:
    model, reference = tiny_model("gpt2", seed=1)[0], tiny_model("gpt2", seed=2)[0]
    model.lm_head = nn.Linear(
        32, model.config.vocab_size
    )  # not the embedding, and with a bias
    if frozen != "nothing":
        {"head": model.lm_head, "body": model.transformer}[frozen].requires_grad_(False)
    rows = some_rows(weights=(1.0, 0.5))
    batch = collate_packed(
        [
            [rows[i] for i in group]
            for group in bins([len(row.ids) for row in rows], 24)
        ],
        PAD,
    )
    losses = []
    for chunk_tokens in (3, 1000):
        torch.manual_seed(0)
        objective = Objective(
            model,
            neftune_alpha=5.0,
            kl_beta=0.1,
            reference=reference,
            chunk_tokens=chunk_tokens,
        )
        losses.append(
            objective.train()(batch if packed else collate(rows, PAD)) * 0.125
        )  # as DeepSpeed scales it
    assert_same(losses[0], losses[1], model)


def test_chunks_keep_to_autocast() -> None:
    model, batch = (
        tiny_model("llama", seed=1)[0],
        collate(some_rows(weights=(1.0, 0.3)), PAD),
    )
    losses = []
    for chunk_tokens in (3, 1000):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(Objective(model, chunk_tokens=chunk_tokens).train()(batch))
    assert [loss.dtype for loss in losses] == [torch.float32, torch.float32]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    for mine, other in zip(*(gradients(loss, model) for loss in losses), strict=True):
        torch.testing.assert_close(
            mine, other, rtol=0.05, atol=0.05 * float(other.abs().max())
        )


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
@pytest.mark.parametrize("chunk_tokens", [None, 4])
def test_adapters_on_the_body_and_on_the_head_get_their_gradients(
    targets: list[str], chunk_tokens: int | None
) -> None:
    model = peft.get_peft_model(
        tiny_model("llama", seed=1)[0], peft.LoraConfig(r=4, target_modules=targets)
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    rows = some_rows()
    objective = Objective(model, chunk_tokens=chunk_tokens).train()
    assert_same(objective(collate(rows, PAD)), the_long_way(model, rows), model)


def test_a_model_that_scales_its_logits_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    model = GraniteForCausalLM(
        GraniteConfig(vocab_size=16, logits_scaling=4.0, num_key_value_heads=2, **shape)
    ).eval()
    rows = some_rows()
    for chunk_tokens in (None, 4):
        objective = Objective(model, chunk_tokens=chunk_tokens).train()
        assert_same(objective(collate(rows, PAD)), the_long_way(model, rows), model)


def test_a_batch_moves_whole() -> None:
    rows = some_rows(weights=(1.0, 2.0))
    for batch in (collate(rows, PAD), collate_packed([rows], PAD)):
        moved = batch.to("meta")
        assert moved.num_positions == batch.num_positions == batch.input_ids.numel()
        for name in Batch.__dataclass_fields__:
            before, after = getattr(batch, name), getattr(moved, name)
            assert (before is None) == (after is None)
            assert after is None or after.device.type == "meta"
