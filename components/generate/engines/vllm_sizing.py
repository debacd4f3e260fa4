"""Number of devices that share a model in vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from components.contracts.artifacts import CHECKPOINT_CONFIG
from components.contracts.recipe import Vllm
from components.contracts.summaries.generate import VllmSizing
from components.errors import UserError

WEIGHTS_SHARE = 0.8
"""Largest part of vLLM's memory that weights may take; the rest is for keys, values and the forward
pass. It is a choice of ours: with less room few samples are under way at once."""
QUANTISED_SHARE = 0.6
"""Part of 16-bit weights that stays after quantising to 8 bits or fewer, embeddings as they are."""


def size_vllm(
    settings: Vllm, weights_bytes: int, gpu_bytes: Sequence[int], num_heads: int
) -> VllmSizing:
    """Return the sizes by which vLLM is started.

    Args:
        settings: of the recipe.
        weights_bytes: of the model, as it is loaded.
        gpu_bytes: memory of each GPU of this step; empty on CPUs.
        num_heads: attention heads of the model, which the devices divide among themselves.

    Raises:
        UserError: The weights do not fit, or the recipe asks for more GPUs than there are.
    """
    chosen = settings.tensor_parallel_size
    if chosen is None:
        chosen = _fewest(settings, weights_bytes, gpu_bytes, num_heads)
    elif gpu_bytes and chosen > len(gpu_bytes):
        raise UserError(
            f"generate.vllm.tensor_parallel_size is {chosen}, and this step has {len(gpu_bytes)} "
            f"GPUs: lower it, or give generate `gpus: {chosen}` in the profile"
        )
    elif num_heads % chosen:
        raise UserError(
            f"generate.vllm.tensor_parallel_size {chosen} does not divide the model's {num_heads} "
            f"attention heads; use {_listed(num_heads)}"
        )
    return VllmSizing(
        weights_gib=round(weights_bytes / 2**30, 3),
        num_gpus=len(gpu_bytes),
        gpu_gib=round(min(gpu_bytes, default=0) / 2**30, 3),
        tensor_parallel_size=chosen,
        max_model_len=settings.max_model_len,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        quantization=settings.quantization,
    )


def gpu_memory() -> list[int]:
    """Return the bytes of each GPU of this step; empty without one."""
    import torch

    if not torch.cuda.is_available():
        return []
    # In a process of its own: a process that has used CUDA cannot fork vLLM's workers.
    script = (
        "import torch; cuda = torch.cuda; "
        "print([cuda.get_device_properties(i).total_memory for i in range(cuda.device_count())])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return sizes


def attention_heads(folder: Path) -> int:
    """Return the number of attention heads of a checkpoint; 1 if its config names none."""
    config = json.loads((folder / CHECKPOINT_CONFIG).read_bytes())
    # Models that read pictures too keep the language model's shape in a part of its own.
    shape = config.get("text_config", config)
    return int(shape.get("num_attention_heads") or shape.get("n_head") or 1)


def _fewest(
    settings: Vllm, weights_bytes: int, gpu_bytes: Sequence[int], num_heads: int
) -> int:
    """Return the fewest devices that hold the weights."""
    if not gpu_bytes:
        # Processes on a CPU have one memory.
        return 1
    room_bytes = WEIGHTS_SHARE * settings.gpu_memory_utilization * min(gpu_bytes)
    needed_bytes = weights_bytes * (QUANTISED_SHARE if settings.quantization else 1.0)
    sizes = [size for size in range(1, num_heads + 1) if num_heads % size == 0]
    fitting = [size for size in sizes if needed_bytes / size <= room_bytes]
    if not fitting or fitting[0] > len(gpu_bytes):
        remedy = (
            f"give generate `gpus: {fitting[0]}` in the profile"
            if fitting
            else "larger GPUs"
        )
        raise UserError(
            f"the champion's weights ({needed_bytes / 2**30:.1f} GiB) do not fit into this step's "
            f"GPUs ({len(gpu_bytes)} of {min(gpu_bytes) / 2**30:.0f} GiB, of which weights may take "
            f"{room_bytes / 2**30:.1f} GiB): {remedy}, or set generate.vllm.quantization"
        )
    return fitting[0]


def _listed(num_heads: int) -> str:
    return ", ".join(
        str(size) for size in range(1, num_heads + 1) if num_heads % size == 0
    )
