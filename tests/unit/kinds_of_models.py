"""Random models of the architectures that transformers has."""

from __future__ import annotations

from typing import Any

import torch
import transformers

SHAPE: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING: dict[str, Any] = {
    "head_dim": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "phi": {},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {},
    "falcon": {"new_decoder_architecture": False},
    "starcoder2": {},
    "smollm3": {"no_rope_layer_interval": 2},
    "olmo2": {},
    "cohere": {},
    "biogpt": {},
    "granite": {"residual_multiplier": 0.5},
}


def random_model(kind: str, **settings: Any) -> Any:
    """A model of which no weight is what it was initialised with, so that biases count too."""
    config = transformers.AutoConfig.for_model(
        kind, **{**SHAPE, **KINDS.get(kind, {}), **settings}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager"
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()
