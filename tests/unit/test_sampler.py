"""Sampling: the same answers as transformers' generate, a seed per sample, batches that do not
matter."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.modeling.inference.attention import NAME, use_shared_heads
from components.modeling.inference.kv_cache import ROOM_TOKENS
from components.modeling.inference.sampler import Answer, Request, Sampling, sample
from components.modeling.inference.sampling import choose, top, uniforms
from components.modeling.likelihood import EncodedRow, collate
from tests.unit.tiny import ARCHITECTURES, greedy_of_transformers, tiny_model

pytestmark = pytest.mark.process

PROMPTS = ["12=", "9876=", "5=", "13579=", "24680=", "777="]


def answers(
    model: Any, codec: Any, seeds: int = 1, batch_size: int = 64, **sampling: Any
) -> dict[tuple[int, int], Answer]:
    settings = {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 12,
        "batch_size": batch_size,
        **sampling,
    }
    requests = [
        Request(tuple(codec.prompt_ids(text)), tuple(range(seeds))) for text in PROMPTS
    ]
    drawn = list(
        sample(model, requests, Sampling(**settings), codec.end_ids, codec.pad_id)
    )
    assert len(drawn) == len(PROMPTS) * seeds
    return {(answer.request, answer.index): answer for answer in drawn}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_answers_are_those_of_transformers_generate(
    architecture: str, batch_size: int
) -> None:
    model, codec = tiny_model(architecture, seed=3)
    own = answers(model, codec, batch_size=batch_size)
    for index, text in enumerate(PROMPTS):
        theirs = greedy_of_transformers(model, codec, text, 12)
        finished = theirs[-1] in codec.end_ids
        assert own[index, 0].ids == (theirs[:-1] if finished else theirs)
        assert own[index, 0].finished == finished


def test_a_sample_depends_on_its_seed_alone_not_on_its_batch() -> None:
    model, codec = tiny_model(seed=1)
    whole = answers(model, codec, seeds=5, temperature=1.0, batch_size=64)
    small = answers(model, codec, seeds=5, temperature=1.0, batch_size=4)
    assert {key: value.ids for key, value in whole.items()} == {
        key: value.ids for key, value in small.items()
    }
    assert len({tuple(value.ids) for value in whole.values()}) > len(PROMPTS)


def test_samples_follow_the_model_distribution() -> None:
    model, codec = tiny_model(seed=2)
    request = Request(tuple(codec.prompt_ids("12=")), tuple(range(4000)))
    sampling = Sampling(
        temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=1, batch_size=4000
    )
    counts: Counter[int] = Counter()
    for answer in sample(model, [request], sampling, codec.end_ids, codec.pad_id):
        counts[codec.end_ids[0] if answer.finished else answer.ids[0]] += 1
    with torch.inference_mode():
        expected = (
            model(input_ids=torch.tensor([request.ids])).logits[0, -1].softmax(-1)
        )
    for token, probability in enumerate(expected.tolist()):
        deviation = 4.5 * (probability * (1 - probability) / 4000) ** 0.5
        assert abs(counts[token] / 4000 - probability) <= deviation + 1e-9


def test_top_k_and_top_p_leave_out_the_tail() -> None:
    model, codec = tiny_model(seed=2)
    request = Request(tuple(codec.prompt_ids("12=")), tuple(range(500)))
    with torch.inference_mode():
        best = (
            model(input_ids=torch.tensor([request.ids]))
            .logits[0, -1]
            .argsort(descending=True)
            .tolist()
        )
    for limits in ({"top_k": 2, "top_p": 1.0}, {"top_k": 0, "top_p": 1e-6}):
        sampling = Sampling(temperature=1.0, max_new_tokens=1, batch_size=500, **limits)  # type: ignore[arg-type]
        drawn = {
            codec.end_ids[0] if answer.finished else answer.ids[0]
            for answer in sample(
                model, [request], sampling, codec.end_ids, codec.pad_id
            )
        }
        assert drawn <= set(best[: limits["top_k"] or 1])


def test_padding_on_the_right_changes_no_loss() -> None:
    model, codec = tiny_model(seed=4)
    row = EncodedRow(*codec.row_ids("12=", "21"))
    other = EncodedRow(*codec.row_ids("123456789=", "987654321"))
    alone = collate([row], codec.pad_id).input_ids
    together = collate([row, other], codec.pad_id).input_ids
    with torch.inference_mode():
        expected = model(input_ids=alone).logits[0]
        padded = model(input_ids=together).logits[0, : len(row.ids)]
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [49_152, 20_001, 60])
def test_the_largest_logits_are_found_block_by_block(size: int) -> None:
    logits = torch.randn(16, size, generator=torch.Generator().manual_seed(size))
    values, ids = top(logits, 50)
    expected = logits.topk(50, dim=-1)
    assert torch.equal(values, expected.values)
    assert torch.equal(ids, expected.indices)


def test_the_numbers_of_a_seed_are_uniform_and_its_own() -> None:
    numbers = uniforms(range(20_000), 8)
    assert torch.equal(numbers[:, :3], uniforms(range(20_000), 3)), (
        "asking for more changes none"
    )
    assert torch.equal(numbers[17:19], uniforms([17, 18], 8))
    assert 0 <= float(numbers.min()) <= float(numbers.max()) < 1
    shares = torch.histc(numbers.float(), bins=20, min=0, max=1) / numbers.numel()
    assert (
        float((shares - 0.05).abs().max()) < 5 * (0.05 * 0.95 / numbers.numel()) ** 0.5
    )
    centred = numbers - 0.5
    assert float((centred[:, 1:] * centred[:, :-1]).mean().abs()) < 0.002, (
        "one step says nothing of the next"
    )
    assert float((centred[1:] * centred[:-1]).mean().abs()) < 0.002, (
        "nor one seed of the next"
    )


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.9), (200, 0.9)])
def test_rounding_that_swaps_two_likely_tokens_changes_no_draw(
    top_k: int, top_p: float
) -> None:
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(0)).repeat(
        1000, 1
    )
    best, second = logits[0].topk(2).indices.tolist()
    logits[:, second] = logits[:, best]
    dice = uniforms(range(1000), 1)[:, 0]
    drawn = []
    for less in (best, second):
        noisy = logits.clone()
        noisy[:, less] -= 1e-5
        drawn.append(choose(noisy, dice, Sampling(0.7, top_k, top_p, 1, 1000)))
    assert int((drawn[0] != drawn[1]).sum()) <= 1
    assert {best, second} <= set(drawn[0].tolist())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_end_early_leave_the_batch_and_change_no_other(
    architecture: str,
) -> None:
    model, codec = tiny_model(architecture, seed=1)
    together = answers(model, codec, seeds=12, temperature=1.5, max_new_tokens=40)
    lengths = sorted(len(answer.ids) for answer in together.values())
    assert lengths[0] < 5
    assert lengths[-1] > 20
    alone = answers(
        model, codec, seeds=12, temperature=1.5, max_new_tokens=40, batch_size=1
    )
    assert {key: value.ids for key, value in together.items()} == {
        key: value.ids for key, value in alone.items()
    }


@functools.cache
def model_of_long_answers(key_heads: int) -> tuple[Any, Any, dict[int, list[int]]]:
    """A model, its codec, and transformers' own answers to the prompts."""
    _, codec = tiny_model("llama", max_length=256)
    torch.manual_seed(key_heads)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(codec.tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            intermediate_size=64,
            initializer_range=0.3,
            eos_token_id=codec.tokenizer.eos_token_id,
        )
    ).eval()
    model.lm_head.weight.data[codec.end_ids[0]] = 0  # so that answers are long
    theirs = {}
    for index, text in enumerate(PROMPTS):
        theirs[index] = greedy_of_transformers(model, codec, text, 150)
    return model, codec, theirs


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("attention", ["eager", "sdpa", NAME])
def test_long_answers_of_every_attention_are_those_of_generate(
    attention: str, key_heads: int
) -> None:
    original, codec, theirs = model_of_long_answers(key_heads)
    model = copy.deepcopy(original)
    if attention == NAME:
        use_shared_heads(model)
    else:
        model.set_attn_implementation(attention)
    assert model.config._attn_implementation == attention
    own = answers(model, codec, max_new_tokens=150)
    assert max(len(answer.ids) for answer in own.values()) > 2 * ROOM_TOKENS
    for index, ids in theirs.items():
        assert [*own[index, 0].ids, *codec.end_ids[: own[index, 0].finished]] == ids
