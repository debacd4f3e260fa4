"""What samples: the champion by transformers or vLLM, or a model behind an endpoint."""

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
"""Size of the weights from which `auto` takes vLLM: below, its start costs more than it saves."""


class Engine(Protocol):
    """Answers prompts. Equal asks in equal batches get equal answers."""

    @property
    def about(self) -> EngineFacts:
        """What the receipt tells of it."""
        ...

    def answer(self, asks: Sequence[Ask], on_answers: Callable[[int], None]) -> list[Sample]:
        """One sample per ask, in order; `on_answers` hears how many of them are there."""
        ...


def choose_engine(
    context: Context, campaign: Campaign, champion: Receipt
) -> tuple[EngineName, str]:
    """Which engine the recipe's `engine` means here, and why."""
    asked = campaign.recipe.generate.engine
    if asked != "auto":
        return asked, "the recipe names it"
    folder = f"{checkpoint_name(0)}/"
    size = sum(
        ref.size
        for name, ref in champion.objects.items()
        if name.startswith(folder) and name.endswith(".safetensors")
    )
    weights = f"{size / 2**20:,.0f} MiB of weights"
    if size < VLLM_FROM_BYTES:
        return "transformers", f"{weights}: too small for vllm to be faster"
    import torch

    if not torch.cuda.is_available():
        # SmolLM2-135M on two cores: 777 tokens/s against 545 (tests/benchmarks/generation.py).
        return "transformers", f"{weights}, and without a GPU it is faster than vllm"
    kind = json.loads(
        fetch(context, champion, f"{folder}{artifacts.CHECKPOINT_CONFIG}").read_bytes()
    ).get("model_type", "")
    if kind.startswith("ratchet_"):
        return "transformers", f"vllm does not know models of type {kind}"
    if importlib.util.find_spec("vllm") is None:
        return "transformers", f"{weights}, and vllm is not installed"
    return "vllm", f"{weights}, and vllm is installed"


def batch_rows(name: EngineName, campaign: Campaign) -> int:
    """Samples that are asked for together. vLLM keeps `batch_size` of them under way, and begins
    one when one ends."""
    return campaign.recipe.generate.batch_size * (8 if name == "vllm" else 1)


def open_engine(
    name: EngineName, context: Context, campaign: Campaign, folder: Path | None
) -> Engine:
    """The engine for a checkpoint in `folder`, or for the recipe's endpoint. Models are loaded when
    first needed."""
    match name:
        case "transformers":
            from components.generate.engines.transformers import TransformersEngine

            assert folder is not None
            return TransformersEngine(context, campaign, folder)
        case "vllm":
            from components.generate.engines.transformers import sampling_of
            from components.generate.engines.vllm import VllmEngine

            assert folder is not None
            return VllmEngine(folder, campaign.recipe.model.system_prompt, sampling_of(campaign))
        case "openai":
            from components.generate.engines.endpoint import EndpointEngine

            return EndpointEngine(context, campaign)
