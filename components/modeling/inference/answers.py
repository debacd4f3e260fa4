"""Answers of a checkpoint to prompts, drawn in one way by generate and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from components.contracts.rows import Prompt, Sample, TrainingRow, answered
from components.modeling.encoding import Codec, load_codec
from components.modeling.inference.attention import use_shared_heads
from components.modeling.inference.sampler import OnBatch, Request, Sampler
from components.modeling.inference.sampling import Sampling
from components.modeling.likelihood import EncodedRow
from components.modeling.load import inference_dtype, load_model
from components.modeling.scoring import token_log_probabilities
from components.runtime.context import Context

DECIMALS = 5
"""Digits of a log-probability behind the point: its ratio is exact to 1e-5."""


def load_for_answers(folder: Path, system_prompt: str) -> tuple[PreTrainedModel, Codec]:
    """Return (model, codec) of a checkpoint, in the precision that is fastest for its size."""
    model = load_model(folder, inference_dtype(folder), spread=True)
    use_shared_heads(model)
    return model, load_codec(folder, system_prompt)


class Answerer:
    """A loaded model that answers prompts in the same way each time it is asked."""

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        sampling: Sampling,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` is called with a line of text when memory did not suffice for a batch."""
        self._sampler = Sampler(model, sampling, codec.end_ids, codec.pad_id, note)
        self._model = model
        self._codec = codec

    @property
    def batch_size(self) -> int:
        """Rows sampled together now: fewer than asked for once memory did not suffice."""
        return self._sampler.batch_size

    def answer(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        on_batch: OnBatch = lambda num_answers, num_tokens: None,
    ) -> list[Sample]:
        """Return one answer per seed, in order of prompt and seed.

        Args:
            prompts: the prompts, in any order of length.
            seeds: for each prompt the seeds of its answers; `Sample.index` counts them.
            on_batch: called after each batch with (answers, tokens) drawn so far.
        """
        requests = [
            Request(tuple(self._codec.prompt_ids(prompt.asked)), tuple(prompt_seeds))
            for prompt, prompt_seeds in zip(prompts, seeds, strict=True)
        ]
        # The sampler yields them in order of prompt length.
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

    def with_log_probabilities(
        self, prompts: Sequence[Prompt], samples: Sequence[Sample]
    ) -> list[Sample]:
        """Return the samples with log π of each token that training on them teaches.

        They are encoded as training encodes them: the tokens of an answer's text are not always
        those that were drawn.
        """
        by_id = {prompt.id: prompt for prompt in prompts}
        rows: list[EncodedRow] = []
        for sample in samples:
            row = row_of(by_id[sample.prompt_id], sample)
            (encoded,) = self._codec.encode(row)
            rows.append(EncodedRow(encoded.ids, encoded.num_masked))
        values = token_log_probabilities(
            self._model, rows, self._codec.pad_id, self._sampler.batch_size
        )
        return [
            sample.model_copy(
                update={
                    "log_probabilities": tuple(
                        round(value, DECIMALS) for value in row_values
                    )
                }
            )
            for sample, row_values in zip(samples, values, strict=True)
        ]


def row_of(prompt: Prompt, sample: Sample) -> TrainingRow:
    """Return a sample as the row that it is trained on as, without weight and provenance."""
    return TrainingRow(
        id=f"{prompt.id}-{sample.index}",
        prompt=prompt.text,
        completion=sample.text,
        conversation=answered(prompt, sample.text),
        source="self",
        round=0,
        is_text=prompt.is_text,
        # Where sampling stopped, text and answer did not end.
        goes_on=not sample.finished,
    )


def sample_all(
    context: Context,
    model: PreTrainedModel,
    codec: Codec,
    prompts: Sequence[Prompt],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[Sample]:
    """Return the answers of a loaded model, as `Answerer.answer` does.

    Charges `compute_seconds` and `tokens_generated`, and reports progress.
    """
    begun = context.clock()
    total = sum(len(prompt_seeds) for prompt_seeds in seeds)

    def report(num_answers: int, num_tokens: int) -> None:
        # A clock may stand still between two readings, or be set back.
        seconds = max(context.clock() - begun, 1e-9)
        context.progress.update(num_answers, total, num_tokens / seconds, "answers")

    answerer = Answerer(model, codec, sampling, context.progress.note)
    samples = answerer.answer(prompts, seeds, report)
    context.charge("compute_seconds", context.clock() - begun)
    context.charge("tokens_generated", sum(sample.num_tokens for sample in samples))
    return samples
