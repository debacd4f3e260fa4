"""Let a checkpoint answer prompts: the one way that generate and evaluate share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.contracts.rows import Prompt, Sample
from components.modeling.encoding import Codec, load_codec
from components.modeling.inference.attention import use_shared_heads
from components.modeling.inference.sampler import Request, Sampler
from components.modeling.inference.sampling import Sampling
from components.modeling.load import inference_dtype, load_model
from components.runtime.context import Context


def load_for_answers(folder: Path, system_prompt: str) -> tuple[Any, Codec]:
    """A checkpoint ready to sample from, in the precision that is fastest for its size, with its
    codec."""
    model = load_model(folder, inference_dtype(folder))
    use_shared_heads(model)
    return model, load_codec(folder, system_prompt)


class Answerer:
    """A loaded model that answers prompts in the same way each time it is asked."""

    def __init__(
        self,
        model: Any,
        codec: Codec,
        sampling: Sampling,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` is told when memory did not suffice for a batch."""
        self._sampler = Sampler(model, sampling, codec.end_ids, codec.pad_id, note)
        self._codec = codec

    @property
    def batch_size(self) -> int:
        """Rows sampled together now: fewer than asked for once memory did not suffice."""
        return self._sampler.batch_size

    def answer(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        on_batch: Callable[[int, float], None] = lambda done, rate: None,
    ) -> list[Sample]:
        """One answer per seed, in order of prompt and seed; `index` counts the seeds of a prompt."""
        requests = [
            Request(tuple(self._codec.prompt_ids(prompt.asked)), tuple(own))
            for prompt, own in zip(prompts, seeds, strict=True)
        ]
        answers = sorted(
            self._sampler.draw(requests, on_batch),
            key=lambda answer: (answer.request, answer.index),
        )
        return [
            Sample(
                prompt_id=prompts[answer.request].id,
                index=answer.index,
                seed=seeds[answer.request][answer.index],
                text=self._codec.text(answer.ids),
                num_tokens=len(answer.ids) + answer.finished,
                finished=answer.finished,
            )
            for answer in answers
        ]


def sample_all(
    context: Context,
    model: Any,
    codec: Codec,
    prompts: Sequence[Prompt],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[Sample]:
    """Answers of a loaded model; charges `compute_seconds` and `tokens_generated` and reports
    progress."""
    begun = context.clock()
    total = sum(len(own) for own in seeds)

    def on_batch(done: int, rate: float) -> None:
        context.progress.update(done, total, rate, "answers")

    samples = Answerer(model, codec, sampling, context.progress.note).answer(
        prompts, seeds, on_batch
    )
    context.charge("compute_seconds", context.clock() - begun)
    context.charge("tokens_generated", sum(item.num_tokens for item in samples))
    return samples
