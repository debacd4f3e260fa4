"""DeepSpeed, on one process or many, on CPU or GPU."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
import torch.distributed as dist
from pydantic import JsonValue
from torch import Tensor, nn

from components.modeling.likelihood import Batch

OPERATOR = "deepspeed.ops.adam.cpu_adam_op"
"""DeepSpeed's AdamW for CPU memory, where it was compiled beforehand (docker/cpu_adam.sh)."""
SINGLE_PROCESS = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
}
"""The environment that torchrun would give to a single process."""


@dataclass(frozen=True)
class Layout:
    """The spread of a training over processes and memory. The loss curve does not depend on it."""

    zero_stage: int
    """ZeRO stage, 0 … 3 (1910.02054)."""
    offload: bool
    """Optimizer state (at ZeRO stage 3 the parameters too) in CPU memory (2101.06840)."""
    micro_batch_size: int
    """Rows per forward pass of one process."""
    precision: str
    """`fp32`, `autocast` (fp32 weights, bf16 matrix products) or `bf16` (16-bit weights, fp32
    master weights)."""


class Engine(Protocol):
    """The parts of `deepspeed.DeepSpeedEngine` that a training uses."""

    module: nn.Module
    """The module that was wrapped. Under ZeRO stage 3 its weights are partitions."""
    optimizer: torch.optim.Optimizer
    """ZeRO's wrapper of the optimizer; at ZeRO stage 0 the optimizer itself."""
    basic_optimizer: torch.optim.Optimizer
    """The optimizer that `start_engine` made."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of a micro-batch."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, divided by `gradient_accumulation_steps()`."""

    def step(self) -> None:
        """Update the weights, if this micro-batch is the last one of a step."""

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        """Say whether the next micro-batch is the last one of a step."""

    def gradient_accumulation_steps(self) -> int:
        """Return the number that each loss is divided by."""

    def zero_optimization_stage(self) -> int:
        """Return the ZeRO stage, 0 … 3."""

    def get_global_grad_norm(self) -> float | None:
        """Return the norm of the last gradient at ZeRO stages 1 to 3."""


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips by the global norm, and skips an update whose norm is not finite.

    For ZeRO stage 0; at ZeRO stages 1 to 3 DeepSpeed does both.
    """

    max_norm: float
    norm = 0.0
    """Norm of the last gradient, before clipping."""
    skipped = False
    """The last step was dropped."""

    def step(self, closure: None = None) -> None:
        """Update the weights from the gradients, which all processes share."""
        all_weights = [
            weight for group in self.param_groups for weight in group["params"]
        ]
        weights = [weight for weight in all_weights if weight.grad is not None]
        total = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        self.norm = float(total)
        self.skipped = not math.isfinite(self.norm)
        if not self.skipped:
            torch.nn.utils.clip_grads_with_norm_(weights, self.max_norm, total)
            super().step(closure)


def import_deepspeed() -> ModuleType:
    """Import DeepSpeed without mlflow."""
    # DeepSpeed's autotuner, which nothing here uses, imports mlflow where it is installed. That
    # takes a second of every start.
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("deepspeed")
    finally:
        if hidden:
            del sys.modules["mlflow"]


def join_processes() -> torch.device:
    """Join the process group of torchrun, or make one of this process alone; return the device."""
    # DeepSpeed and torch.distributed read the process's own environment, so it is set there.
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Without these variables DeepSpeed looks for mpi4py.
    if "RANK" not in os.environ:
        os.environ.update(SINGLE_PROCESS, MASTER_PORT=str(_free_port()))
    local_rank = int(os.environ["LOCAL_RANK"])
    deepspeed = import_deepspeed()
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    if on_cpu:
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        # DeepSpeed would compile collectives over shared memory at first use: 85 to 100 seconds,
        # and the end of the run where there is no C++ toolchain. gloo's do without.
        ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
    else:
        torch.cuda.set_device(local_rank)
    deepspeed.init_distributed(
        dist_backend="gloo" if on_cpu else "nccl", auto_mpi_discovery=False
    )
    if on_cpu:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def leave_processes() -> None:
    """End the process group, and remove the variables that `join_processes` set.

    A child process must not inherit them.
    """
    dist.destroy_process_group()
    if all(os.environ.get(name) == value for name, value in SINGLE_PROCESS.items()):
        for name in (*SINGLE_PROCESS, "MASTER_PORT"):
            os.environ.pop(name, None)


def start_engine(
    module: nn.Module,
    layout: Layout,
    *,
    num_rows: int,
    learning_rate: float,
    weight_decay: float,
    beta2: float,
    max_gradient_norm: float,
) -> Engine:
    """Wrap `module` in a DeepSpeed engine with AdamW.

    Args:
        module: returns the loss of a `Batch`. Built before: under `zero.Init` transformers' models
            get wrong weights.
        layout: the spread over processes and memory.
        num_rows: rows of an optimizer step, over all processes.
        learning_rate: of the first step.
        weight_decay: of matrices; norms and biases are not decayed.
        beta2: of AdamW.
        max_gradient_norm: gradients are clipped to it.
    """
    import deepspeed

    groups = _groups(module, weight_decay)
    adam = cpu_adam() if layout.offload else None
    if adam is not None:
        optimizer = adam(groups, lr=learning_rate, betas=(0.9, beta2), adamw_mode=True)
    else:
        # torch's own AdamW: DeepSpeed's FusedAdam takes 85 to 100 seconds to compile, once.
        kind = GuardedAdamW if layout.zero_stage == 0 else torch.optim.AdamW
        optimizer = kind(
            groups, lr=learning_rate, betas=(0.9, beta2), fused=not layout.offload
        )
    if layout.zero_stage == 0:
        optimizer.max_norm = max_gradient_norm
        # DeepSpeed would clip a second time, and look at every gradient again.
        max_gradient_norm = 0.0
    config = _config(layout, num_rows, max_gradient_norm)
    engine: Engine
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    return engine


def cpu_adam() -> type[torch.optim.Optimizer] | None:
    """Return DeepSpeed's AdamW for state in CPU memory (2101.06840), or None where it cannot run.

    It runs if its operator was compiled into this installation and this processor supports it.
    Without it torch's AdamW does the same work, slower.
    """
    if importlib.util.find_spec(OPERATOR) is None or not torch.cpu._is_avx2_supported():
        return None
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.op_builder.builder import OpBuilder

    # By itself DeepSpeed would compile, for about 100 seconds: it takes a compiled operator only on
    # the kind of accelerator that it was installed on.
    OpBuilder._loaded_ops["cpu_adam"] = importlib.import_module(OPERATOR)
    adam: type[torch.optim.Optimizer] = DeepSpeedCPUAdam
    return adam


def optimizer_name(engine: Engine) -> str:
    """Return the library whose AdamW is used: `torch`, or `deepspeed` for state in CPU memory."""
    return (
        "torch"
        if isinstance(engine.basic_optimizer, torch.optim.AdamW)
        else "deepspeed"
    )


def step_was_dropped(engine: Engine) -> bool:
    """Return True if the last gradient was not finite on any process, so nothing was changed."""
    optimizer = engine.optimizer
    return bool(
        getattr(optimizer, "overflow", False) or getattr(optimizer, "skipped", False)
    )


def gradient_norm(engine: Engine) -> float:
    """Return the norm of the last step's gradient, over all processes, before clipping."""
    if engine.zero_optimization_stage() == 0:
        return float(engine.optimizer.norm)
    norm = engine.get_global_grad_norm()
    return math.nan if norm is None else float(norm)


def _groups(
    module: nn.Module, weight_decay: float
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Return the parameter groups that are not empty. Norms and biases are not decayed."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if weight.ndim >= 2]
    norms_and_biases = [weight for weight in trained if weight.ndim < 2]
    groups: list[dict[str, list[nn.Parameter] | float]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": norms_and_biases, "weight_decay": 0.0},
    ]
    # Adapters have no norms and no biases.
    return [group for group in groups if group["params"]]


def _config(
    layout: Layout, num_rows: int, max_gradient_norm: float
) -> dict[str, JsonValue]:
    process_rows = num_rows // dist.get_world_size()
    micro = min(layout.micro_batch_size, process_rows)
    zero: dict[str, JsonValue] = {"stage": layout.zero_stage}
    if layout.offload:
        memory: JsonValue = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        zero["offload_optimizer"] = memory
        if layout.zero_stage == 3:
            zero["offload_param"] = memory
    bf16 = layout.precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": -(-process_rows // micro),
        "gradient_clipping": max_gradient_norm,
        # An update from a gradient that is not finite is dropped, in bf16 too.
        "bf16": {"enabled": bf16, "check_grad_overflow": bf16},
        "zero_optimization": zero,
        # torch's AdamW, also where DeepSpeed would insist on its own.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
