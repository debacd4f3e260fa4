"""Attention for sampling on a CPU: a key head that several query heads share is not copied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "ratchet_shared_heads"
PLAIN = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Kinds of models whose attention is a scale, a mask and a softmax, and nothing more."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Return the output of `eager` attention over grouped query heads (2305.13245).

    Args:
        module: the attention layer, which transformers passes and this does not need.
        query: (batch, heads, length, size).
        key: (batch, key heads, keys, size).
        value: as `key`.
        attention_mask: additive, (batch, 1, length, keys).
        scaling: factor of the scores; None: 1/√size.
        kwargs: further arguments of transformers' interface, not used.

    Returns:
        (batch, length, heads, size), and None for the weights.
    """
    batch, heads, length, size = query.shape
    key_heads = key.shape[1]
    num_keys = key.shape[2]
    # `eager` copies keys and values for every query head. For one new token a row that costs many
    # times what the products do, so the query heads of one key head become rows of one product.
    grouped_query = query.reshape(batch, key_heads, -1, size)
    scale = size**-0.5 if scaling is None else scaling
    scores = torch.matmul(grouped_query, key.transpose(2, 3)) * scale
    if attention_mask is not None:
        scores = scores.view(batch, key_heads, -1, length, num_keys)
        scores = scores + attention_mask[:, :, None]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = weights.view(batch, key_heads, -1, num_keys)
    output = torch.matmul(weights, value)
    output = output.view(batch, heads, length, size)
    return output.transpose(1, 2).contiguous(), None


def use_shared_heads(model: PreTrainedModel) -> None:
    """Let a model on the CPU attend by `attend`. A model of a kind not in PLAIN stays as it is."""
    if model.device.type == "cpu" and model.config.model_type in PLAIN:
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, eager_mask)
        model.set_attn_implementation(NAME)
