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
"""What AdamW remembers of each weight (1711.05101)."""
OPERATOR = "deepspeed.ops.adam.cpu_adam_op"
"""DeepSpeed's AdamW for CPU memory, where it was compiled beforehand (docker/cpu_adam.sh)."""
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
"""What torchrun would tell the only process there is."""


@dataclass(frozen=True)
class Layout:
    """How one training is spread over processes and memory. The loss curve does not depend on it."""

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
    """AdamW that clips by the global norm, and leaves weights and moments alone when that is not
    finite.

    For ZeRO stage 0; at ZeRO stages 1 to 3 DeepSpeed does both.
    """

    max_norm: float
    norm = 0.0
    """Of the last gradient."""
    skipped = False
    """The last step was dropped."""

    def step(self, closure: None = None) -> None:
        """One update from the gradients, which all processes share."""
        weights = [
            weight
            for group in self.param_groups
            for weight in group["params"]
            if weight.grad is not None
        ]
        total = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        self.norm = float(total)
        self.skipped = not math.isfinite(self.norm)
        if not self.skipped:
            torch.nn.utils.clip_grads_with_norm_(weights, self.max_norm, total)
            super().step(closure)


def import_deepspeed() -> Any:
    """DeepSpeed without mlflow: its autotuner, which nothing here uses, imports that where it is
    installed, for a second of every start."""
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
    """Join the process group of torchrun, or make one of this process alone; returns this process's
    device.

    On CPU nothing is compiled: collectives are gloo's, so a machine without a C++ toolchain trains
    too (DeepSpeed would build its shared-memory collectives at first use).
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "RANK" not in os.environ:
        os.environ.update(ALONE, MASTER_PORT=str(_free_port()))
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
    """End the process group, and take back what `join_processes` put into the environment: it is no
    child's."""
    dist.destroy_process_group()
    if all(os.environ.get(name) == value for name, value in ALONE.items()):
        for name in (*ALONE, "MASTER_PORT"):
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
    """Wrap `module` in a DeepSpeed engine. `num_rows` are the rows of an optimizer step, over all
    processes."""
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
        max_gradient_norm = (
            0.0  # DeepSpeed would clip a second time, and look at every gradient again
        )
    config = _config(layout, num_rows, max_gradient_norm)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    return engine


def cpu_adam() -> Any | None:
    """DeepSpeed's AdamW for state in CPU memory (2101.06840) if its operator was compiled into this
    installation and this processor can run it; else None, and torch's does the same work, slower.
    Nothing is compiled here: DeepSpeed alone would, for it takes a compiled operator only on the
    kind of accelerator that it was installed on."""
    if importlib.util.find_spec(OPERATOR) is None or not torch.cpu._is_avx2_supported():
        return None
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.op_builder.builder import OpBuilder

    OpBuilder._loaded_ops["cpu_adam"] = importlib.import_module(OPERATOR)
    return DeepSpeedCPUAdam


def optimizer_name(engine: Any) -> str:
    """Whose AdamW changes the weights: `torch`, or `deepspeed` for the one for CPU memory."""
    return "torch" if isinstance(engine.basic_optimizer, torch.optim.AdamW) else "deepspeed"


def step_was_dropped(engine: Any) -> bool:
    """True if the last step's gradient was not finite on any process: nothing was changed by it."""
    return bool(
        getattr(engine.optimizer, "overflow", False) or getattr(engine.optimizer, "skipped", False)
    )


def gradient_norm(engine: Any) -> float:
    """Of the last step's gradient, over all processes, before clipping."""
    if engine.zero_optimization_stage() == 0:
        return float(engine.optimizer.norm)
    norm = engine.get_global_grad_norm()
    return math.nan if norm is None else float(norm)


def trained_parameters(engine: Any) -> list[tuple[str, nn.Parameter]]:
    """What the optimizer changes, by name, in the same order on every process."""
    return [
        (name, weight) for name, weight in engine.module.named_parameters() if weight.requires_grad
    ]


def full_weight(engine: Any, weight: nn.Parameter) -> Tensor:
    """A float32 CPU copy of one whole weight, from the master weights where there are any
    (collective)."""
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
    """A float32 CPU copy of one whole moment (collective); there is none before the first step."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return _copy(engine.optimizer.state[weight][name])
    _link_states(engine.optimizer)
    return _copy(safe_get_full_optimizer_state(weight, name)).reshape(_shape(weight))


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True)


def own_share(engine: Any, of: Callable[[Any, nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """Name → whole tensor of the trained parameters this process looks after: every n-th of n
    (collective)."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    share = {}
    for index, (name, weight) in enumerate(trained_parameters(engine)):
        value = of(engine, weight)
        if index % world_size == rank:
            share[name] = value
    return share


def gather_shares(engine: Any, share: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """All processes' shares together, in process 0 (collective); others get what passes through
    them."""
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
    """This process's share of a checkpoint, one tensor after the other: weights, moments, the best
    weights so far, and the state of the random numbers (collective: every process must take all of
    it)."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
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
    """Put weights and moments back: (parameter, its float32 weight, its MOMENTS), whole, for all
    trained parameters.

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

    def mine(whole: Tensor) -> Tensor:
        flat = whole.flatten()
        # DeepSpeed pads a parameter to a multiple of the number of processes.
        return F.pad(flat, (0, size * dist.get_world_size() - flat.numel())).narrow(0, start, size)

    safe_set_local_fp32_param(weight, mine(value))
    for name, moment in zip(MOMENTS, moments, strict=True):
        safe_set_local_optimizer_state(weight, mine(moment), name)


def _make_states(engine: Any, num_updates: int) -> None:
    """What AdamW would have after `num_updates` steps, with moments of zero: they are made at its
    first step."""
    zero = engine.optimizer
    inner = zero if engine.zero_optimization_stage() == 0 else zero.optimizer
    flat = getattr(zero, "fp32_partitioned_groups_flat", None)
    weights = (
        flat
        if flat is not None
        else [weight for group in inner.param_groups for weight in group["params"]]
    )
    for weight in weights:
        step: Any = num_updates  # DeepSpeed's counts in Python
        if isinstance(inner, torch.optim.AdamW):
            step = torch.tensor(
                float(num_updates), device=weight.device if inner.defaults["fused"] else "cpu"
            )
        inner.state[weight] = {"step": step, **{name: torch.zeros_like(weight) for name in MOMENTS}}
    _link_states(zero)


def _link_states(zero: Any) -> None:
    """Let ZeRO stages 1 and 2 find the moments of every weight: DeepSpeed links them after the step
    of the first parameter group, when the others have none yet, and then never again."""
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _shape(weight: Any) -> torch.Size:
    return weight.ds_shape if hasattr(weight, "ds_shape") else weight.shape


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {
            "params": [weight for weight in trained if weight.ndim >= 2],
            "weight_decay": weight_decay,
        },
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _config(layout: Layout, num_rows: int, max_gradient_norm: float) -> dict[str, Any]:
    own_rows = num_rows // dist.get_world_size()
    micro = min(layout.micro_batch_size, own_rows)
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    if layout.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if layout.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": -(-own_rows // micro),
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
