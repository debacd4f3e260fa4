"""`zero: auto` on machines that are not at hand: what it picks, and that it says when nothing fits."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.recipe import TrainSection
from components.errors import UserError
from components.train.process.sizing import Estimate, Machine, Model, choose

GIB = 2**30
SEVEN_BILLION = Model(
    num_parameters=7_000_000_000,
    num_trained=7_000_000_000,
    largest_layer=500_000_000,
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    vocab_size=32_000,
)
SMALL = Model(
    num_parameters=135_000_000,
    num_trained=135_000_000,
    largest_layer=28_000_000,
    num_layers=30,
    hidden_size=576,
    num_heads=9,
    vocab_size=49_152,
)


def gpus(count: int, gib: int = 78, nodes: int = 1) -> Machine:
    return Machine(
        num_nodes=nodes,
        processes_per_node=count,
        device_bytes=gib * GIB,
        gpu=True,
        bf16=True,
    )


def cpu(gib: float, *, bf16: bool = True, processes: int = 1) -> Machine:
    return Machine(1, processes, int(gib * GIB), gpu=False, bf16=bf16)


def picked(
    model: Model, machine: Machine, longest: int = 512, **section: Any
) -> Estimate:
    return choose(
        TrainSection.model_validate({"batch_size": 64, **section}),
        model,
        machine,
        longest,
    )


def test_a_small_model_gets_the_fastest_layout() -> None:
    assert (
        picked(SMALL, gpus(1)).layout.zero_stage == 1
    )  # ZeRO stage 0 has no fp32 master weights in bf16
    assert picked(SMALL, gpus(8)).layout.zero_stage == 1
    one = picked(SMALL, cpu(20)).layout
    assert (one.zero_stage, one.offload, one.precision) == (0, False, "autocast")
    assert picked(SMALL, cpu(20, bf16=False)).layout.precision == "fp32"


def test_a_model_larger_than_a_device_is_divided_and_then_offloaded() -> None:
    divided = picked(SEVEN_BILLION, gpus(8)).layout
    assert divided.zero_stage in (2, 3)
    assert not divided.offload
    alone = picked(SEVEN_BILLION, gpus(1)).layout
    assert alone.zero_stage in (2, 3)
    assert alone.offload
    # More devices never need a ZeRO stage that divides more.
    assert (
        picked(SEVEN_BILLION, gpus(8, nodes=8)).layout.zero_stage <= divided.zero_stage
    )


def test_the_micro_batch_shrinks_with_the_memory_and_the_rows_grow_no_larger() -> None:
    roomy, tight = (
        picked(SMALL, gpus(1, 78), longest=2048),
        picked(SMALL, gpus(1, 12), longest=2048),
    )
    assert roomy.layout.micro_batch_size > tight.layout.micro_batch_size >= 1
    assert tight.state_bytes + tight.activation_bytes < 12 * GIB
    assert (
        picked(
            SMALL, gpus(1), longest=2048, activation_checkpointing=True
        ).activation_bytes
        < roomy.activation_bytes
    )


def test_nothing_fits_says_how_much_is_missing_and_what_helps() -> None:
    with pytest.raises(
        UserError,
        match=r"nothing fits into memory.*of 2\.0 GiB free.*more processes.*train\.lora",
    ):
        picked(SMALL, cpu(2, bf16=False))


def test_what_the_recipe_fixes_is_taken_even_where_the_estimate_doubts_it() -> None:
    fixed = picked(SMALL, cpu(2), zero=0, offload=False, micro_batch_size=4)
    assert not fixed.fits
    assert (fixed.layout.zero_stage, fixed.layout.micro_batch_size) == (0, 4)


def test_offload_alone_picks_a_stage_that_can() -> None:
    layout = picked(SMALL, cpu(20), offload=True).layout
    assert layout.offload
    assert layout.zero_stage >= 1


def test_frozen_weights_need_no_gradient_and_no_moments() -> None:
    adapter = Model(**{**vars(SEVEN_BILLION), "num_trained": 20_000_000})
    assert (
        picked(adapter, gpus(1)).state_bytes
        < 0.2 * picked(SEVEN_BILLION, gpus(8)).state_bytes * 8
    )
    assert not picked(adapter, gpus(1)).layout.offload
