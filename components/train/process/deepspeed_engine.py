"""DeepSpeed, on one process or many, on CPU or GPU."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of each weight (1711.05101)."""
OPERATOR = "deepspeed.ops.adam.cpu_adam_op"
"""DeepSpeed's AdamW for CPU memory, where it was compiled beforehand (docker/cpu_adam.sh)."""
SINGLE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
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
        all_weights = [weight for group in self.param_groups for weight in group["params"]]
        weights = [weight for weight in all_weights if weight.grad is not None]
        total = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        self.norm = float(total)
        self.skipped = not math.isfinite(self.norm)
        if not self.skipped:
            torch.nn.utils.clip_grads_with_norm_(weights, self.max_norm, total)
            super().step(closure)


def import_deepspeed() -> Any:
    """Import DeepSpeed without mlflow.

    DeepSpeed's autotuner, which nothing here uses, imports mlflow where it is installed. That takes
    a second of every start.
    """
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    return deepspeed


def join_processes() -> torch.device:
    """Join the process group of torchrun, or make one of this process alone; return the device.

    On CPU nothing is compiled: collectives are gloo's, so a machine without a C++ toolchain trains
    too (DeepSpeed would build its shared-memory collectives at first use).
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "RANK" not in os.environ:
        os.environ.update(SINGLE_PROCESS, MASTER_PORT=str(_free_port()))
    deepspeed = import_deepspeed()
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    if on_cpu:
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", auto_mpi_discovery=False)
    return torch.device("cpu") if on_cpu else torch.device("cuda", int(os.environ["LOCAL_RANK"]))


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
) -> Any:
    """Wrap `module` in a DeepSpeed engine.

    `num_rows` are the rows of an optimizer step, over all processes.
    """
    import deepspeed

    groups = _groups(module, weight_decay)
    adam = cpu_adam() if layout.offload else None
    if adam is not None:
        optimizer = adam(groups, lr=learning_rate, betas=(0.9, beta2), adamw_mode=True)
    else:
        kind = GuardedAdamW if layout.zero_stage == 0 else torch.optim.AdamW
        optimizer = kind(groups, lr=learning_rate, betas=(0.9, beta2), fused=not layout.offload)
    if layout.zero_stage == 0:
        optimizer.max_norm = max_gradient_norm
        # DeepSpeed would clip a second time, and look at every gradient again.
        max_gradient_norm = 0.0
    config = _config(layout, num_rows, max_gradient_norm)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    return engine


def cpu_adam() -> Any | None:
    """Return DeepSpeed's AdamW for state in CPU memory (2101.06840), or None where it cannot run.

    It runs if its operator was compiled into this installation and this processor supports it.
    Without it torch's AdamW does the same work, slower. Nothing is compiled here: by itself
    DeepSpeed would compile, because it takes a compiled operator only on the kind of accelerator
    that it was installed on.
    """
    if importlib.util.find_spec(OPERATOR) is None or not torch.cpu._is_avx2_supported():
        return None
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.op_builder.builder import OpBuilder

    OpBuilder._loaded_ops["cpu_adam"] = importlib.import_module(OPERATOR)
    return DeepSpeedCPUAdam


def optimizer_name(engine: Any) -> str:
    """Return the library whose AdamW is used: `torch`, or `deepspeed` for state in CPU memory."""
    return "torch" if isinstance(engine.basic_optimizer, torch.optim.AdamW) else "deepspeed"


def step_was_dropped(engine: Any) -> bool:
    """Return True if the last gradient was not finite on any process, so nothing was changed."""
    optimizer = engine.optimizer
    return bool(getattr(optimizer, "overflow", False) or getattr(optimizer, "skipped", False))


def gradient_norm(engine: Any) -> float:
    """Return the norm of the last step's gradient, over all processes, before clipping."""
    if engine.zero_optimization_stage() == 0:
        return float(engine.optimizer.norm)
    norm = engine.get_global_grad_norm()
    return math.nan if norm is None else float(norm)


def trained_parameters(engine: Any) -> list[tuple[str, nn.Parameter]]:
    """Return the (name, weight) pairs that are trained, in the same order on every process."""
    return [
        (name, weight) for name, weight in engine.module.named_parameters() if weight.requires_grad
    ]


def full_weight(engine: Any, weight: nn.Parameter) -> Tensor:
    """Return a float32 CPU copy of one whole weight (collective).

    It comes from the master weights where there are any.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    zero_stage = engine.zero_optimization_stage()
    whole = safe_get_full_fp32_param(weight) if zero_stage and weight.requires_grad else None
    if whole is None and zero_stage == 3:
        from deepspeed import zero

        with zero.GatheredParameters([weight]):
            return _copy(weight)
    value: Tensor = weight.detach() if whole is None else whole
    return _copy(value).reshape(_shape(weight))


def full_moment(engine: Any, weight: nn.Parameter, name: str) -> Tensor:
    """Return a float32 CPU copy of one whole moment (collective). The first step makes moments."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return _copy(engine.optimizer.state[weight][name])
    _link_states(engine.optimizer)
    return _copy(safe_get_full_optimizer_state(weight, name)).reshape(_shape(weight))


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True)


def own_share(engine: Any, read_tensor: Callable[[Any, nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """Return name → whole tensor of this process's share (collective).

    Of n processes each has every n-th trained parameter.
    """
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    share = {}
    for index, (name, weight) in enumerate(trained_parameters(engine)):
        value = read_tensor(engine, weight)
        if index % world_size == rank:
            share[name] = value
    return share


def gather_shares(engine: Any, share: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return all processes' shares together in process 0 (collective), nothing in the others."""
    whole = {}
    for index, (name, weight) in enumerate(trained_parameters(engine)):
        value = (
            share[name].to(device) if name in share else torch.empty(_shape(weight), device=device)
        )
        if dist.get_world_size() > 1:
            dist.broadcast(value, index % dist.get_world_size())
        if dist.get_rank() == 0:
            whole[name] = value.cpu()
    return whole


def snapshot(engine: Any, best: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield this process's share of a checkpoint, one tensor after the other.

    Weights, moments, the best weights so far, and the state of the random numbers. Collective:
    every process must consume all of it.
    """
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    for index, (name, weight) in enumerate(trained_parameters(engine)):
        values = [("weight", full_weight(engine, weight))]
        values += [(moment, full_moment(engine, weight, moment)) for moment in MOMENTS]
        if index % world_size == rank:
            yield from ((f"{kind}/{name}", value) for kind, value in values)
    yield from ((f"best/{name}", value) for name, value in best.items())
    yield f"random/cpu/{rank}", torch.get_rng_state()
    if torch.cuda.is_available():
        yield f"random/cuda/{rank}", torch.cuda.get_rng_state()


def restore(
    engine: Any,
    num_updates: int,
    tensors: Iterator[tuple[nn.Parameter, Tensor, tuple[Tensor, ...]]],
) -> None:
    """Put weights and moments back.

    `tensors` holds (parameter, its float32 weight, its MOMENTS), whole, for all trained parameters.
    The module must have been built with the same weights before the engine; here they reach
    DeepSpeed's master weights.
    """
    _make_states(engine, num_updates)
    zero_stage = engine.zero_optimization_stage()
    for weight, value, moments in tensors:
        if zero_stage == 0:
            state = engine.optimizer.state[weight]
            for name, moment in zip(MOMENTS, moments, strict=True):
                state[name].copy_(moment)
        elif zero_stage == 3:
            _restore_partition(weight, value, moments)
        else:
            weight.set_full_hp_param(value)
            for name, moment in zip(MOMENTS, moments, strict=True):
                weight.set_full_hp_param(moment, name)


def _restore_partition(weight: Any, value: Tensor, moments: tuple[Tensor, ...]) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = weight.ds_tensor.ds_numel
    start = size * dist.get_rank()

    def partition_of(whole: Tensor) -> Tensor:
        flat = whole.flatten()
        # DeepSpeed pads a parameter to a multiple of the number of processes.
        padding = size * dist.get_world_size() - flat.numel()
        return F.pad(flat, (0, padding)).narrow(0, start, size)

    safe_set_local_fp32_param(weight, partition_of(value))
    for name, moment in zip(MOMENTS, moments, strict=True):
        safe_set_local_optimizer_state(weight, partition_of(moment), name)


def _make_states(engine: Any, num_updates: int) -> None:
    """Make the state that AdamW has after `num_updates` steps, with moments of zero.

    AdamW itself makes its state at the first step.
    """
    zero = engine.optimizer
    inner = zero if engine.zero_optimization_stage() == 0 else zero.optimizer
    flat = getattr(zero, "fp32_partitioned_groups_flat", None)
    weights = flat
    if weights is None:
        weights = [weight for group in inner.param_groups for weight in group["params"]]
    for weight in weights:
        # DeepSpeed's AdamW counts steps in a Python number, torch's in a tensor.
        step: Any = num_updates
        if isinstance(inner, torch.optim.AdamW):
            device = weight.device if inner.defaults["fused"] else "cpu"
            step = torch.tensor(float(num_updates), device=device)
        moments = {name: torch.zeros_like(weight) for name in MOMENTS}
        inner.state[weight] = {"step": step, **moments}
    _link_states(zero)


def _link_states(zero: Any) -> None:
    """Let ZeRO stages 1 and 2 find the moments of every weight.

    DeepSpeed links them only once, after the step of the first parameter group, when the other
    groups have none yet.
    """
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _shape(weight: Any) -> torch.Size:
    return weight.ds_shape if hasattr(weight, "ds_shape") else weight.shape


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameter groups that are not empty. Norms and biases are not decayed."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if weight.ndim >= 2]
    norms_and_biases = [weight for weight in trained if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": norms_and_biases, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _config(layout: Layout, num_rows: int, max_gradient_norm: float) -> dict[str, Any]:
    process_rows = num_rows // dist.get_world_size()
    micro = min(layout.micro_batch_size, process_rows)
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    if layout.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if layout.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": -(-process_rows // micro),
        "gradient_clipping": max_gradient_norm,
        # An update from a gradient that is not finite is dropped, in bf16 too.
        "bf16": {
            "enabled": layout.precision == "bf16",
            "check_grad_overflow": layout.precision == "bf16",
        },
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
