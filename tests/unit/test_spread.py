"""A model whose layers are divided among devices answers and scores as one that is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.modeling.inference.sampler import Request, Sampling, sample
from components.modeling.likelihood import EncodedRow
from components.modeling.load import WEIGHTS_SHARE, gpus_for
from components.modeling.scoring import score_rows
from tests.unit.tiny import tiny_model

GIB = 2**30
PROMPTS = ["12=", "(4)=", "9+9=", "120=", "7="]


@pytest.mark.parametrize(
    ("weights_gib", "free_gib", "num_gpus"),
    [
        (1, (80,), 1),
        (64, (80, 80), 1),
        (65, (80, 80), 2),
        (140, (80, 80, 80, 80), 3),
        (4, (2, 6), 2),
    ],
)
def test_as_many_gpus_as_the_weights_need(
    weights_gib: float, free_gib: tuple[float, ...], num_gpus: int
) -> None:
    free_bytes = [int(gib * GIB) for gib in free_gib]
    assert gpus_for(int(weights_gib * GIB), free_bytes) == num_gpus
    assert WEIGHTS_SHARE < 1


def test_weights_that_fit_nowhere_are_told() -> None:
    with pytest.raises(
        UserError, match=r"need 140.0 GiB, and the 2 GPUs .* have 128.0 GiB .*gpus"
    ):
        gpus_for(140 * GIB, [80 * GIB, 80 * GIB])


def said_and_scored(model: Any, codec: Any) -> tuple[list[Any], list[Any]]:
    requests = [
        Request(tuple(codec.prompt_ids(prompt)), (1, 2, 3)) for prompt in PROMPTS
    ]
    sampling = Sampling(1.0, 0, 1.0, 8, 6)
    rows = [EncodedRow(*codec.row_ids(prompt, prompt[::-1])) for prompt in PROMPTS]
    answers = list(sample(model, requests, sampling, codec.end_ids, codec.pad_id))
    return answers, score_rows(model, rows, codec.pad_id, 2)


# Two GPUs are not to be had here: a layer that lies on the disk and is computed on the CPU goes
# through the same hooks, which move what a layer is given. tests/gpu has two real devices.
@pytest.mark.parametrize(
    ("architecture", "body"), [("llama-nope", "model"), ("gpt2", "transformer")]
)
def test_a_layer_elsewhere_changes_nothing(
    tmp_path: Path, architecture: str, body: str
) -> None:
    from accelerate import dispatch_model

    model, codec = tiny_model(architecture, num_layers=2)
    whole = said_and_scored(model, codec)
    blocks = "layers" if body == "model" else "h"
    device_map = {
        name: "disk" if name == f"{body}.{blocks}.1" else "cpu"
        for name in _modules(model, body, blocks)
    }
    divided = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path)
    assert any(parameter.is_meta for parameter in divided.parameters()), (
        "nothing is elsewhere"
    )
    assert said_and_scored(divided, codec) == whole


def _modules(model: Any, body: str, blocks: str) -> list[str]:
    """Return the names of a model's parts, each of its layers apart."""
    names = []
    for name, _ in model.get_submodule(body).named_children():
        is_blocks = name == blocks
        layers = [f"{body}.{name}.{number}" for number in range(2)]
        names += layers if is_blocks else [f"{body}.{name}"]
    return [*names, "lm_head"]
