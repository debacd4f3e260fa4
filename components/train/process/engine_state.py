"""Whole weights and moments of a DeepSpeed engine: gathered from all processes, and put back.

DeepSpeed keeps them in another place at each ZeRO stage. A function that is marked collective must
be called by every process, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from components.train.process.deepspeed_engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of each weight (1711.05101)."""


def trained_parameters(engine: Engine) -> list[tuple[str, nn.Parameter]]:
    """Return the (name, weight) pairs that are trained, in the same order on every process."""
    return [
        (name, weight)
        for name, weight in engine.module.named_parameters()
        if weight.requires_grad
    ]


def full_weight(engine: Engine, weight: nn.Parameter) -> Tensor:
    """Return a float32 CPU copy of one whole weight (collective).

    It comes from the master weights where there are any.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    zero_stage = engine.zero_optimization_stage()
    # A frozen weight has no master weight, and at ZeRO stage 0 no weight has.
    if zero_stage > 0 and weight.requires_grad:
        master: Tensor | None = safe_get_full_fp32_param(weight)
        if master is not None:
            return _copy(master).reshape(_shape(weight))
    if zero_stage == 3:
        from deepspeed import zero

        with zero.GatheredParameters([weight]):
            return _copy(weight)
    return _copy(weight.detach()).reshape(_shape(weight))


def full_moment(engine: Engine, weight: nn.Parameter, name: str) -> Tensor:
    """Return a float32 CPU copy of one whole moment (collective). The first step makes moments."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return _copy(engine.optimizer.state[weight][name])
    _link_states(engine.optimizer)
    return _copy(safe_get_full_optimizer_state(weight, name)).reshape(_shape(weight))


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True)


def own_share(
    engine: Engine, read_tensor: Callable[[Engine, nn.Parameter], Tensor]
) -> dict[str, Tensor]:
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


def gather_shares(
    engine: Engine, share: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """Return all processes' shares together in process 0 (collective), nothing in the others."""
    tensors = {}
    world_size = dist.get_world_size()
    for index, (name, weight) in enumerate(trained_parameters(engine)):
        # The others need a tensor that the broadcast can fill.
        value = share.get(name)
        if value is None:
            value = torch.empty(_shape(weight))
        value = value.to(device)
        if world_size > 1:
            dist.broadcast(value, index % world_size)
        if dist.get_rank() == 0:
            tensors[name] = value.cpu()
    return tensors


def snapshot(engine: Engine, best: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield this process's share of a checkpoint, one tensor after the other.

    Weights, moments, the best weights so far, and the state of the random numbers. Collective:
    every process must consume all of it.
    """
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    for index, (name, weight) in enumerate(trained_parameters(engine)):
        # Every process gathers every weight, also those that another one keeps.
        values = {"weight": full_weight(engine, weight)}
        for moment in MOMENTS:
            values[moment] = full_moment(engine, weight, moment)
        if index % world_size == rank:
            for kind, value in values.items():
                yield f"{kind}/{name}", value
    for name, value in best.items():
        yield f"best/{name}", value
    yield f"random/cpu/{rank}", torch.get_rng_state()
    if torch.cuda.is_available():
        yield f"random/cuda/{rank}", torch.cuda.get_rng_state()


def restore(
    engine: Engine,
    num_updates: int,
    tensors: Iterator[tuple[nn.Parameter, Tensor, tuple[Tensor, ...]]],
) -> None:
    """Put weights and moments back.

    Args:
        engine: its module must have been built with the same weights before the engine; here they
            reach DeepSpeed's master weights.
        num_updates: steps that AdamW has done.
        tensors: (parameter, its float32 weight, its MOMENTS), whole, for all trained parameters.
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


def _restore_partition(
    weight: nn.Parameter, value: Tensor, moments: tuple[Tensor, ...]
) -> None:
    from deepspeed.utils import (
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    size = weight.ds_tensor.ds_numel
    start = size * dist.get_rank()

    def partition_of(tensor: Tensor) -> Tensor:
        flat = tensor.flatten()
        # DeepSpeed pads a parameter to a multiple of the number of processes.
        padding = size * dist.get_world_size() - flat.numel()
        return F.pad(flat, (0, padding)).narrow(0, start, size)

    safe_set_local_fp32_param(weight, partition_of(value))
    for name, moment in zip(MOMENTS, moments, strict=True):
        safe_set_local_optimizer_state(weight, partition_of(moment), name)


def _make_states(engine: Engine, num_updates: int) -> None:
    """Make the state that AdamW has after `num_updates` steps, with moments of zero.

    AdamW itself makes its state at the first step.
    """
    zero = engine.optimizer
    inner = zero if engine.zero_optimization_stage() == 0 else zero.optimizer
    # ZeRO stage 3 keeps its partitions flat, outside the parameter groups.
    weights = getattr(zero, "fp32_partitioned_groups_flat", None)
    if weights is None:
        weights = [weight for group in inner.param_groups for weight in group["params"]]
    for weight in weights:
        # DeepSpeed's AdamW counts steps in a Python number, torch's in a tensor.
        step: int | Tensor = num_updates
        if isinstance(inner, torch.optim.AdamW):
            device = weight.device if inner.defaults["fused"] else "cpu"
            step = torch.tensor(float(num_updates), device=device)
        moments = {name: torch.zeros_like(weight) for name in MOMENTS}
        inner.state[weight] = {"step": step, **moments}
    _link_states(zero)


def _link_states(zero: torch.optim.Optimizer) -> None:
    """Let ZeRO stages 1 and 2 find the moments of every weight."""
    # DeepSpeed links them only once, after the step of the first parameter group, when the other
    # groups have none yet.
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _shape(weight: nn.Parameter) -> torch.Size:
    # ZeRO stage 3 leaves an empty tensor in the module, which remembers its shape.
    return weight.ds_shape if hasattr(weight, "ds_shape") else weight.shape
