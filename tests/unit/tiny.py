"""Tiny real models for tests: a few thousand parameters, made from nothing in a fraction of a
second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.contracts.recipe import Scratch
from components.modeling.encoding import Codec
from components.modeling.load import save_checkpoint
from components.modeling.scratch import make_scratch

ARCHITECTURES = ["llama", "llama-nope", "gpt2", "lstm"]
"""Those of `model.scratch`."""


def tiny_model(
    architecture: str = "llama-nope", seed: int = 0, **settings: Any
) -> tuple[Any, Codec]:
    """A random model with 32 dimensions and two layers, and its codec."""
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 64,
        "max_length": 64,
        **settings,
    }
    model, tokenizer = make_scratch(
        Scratch.model_validate({"architecture": architecture, **shape})
    )
    return model.eval(), Codec(tokenizer)


def save_tiny(
    folder: Path, architecture: str = "llama-nope", seed: int = 0, **settings: Any
) -> Path:
    """The same, as a checkpoint folder."""
    model, codec = tiny_model(architecture, seed, **settings)
    save_checkpoint(model, codec.tokenizer, folder)
    return folder


def greedy_of_transformers(
    model: Any, codec: Codec, text: str, max_new_tokens: int
) -> list[int]:
    """What transformers' own `generate` answers to a prompt, its end among it."""
    ids = torch.tensor([codec.prompt_ids(text)])
    answer: list[int] = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=codec.pad_id,
    )[0, ids.shape[1] :].tolist()
    return answer
