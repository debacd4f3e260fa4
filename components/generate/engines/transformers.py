"""Engine `transformers`: this project's own sampling loop over a transformers model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts
from components.generate.batches import Ask
from components.runtime.campaign import Campaign
from components.runtime.context import Context

if TYPE_CHECKING:
    from components.modeling.inference.sampling import Sampling


class TransformersEngine:
    """Loads the checkpoint with the first batch; a shard that only reads what it had sampled loads
    none."""

    def __init__(self, context: Context, campaign: Campaign, folder: Path) -> None:
        self._context, self._campaign, self._folder = context, campaign, folder
        self._answerer: Any = None

    @property
    def about(self) -> EngineFacts:
        """The end tokens, and a digest of the chat template."""
        from components.modeling.encoding import load_codec

        return about_codec(load_codec(self._folder))

    def answer(self, asks: Sequence[Ask], on_answers: Callable[[int], None]) -> list[Sample]:
        """Samples of one batch; halved, and said in a note, where memory does not suffice."""
        answerer = self._answerer = self._answerer or self._load()
        own: dict[str, list[Ask]] = {}
        for ask in asks:
            own.setdefault(ask.prompt.id, []).append(ask)
        prompts, seeds = (
            [few[0].prompt for few in own.values()],
            [[ask.seed for ask in few] for few in own.values()],
        )
        found = answerer.answer(
            prompts, seeds, lambda num_answers, num_tokens: on_answers(num_answers)
        )
        self._context.costs["sampling_batch_size"] = answerer.batch_size
        return [
            sample.model_copy(update={"index": own[sample.prompt_id][sample.index].index})
            for sample in found
        ]

    def _load(self) -> Any:
        import torch

        from components.modeling.inference.answers import Answerer, load_for_answers

        torch.set_num_threads(self._context.shard_threads)
        model, codec = load_for_answers(self._folder, self._campaign.recipe.model.system_prompt)
        return Answerer(model, codec, sampling_of(self._campaign), self._context.progress.note)


def sampling_of(campaign: Campaign) -> Sampling:
    """How this round's tokens are drawn."""
    from components.modeling.inference.sampling import Sampling

    section = campaign.recipe.generate
    return Sampling(
        campaign.state.plan.temperature,
        section.top_k,
        section.top_p,
        section.max_new_tokens,
        section.batch_size,
    )


def about_codec(codec: Any) -> EngineFacts:
    """What a receipt tells of the way prompts are put and answers end."""
    template = codec.template
    digest = hashlib.sha256(template.encode()).hexdigest()[:16] if template else None
    return EngineFacts(stop_tokens=tuple(codec.end_ids), chat_template=digest)
