"""Engine `transformers`: this project's own sampling loop over a transformers model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts
from components.generate.batches import Ask
from components.runtime.campaign import Campaign
from components.runtime.context import Context

if TYPE_CHECKING:
    from components.modeling.encoding import Codec
    from components.modeling.inference.answers import Answerer
    from components.modeling.inference.sampling import Sampling


class TransformersEngine:
    """An engine that loads its checkpoint with the first batch.

    A shard that only reads its saved batches loads none.
    """

    def __init__(self, context: Context, campaign: Campaign, folder: Path) -> None:
        """`folder` holds a checkpoint with its tokenizer."""
        self._context = context
        self._campaign = campaign
        self._folder = folder
        self._answerer: Answerer | None = None

    @property
    def about(self) -> EngineFacts:
        """The end tokens, and a digest of the chat template."""
        from components.modeling.encoding import load_codec

        return about_codec(load_codec(self._folder))

    def answer(
        self, asks: Sequence[Ask], on_answers: Callable[[int], None]
    ) -> list[Sample]:
        """Return one sample per ask. Where memory does not suffice, the batch is halved: a note."""
        if self._answerer is None:
            self._answerer = self._load()
        asks_by_prompt: dict[str, list[Ask]] = {}
        for ask in asks:
            asks_by_prompt.setdefault(ask.prompt.id, []).append(ask)
        prompts = [prompt_asks[0].prompt for prompt_asks in asks_by_prompt.values()]
        seeds = [
            [ask.seed for ask in prompt_asks] for prompt_asks in asks_by_prompt.values()
        ]
        samples = self._answerer.answer(
            prompts, seeds, lambda num_answers, num_tokens: on_answers(num_answers)
        )
        self._context.costs["sampling_batch_size"] = self._answerer.batch_size
        if self._campaign.recipe.train.method == "raft":
            samples = self._answerer.with_log_probabilities(prompts, samples)
        # The answerer numbers the samples of a prompt from 0; an ask may have a later index.
        return [
            sample.model_copy(
                update={"index": asks_by_prompt[sample.prompt_id][sample.index].index}
            )
            for sample in samples
        ]

    def _load(self) -> Answerer:
        import torch

        from components.modeling.inference.answers import Answerer, load_for_answers

        # Shards run side by side: each takes its share of the cores.
        torch.set_num_threads(self._context.shard_threads)
        prompt = self._campaign.recipe.answering_system_prompt
        model, codec = load_for_answers(self._folder, prompt)
        return Answerer(
            model, codec, sampling_of(self._campaign), self._context.progress.note
        )


def sampling_of(campaign: Campaign) -> Sampling:
    """Return the sampling settings of this round."""
    from components.modeling.inference.sampling import Sampling

    section = campaign.recipe.generate
    return Sampling(
        campaign.state.plan.temperature,
        section.top_k,
        section.top_p,
        section.max_new_tokens,
        section.batch_size,
    )


def about_codec(codec: Codec) -> EngineFacts:
    """Return the end tokens and a digest of the chat template."""
    template = codec.template
    digest = hashlib.sha256(template.encode()).hexdigest()[:16] if template else None
    return EngineFacts(stop_tokens=tuple(codec.end_ids), chat_template=digest)
