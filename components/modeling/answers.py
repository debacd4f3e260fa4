"""Let a checkpoint answer prompts: the one way that generate and evaluate share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.context import Context
from components.common.records import Prompt, Sample
from components.modeling.encoding import Codec
from components.modeling.engine import Request, Sampling, sample
from components.modeling.load import inference_dtype, load_model, load_tokenizer


def load_for_answers(folder: Path, system_prompt: str) -> tuple[Any, Codec]:
    """A checkpoint ready to sample from, in the precision that is fastest for its size, with its codec."""
    return load_model(folder, inference_dtype(folder)), Codec(load_tokenizer(folder), system_prompt)


def answer_prompts(
    context: Context,
    folder: Path,
    system_prompt: str,
    prompts: Sequence[Prompt],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[Sample]:
    """Answers of the checkpoint in `folder`, one per seed, in order of prompt and index."""
    model, codec = load_for_answers(folder, system_prompt)
    return sample_all(context, model, codec, prompts, seeds, sampling)


def sample_all(
    context: Context,
    model: Any,
    codec: Codec,
    prompts: Sequence[Prompt],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[Sample]:
    """Answers of a loaded model; charges `compute_seconds` and `tokens_generated` and reports progress."""
    begun = context.clock()
    requests = [
        Request(tuple(codec.prompt_ids(prompt.text)), tuple(own)) for prompt, own in zip(prompts, seeds, strict=True)
    ]
    total = sum(len(own) for own in seeds)

    def on_batch(done: int, rate: float) -> None:
        context.progress.update(done, total, rate, "answers")

    samples = [
        Sample(
            prompt_id=prompts[answer.request].id, index=answer.index, seed=seeds[answer.request][answer.index],
            text=codec.text(answer.ids), num_tokens=len(answer.ids) + answer.finished, finished=answer.finished,
        )
        for answer in sample(model, requests, sampling, codec.end_ids, codec.pad_id, on_batch)
    ]  # fmt: skip
    order = {prompt.id: place for place, prompt in enumerate(prompts)}
    samples.sort(key=lambda item: (order[item.prompt_id], item.index))
    context.charge("compute_seconds", context.clock() - begun)
    context.charge("tokens_generated", sum(item.num_tokens for item in samples))
    return samples
