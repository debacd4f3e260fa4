"""Attention for sampling on a CPU: key heads that several query heads share are read where they
lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "ratchet_shared_heads"
PLAIN = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Kinds of models whose attention is a scale, a mask and a softmax, and nothing more."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What `eager` attention computes, without a copy of the keys and values for each query head
    (2305.13245).

    `query` is (batch, heads, length, size), `key` and `value` (batch, key heads, keys, size), the
    mask is additive. Returns (batch, length, heads, size). For one new token a row, copying keys
    and values for every query head costs many times what the products do.
    """
    batch, heads, length, size = query.shape
    key_heads = key.shape[1]
    together = query.reshape(batch, key_heads, -1, size)
    scores = torch.matmul(together, key.transpose(2, 3)) * (
        size**-0.5 if scaling is None else scaling
    )
    if attention_mask is not None:
        scores = (
            scores.view(batch, key_heads, -1, length, key.shape[2]) + attention_mask[:, :, None]
        )
    weights = (
        scores.softmax(dim=-1, dtype=torch.float32)
        .to(query.dtype)
        .view(batch, key_heads, -1, key.shape[2])
    )
    return torch.matmul(weights, value).view(batch, heads, length, size).transpose(
        1, 2
    ).contiguous(), None


def use_shared_heads(model: Any) -> None:
    """Let a model on the CPU attend by `attend`, if it is of a kind that can; any other stays as it
    is."""
    if model.device.type == "cpu" and model.config.model_type in PLAIN:
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, eager_mask)
        model.set_attn_implementation(NAME)
