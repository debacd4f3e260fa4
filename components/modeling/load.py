"""Loading and saving clean checkpoints."""

from __future__ import annotations

import contextlib
import math
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
from components.modeling.memory import keep_freed_memory
from components.modeling.weights import check_report

# On two CPU cores with AMX, SmolLM2-135M generates 388 tokens a second in bf16 and 178 in float32
# (batch of 64). Small models gain nothing: their time goes into calls, not into products.
BF16_PARAMETERS = 20_000_000
"""Model size from which sampling in bfloat16 is faster."""


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, *, settings: Mapping[str, float] | None = None
) -> PreTrainedModel:
    """Load a clean checkpoint in eval mode, onto the current GPU or else the CPU.

    Args:
        folder: the checkpoint.
        dtype: of the weights in memory.
        settings: values for the model's config; names that the config lacks are passed over.

    Raises:
        UserError: the checkpoint lacks weights of its model.
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
            # With short rows on a CPU, plain attention trains a quarter faster than the fused
            # kernel.
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
    """Return the type that a model samples fastest in: bfloat16 or, for small ones, float32."""
    num_parameters = count_parameters(sorted(model_folder.glob("*.safetensors")))
    return torch.bfloat16 if num_parameters >= BF16_PARAMETERS else torch.float32


def count_parameters(weights: list[Path], name: str = "") -> int:
    """Return the number of parameters in some safetensors files, read from their headers.

    Raises UserError, with `name`, for a file that is not whole.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 — not a dict
                    count += math.prod(file.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"model {name or path.parent}: {path.name} is not a whole safetensors file "
                f"({error})"
            ) from None
    return count


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Switch off the loading bars of transformers, which do not belong in a step's log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    # The tokenizers library warns at every fork of a process that has used its threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    yield
