"""A shard goes on in smaller batches where memory is short. Kills: tests/promises/kills.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.generate.step import GenerateInputs, run
from components.runtime.context import Context, make_context
from tests.unit.crafted import ask
from tests.unit.generations import begun, samples_of

PROMPTS = [ask(f"{n * 7919 % 10 ** (1 + n % 6)}={n}", "0") for n in range(480)]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def process(
    state: str, folder: Path, module: str, *more: str
) -> subprocess.Popen[bytes]:
    """One shard in a process of its own."""
    environment = {**os.environ, **ENVIRONMENT, "RATCHET_CACHE": str(folder / "cache")}
    with (folder / "said.txt").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", module, "--state", state, *more],
            env=environment,
            stdout=said,
            stderr=said,
        )


def own_context(folder: Path) -> Context:
    """The surroundings of a step in this process, over the store of `folder`."""
    return make_context(
        f"file://{folder}/store", {"RATCHET_CACHE": str(folder / "own-cache")}
    )


def test_out_of_memory_halves_the_batch_and_changes_no_sample(tmp_path: Path) -> None:
    context = own_context(tmp_path)
    large: dict[str, Any] = {
        "prompts": PROMPTS[:320],
        "max_new_tokens": 50,
        "model": {"num_layers": 4, "hidden_size": 128, "max_length": 256},
    }
    state = begun(context, batch_size=4096, **large)
    shard = process(state, tmp_path, "tests.fault.short_sampling", "60")
    said = (tmp_path / "said.txt").read_text() if shard.wait() is not None else ""
    assert shard.returncode == 0, said[-3000:]
    assert "out of memory with 240 rows: 120 rows a batch from here on" in said
    [attempt] = [one for one in attempts(tmp_path) if one["task"] == "generate-r1-s0"]
    assert attempt["costs"]["sampling_batch_size"] <= 120
    drawn = samples_of(context, run(GenerateInputs(state, 0), context))
    assert drawn == samples_of(
        context,
        run(GenerateInputs(begun(context, batch_size=100, **large), 0), context),
    )


def attempts(folder: Path) -> list[dict[str, Any]]:
    """All attempt records of the store."""
    return [
        json.loads(path.read_text())
        for path in sorted((folder / "store" / "attempts").glob("*/*/*.json"))
    ]
