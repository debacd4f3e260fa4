"""Choose ZeRO stage, offload, micro-batch and precision from model size, devices and memory.

Model states come from DeepSpeed's own estimators (16-bit training) or from 16 bytes a parameter
(fp32: weight, gradient, two moments); activations from the shape of a decoder (2205.05198), which
is an upper bound for most models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel

from components.contracts.recipe import TrainSection
from components.contracts.summaries.train import TrainingLayout
from components.errors import UserError
from components.modeling.likelihood import CHUNK_LOGITS
from components.runtime.context import Context
from components.train.process.deepspeed_engine import Layout

# The rest is for what no formula here counts, such as buffers of collectives and the allocator's
# gaps.
USABLE = 0.85
"""Share of the free memory that a training may plan with."""
CPU_ROWS = 32
"""Rows of a forward pass beyond which a CPU gains nothing."""
BUSY_TOKENS = 2048
"""Tokens of a forward pass below which a GPU waits for its memory."""
# Of a small model a pass is mostly calls, of a large one mostly arithmetic: the fixed cost of a
# pass is about CALL_PARAMETERS / parameters positions (measured on 2 cores).
MIN_FIXED_POSITIONS = 64
"""Least fixed cost of a forward and backward pass on a CPU, in token positions."""
CALL_PARAMETERS = 200_000_000
"""On a CPU the calls of one pass take as long as one position of a model of this size."""
BF16_PARAMETERS = 20_000_000
"""Model size from which bf16 matrix products win on CPUs that have them."""


@dataclass(frozen=True)
class Model:
    """The size and shape of a model, as far as sizing needs them."""

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
    """The number of nodes, and the devices of one."""

    num_nodes: int
    processes_per_node: int
    device_bytes: int
    """Free memory of one process's device; on CPU its share of the free memory."""
    gpu: bool
    bf16: bool
    """Matrix products in bfloat16 are fast on the device."""


@dataclass(frozen=True)
class Estimate:
    """Bytes that one process is expected to need."""

    layout: Layout
    state_bytes: int
    activation_bytes: int
    device_bytes: int
    """Free memory of the process's device."""

    @property
    def fits(self) -> bool:
        """True if the estimate stays within the USABLE share of the free memory."""
        return self.state_bytes + self.activation_bytes <= USABLE * self.device_bytes

    def __str__(self) -> str:
        """Return one line for people."""
        states = self.state_bytes / 2**30
        activations = self.activation_bytes / 2**30
        free = self.device_bytes / 2**30
        layout = f"ZeRO {self.layout.zero_stage}"
        if self.layout.offload:
            layout += " with offload"
        return (
            f"{layout}, micro-batch {self.layout.micro_batch_size}, {self.layout.precision}: "
            f"about {states:.2f} GiB for weights, gradients and moments and {activations:.2f} GiB "
            f"for activations a process, of {free:.1f} GiB free"
        )

    @property
    def chosen(self) -> TrainingLayout:
        """The receipt's entry: layout and estimate, without this machine's free memory."""
        return TrainingLayout(
            **asdict(self.layout),
            state_bytes=self.state_bytes,
            activation_bytes=self.activation_bytes,
        )


def fixed_positions(num_parameters: int, *, gpu: bool) -> int:
    """Return the fixed cost of a forward and backward pass, in positions that cost as much.

    A GPU waits for its memory. A CPU reads all weights, and on a small model spends more time on
    calls than on arithmetic.
    """
    if gpu:
        return BUSY_TOKENS
    return max(MIN_FIXED_POSITIONS, CALL_PARAMETERS // num_parameters)


def model_size(model: PreTrainedModel) -> Model:
    """Return the size of a transformers model, with 1 for a shape that its config does not name."""
    config = model.config
    leaves = [
        sum(weight.numel() for weight in module.parameters(recurse=False))
        for module in model.modules()
    ]
    weights = list(model.parameters())
    return Model(
        num_parameters=sum(weight.numel() for weight in weights),
        num_trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        largest_layer=max(leaves, default=0),
        num_layers=int(getattr(config, "num_hidden_layers", 1) or 1),
        hidden_size=int(getattr(config, "hidden_size", 1) or 1),
        num_heads=int(getattr(config, "num_attention_heads", 1) or 1),
        vocab_size=int(config.vocab_size),
    )


def this_machine(num_nodes: int, context: Context) -> Machine:
    """Return the node that this process runs on, as torchrun laid it out."""
    # Each process looks at its own memory: nodes of unlike memory may choose unlike layouts, which
    # wait for each other for ever. Where they differ, the recipe must fix the layout.
    num_processes = processes_of_node(context.environment)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        fast_bf16 = bool(torch.cuda.is_bf16_supported())
        return Machine(num_nodes, num_processes, int(free), gpu=True, bf16=fast_bf16)
    fast_bf16 = bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    free = context.free_memory_bytes // num_processes
    return Machine(num_nodes, num_processes, free, gpu=False, bf16=fast_bf16)


def processes_of_node(environment: Mapping[str, str]) -> int:
    """Return the number of processes of this training on this node, as the launcher set it."""
    return int(environment.get("LOCAL_WORLD_SIZE", environment.get("WORLD_SIZE", "1")))


def choose(
    section: TrainSection, model: Model, machine: Machine, longest: int
) -> Estimate:
    """Return the fastest layout that fits into memory, within the settings that the recipe fixes.

    `longest` is the longest row in tokens. A layout that the recipe fixes entirely is taken as it
    is. Raises UserError with the numbers if none fits.
    """
    precision = _precision(section, model, machine)
    estimates: list[Estimate] = []
    for zero_stage, offload in _ladder(section, machine, precision):
        for micro_batch_size in _micro_batches(section, machine):
            layout = Layout(zero_stage, offload, micro_batch_size, precision)
            estimates.append(_estimate(section, model, machine, longest, layout))

    def cost(estimate: Estimate) -> tuple[bool, bool]:
        idles = machine.gpu and estimate.layout.micro_batch_size * longest < BUSY_TOKENS
        return estimate.layout.offload, idles

    # Dividing more costs less than a device that idles, offload costs more than both. Among equals
    # the order of the ladder stays.
    estimates.sort(key=cost)
    fixed = (
        section.zero != "auto"
        and section.offload != "auto"
        and section.micro_batch_size != "auto"
    )
    fitting = [estimate for estimate in estimates if estimate.fits]
    if fitting:
        return fitting[0]
    if fixed:
        return estimates[-1]
    raise UserError(
        f"train: nothing fits into memory; the least is {estimates[-1]}. Use more processes "
        "or nodes, a shorter train.max_length, train.activation_checkpointing, or train.lora"
    )


def _precision(section: TrainSection, model: Model, machine: Machine) -> str:
    if section.precision != "auto":
        return section.precision
    # bf16 at ZeRO stage 0 has no fp32 master weights: the loss was off by 0.02 after ten steps.
    if not machine.bf16 or (section.zero == 0 and machine.gpu):
        return "fp32"
    if machine.gpu:
        return "bf16"
    # Weights in bf16 hardly learn at a learning rate of 1e-5: autocast keeps them in fp32.
    return "autocast" if model.num_parameters >= BF16_PARAMETERS else "fp32"


def _ladder(
    section: TrainSection, machine: Machine, precision: str
) -> Iterator[tuple[int, bool]]:
    """Yield (ZeRO stage, offload) in the order of speed.

    One process has nothing to divide, so only offload can help it.
    """
    alone = machine.num_nodes * machine.processes_per_node == 1
    # Tokens a second of a small model on two CPU processes, stages 0 to 3: 10,400, 10,300, 6,700,
    # 2,800.
    zero_stages = [0, 1, 2, 3] if precision != "bf16" else [1, 2, 3]
    if section.zero != "auto":
        zero_stages = [section.zero]
    elif alone and (machine.gpu or section.offload is True):
        zero_stages = [zero_stages[0], 2, 3]
    elif alone:
        zero_stages = zero_stages[:1]
    offloads = (False, True) if machine.gpu else (False,)
    if section.offload != "auto":
        offloads = (bool(section.offload),)
    for offload in offloads:
        for zero_stage in zero_stages:
            if not (offload and zero_stage == 0):
                yield zero_stage, offload


def _micro_batches(section: TrainSection, machine: Machine) -> list[int]:
    """Return the micro-batch sizes to consider, largest first."""
    process_rows = section.batch_size // (
        machine.num_nodes * machine.processes_per_node
    )
    if section.micro_batch_size != "auto":
        return [min(section.micro_batch_size, process_rows)]
    # Powers of two: a size between them gains little, and each is one more estimate.
    largest = process_rows if machine.gpu else min(process_rows, CPU_ROWS)
    powers = {2**power for power in range(largest.bit_length())}
    return sorted({largest, *powers}, reverse=True)


def _estimate(
    section: TrainSection,
    model: Model,
    machine: Machine,
    longest: int,
    layout: Layout,
) -> Estimate:
    return Estimate(
        layout=layout,
        state_bytes=_state_bytes(model, machine, layout),
        activation_bytes=_activation_bytes(section, model, longest, layout),
        device_bytes=machine.device_bytes,
    )


def _state_bytes(model: Model, machine: Machine, layout: Layout) -> int:
    """Return the bytes of weights, gradients and moments in one process."""
    frozen = model.num_parameters - model.num_trained
    world = machine.num_nodes * machine.processes_per_node
    is_bf16 = layout.precision == "bf16"
    if not is_bf16 or layout.zero_stage < 2:
        # fp32 weight, gradient and two moments; in bf16 2 + 2 (+ 4 while they are reduced) and 12
        # for the master copy.
        trained_bytes = (20 if is_bf16 else 16) * model.num_trained
        frozen_bytes = (2 if is_bf16 else 4) * frozen
        # Bytes a parameter that each ZeRO stage divides among the processes.
        divided_by_stage = {0: 0, 1: 12 if is_bf16 else 8, 2: 12, 3: 16}
        divided = model.num_trained * divided_by_stage[layout.zero_stage]
        device_share = 0 if layout.offload else divided / world
        return int(trained_bytes - divided + device_share) + frozen_bytes
    # DeepSpeed's own estimators are made for 16 bits and these two ZeRO stages.
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import (
        estimate_zero2_model_states_mem_needs,
    )

    common = {
        "num_gpus_per_node": machine.processes_per_node,
        "num_nodes": machine.num_nodes,
        "cpu_offload": layout.offload,
    }
    if layout.zero_stage == 2:
        _, device = estimate_zero2_model_states_mem_needs(model.num_trained, **common)
        return int(device) + 2 * frozen
    _, device, _ = estimate_zero3_model_states_mem_needs(
        model.num_trained,
        model.largest_layer,
        cpu_offload_params=layout.offload,
        zero_init=False,
        **common,
    )
    return int(device) + 2 * frozen // world


def _activation_bytes(
    section: TrainSection, model: Model, longest: int, layout: Layout
) -> int:
    """Return the bytes of the activations and of the logits of one chunk."""
    # A layer takes 34·s·b·h + 5·a·s²·b bytes in 16 bits (2205.05198), 2·s·b·h where activations are
    # computed again, and twice that in 32 bits.
    tokens = layout.micro_batch_size * longest
    linear_bytes = 34 * tokens * model.hidden_size
    attention_bytes = 5 * model.num_heads * longest * tokens
    layer = linear_bytes + attention_bytes
    layers = layer * model.num_layers
    if section.activation_checkpointing:
        layers = 2 * tokens * model.hidden_size * model.num_layers + layer
    width = 2 if layout.precision == "fp32" else 1
    # Logits, their softmax and its gradient in float32, of the tokens of one chunk.
    logits = min(tokens * model.vocab_size, CHUNK_LOGITS) * 12
    return layers * width + logits
