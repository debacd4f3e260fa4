"""Loading and saving clean checkpoints."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# For its registration with the auto classes.
import components.modeling.lstm  # noqa: F401
from components.errors import UserError
from components.modeling.malloc import keep_freed_memory
from components.modeling.weights import check_report


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, *, settings: Mapping[str, float] | None = None
) -> PreTrainedModel:
    """Load a clean checkpoint for training or inference (eval mode, on the CPU or the current
    accelerator).

    Of `settings` those that the model's config has are set in it. Raises UserError if the checkpoint
    lacks weights of its model.
    """
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        for name, value in (settings or {}).items():
            if hasattr(config, name):
                setattr(config, name, value)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            # Short rows on a CPU: plain attention trains a quarter faster than the fused kernel.
            attn_implementation="sdpa" if device == "cuda" else "eager",
        )
    check_report(report, f"checkpoint {folder}")
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a clean checkpoint."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write a clean checkpoint: safetensors, config, tokenizer with its chat template."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def inference_dtype(model_folder: Path) -> torch.dtype:
    """bfloat16 from 20 M parameters on, where it is at least twice as fast on CPUs with AMX or
    AVX-512-BF16 and GPUs; float32 below, where nothing is gained."""
    return (
        torch.bfloat16
        if count_parameters(sorted(model_folder.glob("*.safetensors"))) >= 20_000_000
        else torch.float32
    )


def count_parameters(weights: list[Path], name: str = "") -> int:
    """Parameters in some safetensors files, from their headers. Raises UserError for a file that is
    not whole."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 — not a dict
                    size = 1
                    for length in file.get_slice(key).get_shape():
                        size *= length
                    count += size
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"model {name or path.parent}: {path.name} is not a whole safetensors file ({error})"
            ) from None
    return count


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Loading bars of transformers do not belong in a step's log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    yield
