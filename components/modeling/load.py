"""Loading and saving clean checkpoints."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


WEIGHTS_SHARE = 0.8
"""Part of a GPU's free memory that weights may take; the rest is for what they compute."""


def load_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    settings: Mapping[str, float] | None = None,
    spread: bool = False,
) -> PreTrainedModel:
    """Load a clean checkpoint in eval mode, onto the current GPU or else the CPU.

    Args:
        folder: the checkpoint.
        dtype: of the weights in memory.
        settings: values for the model's config; names that the config lacks are passed over.
        spread: divide the layers among as many GPUs as the weights need. For a process that has
            all GPUs of its step to itself.

    Raises:
        UserError: the checkpoint lacks weights of its model, or they do not fit.
    """
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    placement: dict[str, Any] = {}
    if spread and device == "cuda":
        placement = _placement(folder, dtype)
    with quiet():
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
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
            **placement,
        )
    check_report(report, f"checkpoint {folder}")
    return (model if placement else model.to(device)).eval()


def _placement(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Return how transformers is to divide a model among GPUs; empty where one is enough."""
    weights_bytes = (
        count_parameters(sorted(folder.glob("*.safetensors"))) * dtype.itemsize
    )
    free_bytes = [
        torch.cuda.mem_get_info(number)[0]
        for number in range(torch.cuda.device_count())
    ]
    num_gpus = gpus_for(weights_bytes, free_bytes)
    if num_gpus == 1:
        return {}
    limits = {
        number: int(WEIGHTS_SHARE * free_bytes[number]) for number in range(num_gpus)
    }
    # Without an entry for the CPU nothing is put there: that would be slower by orders.
    return {"device_map": "balanced", "max_memory": limits}


def gpus_for(weights_bytes: int, free_bytes: Sequence[int]) -> int:
    """Return the number of GPUs that weights need, the first ones of those there are.

    Raises UserError if they do not fit into all of them.
    """
    room = 0.0
    for number, free in enumerate(free_bytes, 1):
        room += WEIGHTS_SHARE * free
        if weights_bytes <= room:
            return number
    raise UserError(
        f"the model's weights need {weights_bytes / 2**30:.1f} GiB, and the {len(free_bytes)} GPUs "
        f"of this step have {room / 2**30:.1f} GiB for them: give it more `gpus` in the profile"
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a clean checkpoint."""
    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )


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
