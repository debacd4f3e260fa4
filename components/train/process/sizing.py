"""How a training is laid out: ZeRO stage, offload, micro-batch and precision, from model size,
devices and memory.

Model states come from DeepSpeed's own estimators (16-bit training) or from 16 bytes a parameter
(fp32: weight, gradient, two moments); activations from the shape of a decoder (2205.05198), which
is an upper bound for most models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from components.contracts.recipe import TrainSection
from components.contracts.summaries.train import TrainingLayout
from components.errors import UserError
from components.train.process.deepspeed_engine import Layout

USABLE = 0.85
"""Share of the memory that is free which a training may plan with."""
CPU_ROWS = 32
"""More rows than this a forward pass gain nothing on a CPU."""
BUSY_TOKENS = 2048
"""A forward pass of fewer leaves a GPU waiting for its memory."""
LEAST_POSITIONS, CALL_PARAMETERS = 64, 200_000_000
"""Of a micro-batch on a CPU: the calls of one take as long as a position of a model of so many
parameters."""
MANY_PARAMETERS = 20_000_000
"""From here on bf16 matrix products win on CPUs that have them."""


@dataclass(frozen=True)
class Model:
    """What sizing needs to know of a model."""

    num_parameters: int
    num_trained: int
    largest_layer: int
    """Parameters of its largest module without submodules."""
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int


@dataclass(frozen=True)
class Machine:
    """What one node has."""

    num_nodes: int
    processes_per_node: int
    device_bytes: int
    """Free memory of one process's device; on CPU its share of the free memory."""
    gpu: bool
    bf16: bool
    """Its matrix products in bfloat16 are fast."""


@dataclass(frozen=True)
class Estimate:
    """Bytes that one process is expected to need."""

    layout: Layout
    state_bytes: int
    activation_bytes: int
    device_bytes: int
    """What it has."""

    @property
    def fits(self) -> bool:
        """With the usual reserve."""
        return self.state_bytes + self.activation_bytes <= USABLE * self.device_bytes

    def __str__(self) -> str:
        """One line for people."""
        states, activations, free = (
            size / 2**30 for size in (self.state_bytes, self.activation_bytes, self.device_bytes)
        )
        layout = f"ZeRO {self.layout.zero_stage}" + (" with offload" if self.layout.offload else "")
        return (
            f"{layout}, micro-batch {self.layout.micro_batch_size}, {self.layout.precision}: about "
            f"{states:.2f} GiB for weights, gradients and moments and {activations:.2f} GiB for activations a process, "
            f"of {free:.1f} GiB free"
        )

    @property
    def chosen(self) -> TrainingLayout:
        """What goes into the receipt: the choice, not what this machine had free."""
        return TrainingLayout(
            **asdict(self.layout),
            state_bytes=self.state_bytes,
            activation_bytes=self.activation_bytes,
        )


def fixed_positions(num_parameters: int, *, gpu: bool) -> int:
    """What a forward and backward pass costs whatever its size, as the number of positions that
    cost as much. A GPU waits for its memory; a CPU reads all weights, and spends on a small model
    more on calls than on arithmetic."""
    return BUSY_TOKENS if gpu else max(LEAST_POSITIONS, CALL_PARAMETERS // num_parameters)


def model_size(model: Any) -> Model:
    """Of a transformers model; 1 for what its config does not name."""
    config = model.config
    leaves = (
        sum(weight.numel() for weight in one.parameters(recurse=False)) for one in model.modules()
    )
    return Model(
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        largest_layer=max(leaves, default=0),
        num_layers=int(getattr(config, "num_hidden_layers", 1) or 1),
        hidden_size=int(getattr(config, "hidden_size", 1) or 1),
        num_heads=int(getattr(config, "num_attention_heads", 1) or 1),
        vocab_size=int(config.vocab_size),
    )


def this_machine(num_nodes: int) -> Machine:
    """The node that this process runs on, as torchrun laid it out."""
    local = processes_of_node()
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine(num_nodes, local, int(free), True, torch.cuda.is_bf16_supported())
    fast = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return Machine(num_nodes, local, free_host_bytes() // local, False, fast)


def processes_of_node() -> int:
    """Processes of this training that share this node's memory, as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def free_host_bytes() -> int:
    """Memory this process's container, or else the machine, has left."""
    with Path("/proc/meminfo").open() as file:
        lines = dict(line.split(":", 1) for line in file)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        if Path(limit).exists() and (text := Path(limit).read_text().strip()) != "max":
            free = min(free, int(text) - int(Path(used).read_text()))
    return free


def choose(section: TrainSection, model: Model, machine: Machine, longest: int) -> Estimate:
    """The first layout that fits, from the fastest to the one that needs least memory, within what
    the recipe fixes.

    `longest` is the longest row in tokens. Raises UserError with the numbers if none fits; what the
    recipe fixes entirely is taken as it is.
    """
    precision = _precision(section, model, machine)
    tried = [
        _estimate(section, model, machine, longest, precision, zero_stage, offload, micro)
        for zero_stage, offload in _ladder(section, machine, precision)
        for micro in _micro_batches(section, machine)
    ]
    # Dividing more costs less than a device that idles, offload costs more than both.
    tried.sort(
        key=lambda one: (
            one.layout.offload,
            machine.gpu and one.layout.micro_batch_size * longest < BUSY_TOKENS,
        )
    )
    fixed = (
        section.zero != "auto" and section.offload != "auto" and section.micro_batch_size != "auto"
    )
    best = next((one for one in tried if one.fits), tried[-1] if fixed else None)
    if best is None:
        raise UserError(
            f"train: nothing fits into memory; the least is {tried[-1]}. Use more processes or nodes, a shorter "
            "train.max_length, train.activation_checkpointing, or train.lora"
        )
    return best


def _precision(section: TrainSection, model: Model, machine: Machine) -> str:
    if section.precision != "auto":
        return section.precision
    if not machine.bf16 or (section.zero == 0 and machine.gpu):
        return "fp32"
    if machine.gpu:
        return "bf16"
    return "autocast" if model.num_parameters >= MANY_PARAMETERS else "fp32"


def _ladder(section: TrainSection, machine: Machine, precision: str) -> Iterator[tuple[int, bool]]:
    """(ZeRO stage, offload) in the order of speed. One process has nothing to divide, so only
    offload can help it."""
    alone = machine.num_nodes * machine.processes_per_node == 1
    zero_stages = [0, 1, 2, 3] if precision != "bf16" else [1, 2, 3]
    if section.zero != "auto":
        zero_stages = [section.zero]
    elif alone:
        zero_stages = (
            [zero_stages[0], 2, 3] if machine.gpu or section.offload is True else zero_stages[:1]
        )
    offloads = (False, True) if machine.gpu else (False,)
    for offload in offloads if section.offload == "auto" else (bool(section.offload),):
        for zero_stage in zero_stages:
            if not (offload and zero_stage == 0):
                yield zero_stage, offload


def _micro_batches(section: TrainSection, machine: Machine) -> list[int]:
    own_rows = section.batch_size // (machine.num_nodes * machine.processes_per_node)
    if section.micro_batch_size != "auto":
        return [min(section.micro_batch_size, own_rows)]
    largest = own_rows if machine.gpu else min(own_rows, CPU_ROWS)
    return sorted(
        {largest, *(2**power for power in range(largest.bit_length()) if 2**power <= largest)},
        reverse=True,
    )


def _estimate(
    section: TrainSection,
    model: Model,
    machine: Machine,
    longest: int,
    precision: str,
    zero_stage: int,
    offload: bool,
    micro: int,
) -> Estimate:
    states = _state_bytes(model, machine, precision, zero_stage, offload)
    activations = _activation_bytes(section, model, micro, longest, precision)
    return Estimate(
        Layout(zero_stage, offload, micro, precision), states, activations, machine.device_bytes
    )


def _state_bytes(
    model: Model, machine: Machine, precision: str, zero_stage: int, offload: bool
) -> int:
    frozen = model.num_parameters - model.num_trained
    world = machine.num_nodes * machine.processes_per_node
    if precision != "bf16" or zero_stage < 2:
        # fp32 weight, gradient and two moments; in bf16 2 + 2 (+ 4 while they are reduced) and 12
        # for the master copy.
        whole = {"bf16": 20}.get(precision, 16) * model.num_trained
        shared = (
            {0: 0, 1: 12, 2: 12, 3: 16}[zero_stage]
            if precision == "bf16"
            else {0: 0, 1: 8, 2: 12, 3: 16}[zero_stage]
        )
        divided = model.num_trained * shared
        return int(whole - divided + divided / world * (not offload)) + frozen * (
            2 if precision == "bf16" else 4
        )
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    common = {
        "num_gpus_per_node": machine.processes_per_node,
        "num_nodes": machine.num_nodes,
        "cpu_offload": offload,
    }
    if zero_stage == 2:
        _, device = estimate_zero2_model_states_mem_needs(model.num_trained, **common)
        return int(device) + 2 * frozen
    _, device, _ = estimate_zero3_model_states_mem_needs(
        model.num_trained,
        model.largest_layer,
        cpu_offload_params=offload,
        zero_init=False,
        **common,
    )
    return int(device) + 2 * frozen // world


def _activation_bytes(
    section: TrainSection, model: Model, micro: int, longest: int, precision: str
) -> int:
    """34·s·b·h + 5·a·s²·b bytes a layer in 16 bits (2205.05198), twice that in 32; 2·s·b·h where
    they are computed again. The logits of one chunk come on top."""
    tokens = micro * longest
    layer = 34 * tokens * model.hidden_size + 5 * model.num_heads * longest * tokens
    kept = 2 * tokens * model.hidden_size * model.num_layers + layer
    whole = kept if section.activation_checkpointing else layer * model.num_layers
    wide = 2 if precision == "fp32" else 1
    logits = min(tokens * model.vocab_size, 2**26) * 12
    return whole * wide + logits
