"""Tiny chat models in the shape of real ones: a byte tokenizer with control tokens and a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from components.modeling.load import save_checkpoint

TURNS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
TURN = "<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
OPENING = "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
CHAT = "{% for m in messages %}" + TURN + "{% endfor %}" + OPENING
"""ChatML in other words: every role is a turn."""


def chat_tokenizer(
    template: Any = CHAT, special: tuple[str, ...] = TURNS, plain: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A byte tokenizer whose eos is not what its template ends a turn with. `plain` tokens are
    added without being special."""
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(
        models.BPE({symbol: place for place, symbol in enumerate(symbols)}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    inner.decoder = decoders.ByteLevel()
    named = ("<pad>", "<eos>", "<bos>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=[token for token in special if token not in named],
    )
    if plain:
        tokenizer.add_tokens(list(plain))
    tokenizer.chat_template = template
    return tokenizer


def llama(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> LlamaForCausalLM:
    """A random model with a row of its embedding for every token."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "initializer_range": 0.08,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlamaForCausalLM(LlamaConfig(**{**shape, **settings}))


def save_chat_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **settings: Any
) -> Path:
    """A checkpoint folder of such a model."""
    tokenizer = tokenizer or chat_tokenizer()
    save_checkpoint(llama(tokenizer, **settings), tokenizer, folder)
    return folder
