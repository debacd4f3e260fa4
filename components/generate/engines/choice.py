"""Choice of the engine: a checkpoint by transformers or vLLM, or a model behind an endpoint."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from components.contracts import artifacts
from components.contracts.recipe import EngineName
from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts
from components.generate.batches import Ask
from components.runtime.campaign import Campaign, checkpoint_name
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch

VLLM_FROM_BYTES = 256 * 2**20
"""Size of the weights from which `auto` takes vLLM. Below, its start costs more than it saves."""
VLLM_BATCH_FACTOR = 8
"""Batches of vLLM are this many times `batch_size`. It keeps `batch_size` samples under way and
begins one when one ends: a larger batch lets it do so for longer."""


class Engine(Protocol):
    """Answers prompts. Equal asks in equal batches get equal answers."""

    @property
    def about(self) -> EngineFacts:
        """Facts about the engine for the receipt."""
        ...

    def answer(
        self, asks: Sequence[Ask], on_answers: Callable[[int], None]
    ) -> list[Sample]:
        """Return one sample per ask, in order.

        Args:
            asks: The requests.
            on_answers: Called with the number of samples that are finished so far.
        """
        ...


def choose_engine(
    context: Context, campaign: Campaign, model: Receipt
) -> tuple[EngineName, str]:
    """Return (engine that the recipe's `engine` means on this machine, reason).

    Args:
        context: Store of the model.
        campaign: Recipe of the campaign.
        model: Receipt with the checkpoints that answer.
    """
    setting = campaign.recipe.generate.engine
    if setting != "auto":
        return setting, "the recipe names it"
    folder = f"{checkpoint_name(0)}/"
    size = sum(
        ref.size
        for name, ref in model.objects.items()
        if name.startswith(folder) and name.endswith(".safetensors")
    )
    weights = f"{size / 2**20:,.0f} MiB of weights"
    if size < VLLM_FROM_BYTES:
        return "transformers", f"{weights}: too small for vllm to be faster"
    # Late: with a small model, or an engine that the recipe names, torch is not needed here.
    import torch

    if not torch.cuda.is_available():
        # SmolLM2-135M on two cores: 777 tokens/s against 545 (tests/benchmarks/generation.py).
        return "transformers", f"{weights}, and without a GPU it is faster than vllm"
    config_path = fetch(context, model, f"{folder}{artifacts.CHECKPOINT_CONFIG}")
    model_type = json.loads(config_path.read_bytes()).get("model_type", "")
    # Architectures of this project (`components.modeling`) are not in vLLM's registry.
    if model_type.startswith("ratchet_"):
        return "transformers", f"vllm does not know models of type {model_type}"
    # Found, not imported: the import alone takes seconds.
    if importlib.util.find_spec("vllm") is None:
        return "transformers", f"{weights}, and vllm is not installed"
    return "vllm", f"{weights}, and vllm is installed"


def batch_rows(name: EngineName, campaign: Campaign) -> int:
    """Return the number of samples that one call of the engine asks for."""
    factor = VLLM_BATCH_FACTOR if name == "vllm" else 1
    return campaign.recipe.generate.batch_size * factor


def open_engine(
    name: EngineName, context: Context, campaign: Campaign, folder: Path | None
) -> Engine:
    """Return the engine. Models are loaded at first use.

    Args:
        name: The engine.
        context: Environment, store and progress.
        campaign: Recipe and plan of the campaign.
        folder: The checkpoint; None for an endpoint.
    """
    match name:
        case "transformers":
            from components.generate.engines.transformers import TransformersEngine

            assert folder is not None
            return TransformersEngine(context, campaign, folder)
        case "vllm":
            from components.generate.engines.transformers import sampling_of
            from components.generate.engines.vllm import VllmEngine

            assert folder is not None
            recipe = campaign.recipe
            sampling = sampling_of(campaign)
            prompt = recipe.answering_system_prompt
            return VllmEngine(
                folder,
                prompt,
                sampling,
                recipe.generate.vllm,
                with_log_probabilities=recipe.train.method == "raft",
            )
        case "openai":
            from components.generate.engines.endpoint import EndpointEngine

            return EndpointEngine(context, campaign)
