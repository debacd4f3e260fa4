"""Figures of training on one CUDA device: `python -m tests.benchmarks.gpu [--seed N]`. A few
minutes.

Tokens a second and model FLOPs utilisation (2204.02311: 6·N + 12·layers·width·length FLOPs a token)
of a llama-like model of 135 M and of 1.2 G parameters from nothing, ZeRO 2 and 3, rows of 1,024
tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from components.contracts.rows import TrainingRow
from components.train.process.job import Stage
from tests.benchmarks.figures import record
from tests.unit.tiny import save_tiny
from tests.unit.trainings import carry_out, make_job

LENGTH = 1024
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16, from the makers' data sheets."""
SHAPES = {
    "135m": {
        "hidden_size": 768,
        "num_layers": 16,
        "num_heads": 12,
        "intermediate_size": 2304,
    },
    "1b": {
        "hidden_size": 2048,
        "num_layers": 20,
        "num_heads": 16,
        "intermediate_size": 6656,
    },
}


def main() -> None:
    """Measure both sizes at both ZeRO stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing to measure")
    device = torch.cuda.get_device_name()
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
    text = "0123456789" * (LENGTH // 10)
    rows = [
        TrainingRow(
            id=str(n), prompt="", completion=text[:-2], source="labelled", round=0
        )
        for n in range(256)
    ]
    command = f"python -m tests.benchmarks.gpu --seed {seed}"
    with tempfile.TemporaryDirectory(prefix="gpu-") as place:
        for size, shape in SHAPES.items():
            base = save_tiny(
                Path(place) / size, "llama", seed, max_length=LENGTH, **shape
            )
            for zero_stage in (2, 3):
                job = make_job(
                    Path(place) / f"{size}-{zero_stage}",
                    rows=rows,
                    dev=[],
                    init=base,
                    batch_size=32,
                    zero=zero_stage,
                    precision="bf16",
                    micro_batch_size="auto",
                    max_length=LENGTH,
                    key=f"{size}{zero_stage}".ljust(32, "k"),
                    stages=(Stage(name="sft", steps=20, learning_rate=1e-4),),
                )
                done = carry_out(job)
                measured = json.loads((done["output"] / "measured.json").read_text())
                costs = measured["costs"]
                speed = done["tokens_trained"] / costs["compute_seconds"]
                per_token = (
                    6 * parameters(base)
                    + 12 * shape["num_layers"] * shape["hidden_size"] * LENGTH
                )
                record(
                    f"gpu.{size}_zero{zero_stage}_tokens_per_second",
                    speed,
                    "1/s",
                    "one device",
                    command,
                    seed,
                    device,
                )
                if peak is not None:
                    mfu = speed * per_token / peak
                    record(
                        f"gpu.{size}_zero{zero_stage}_mfu",
                        mfu,
                        "share",
                        "one device",
                        command,
                        seed,
                        device,
                    )
                print(
                    f"{size} ZeRO {zero_stage}: {speed:,.0f} tokens/s on {device}",
                    flush=True,
                )


def parameters(folder: Path) -> int:
    """Weights of a checkpoint."""
    from components.modeling.load import count_parameters

    return count_parameters(sorted(folder.glob("*.safetensors")))


if __name__ == "__main__":
    main()
