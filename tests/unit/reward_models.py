"""Tiny reward models: classifiers whose outputs are rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tests.unit.tiny import tiny_model


def save_reward_model(
    folder: Path, num_labels: int = 1, tokenizer: Any = None, seed: int = 0
) -> Path:
    """A random classifier whose outputs are rewards, as a checkpoint folder."""
    tokenizer = tokenizer or tiny_model()[1].tokenizer
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=48,
        num_labels=num_labels,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder
