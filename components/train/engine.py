"""DeepSpeed, on one process or many, on CPU or GPU."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
from torch import nn

from components.train.step import Job


def start_engine(module: nn.Module, job: Job) -> Any:
    """Join the process group and wrap `module` in a DeepSpeed engine with torch's AdamW.

    On CPU nothing is compiled: collectives are gloo's and the optimizer is torch's, so a machine without a C++
    toolchain trains too (DeepSpeed would build its shared-memory collectives at first use).
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "RANK" not in os.environ:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())
        )
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    if on_cpu:
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", auto_mpi_discovery=False)
    optimizer = torch.optim.AdamW(
        _groups(module, job.weight_decay), lr=job.learning_rate, betas=(0.9, job.section.beta2)
    )
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=_config(job))
    return engine


def best_weights(engine: Any) -> dict[str, torch.Tensor]:
    """A float32 copy of the whole model on every process, gathered from ZeRO's partitions (collective)."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    stage = engine.zero_optimization_stage()
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if stage == 3:
            with zero.GatheredParameters([parameter]):
                value = parameter.detach().float().cpu().clone()
        else:
            value = parameter.detach().float().cpu().clone()
        if engine.bfloat16_enabled() and stage >= 1:
            full = safe_get_full_fp32_param(parameter)
            value = full.cpu().clone() if full is not None else value
        weights[name] = value
    return weights


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    decayed = [weight for weight in module.parameters() if weight.ndim >= 2]
    others = [weight for weight in module.parameters() if weight.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _config(job: Job) -> dict[str, Any]:
    section = job.section
    world = int(os.environ["WORLD_SIZE"])
    rows = section.batch_size // world
    micro = min(section.micro_batch_size, rows)
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": -(-rows // micro),
        "gradient_clipping": section.max_gradient_norm,
        "bf16": {"enabled": section.precision == "bf16"},
        "zero_optimization": {"stage": section.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
