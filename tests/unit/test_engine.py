"""Sampling: the same answers as transformers' generate, a seed per sample, batches that do not matter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from components.modeling.engine import Answer, Request, Sampling, sample
from components.modeling.likelihood import EncodedRow, collate
from tests.unit.tiny import tiny_model

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
    requests = [Request(tuple(codec.prompt_ids(text)), tuple(range(seeds))) for text in PROMPTS]
    drawn = list(sample(model, requests, Sampling(**settings), codec.end_ids, codec.pad_id))
    assert len(drawn) == len(PROMPTS) * seeds
    return {(answer.request, answer.index): answer for answer in drawn}


@pytest.mark.parametrize("architecture", ["llama", "llama-nope", "gpt2", "lstm"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_answers_are_those_of_transformers_generate(architecture: str, batch_size: int) -> None:
    model, codec = tiny_model(architecture, seed=3)
    own = answers(model, codec, batch_size=batch_size)
    for index, text in enumerate(PROMPTS):
        ids = torch.tensor([codec.prompt_ids(text)])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=codec.pad_id
        )[0, ids.shape[1] :].tolist()
        finished = theirs[-1] in codec.end_ids
        assert own[index, 0].ids == (theirs[:-1] if finished else theirs)
        assert own[index, 0].finished == finished


def test_a_sample_depends_on_its_seed_alone_not_on_its_batch() -> None:
    model, codec = tiny_model(seed=1)
    whole = answers(model, codec, seeds=5, temperature=1.0, batch_size=64)
    small = answers(model, codec, seeds=5, temperature=1.0, batch_size=4)
    assert {key: value.ids for key, value in whole.items()} == {key: value.ids for key, value in small.items()}
    assert len({tuple(value.ids) for value in whole.values()}) > len(PROMPTS)


def test_samples_follow_the_model_distribution() -> None:
    model, codec = tiny_model(seed=2)
    request = Request(tuple(codec.prompt_ids("12=")), tuple(range(4000)))
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=1, batch_size=4000)
    counts: Counter[int] = Counter()
    for answer in sample(model, [request], sampling, codec.end_ids, codec.pad_id):
        counts[codec.end_ids[0] if answer.finished else answer.ids[0]] += 1
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([request.ids])).logits[0, -1].softmax(-1)
    for token, probability in enumerate(expected.tolist()):
        deviation = 4.5 * (probability * (1 - probability) / 4000) ** 0.5
        assert abs(counts[token] / 4000 - probability) <= deviation + 1e-9


def test_top_k_and_top_p_leave_out_the_tail() -> None:
    model, codec = tiny_model(seed=2)
    request = Request(tuple(codec.prompt_ids("12=")), tuple(range(500)))
    with torch.inference_mode():
        best = model(input_ids=torch.tensor([request.ids])).logits[0, -1].argsort(descending=True).tolist()
    for limits in ({"top_k": 2, "top_p": 1.0}, {"top_k": 0, "top_p": 1e-6}):
        sampling = Sampling(temperature=1.0, max_new_tokens=1, batch_size=500, **limits)  # type: ignore[arg-type]
        drawn = {
            codec.end_ids[0] if answer.finished else answer.ids[0]
            for answer in sample(model, [request], sampling, codec.end_ids, codec.pad_id)
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
