"""Models from nothing: stock transformers classes or an LSTM, a character or byte tokenizer."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from components.contracts.recipe import Scratch
from components.errors import UserError
from components.modeling.lstm import LstmConfig, LstmForCausalLM

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
"""Special tokens, by their role."""

# The usual 0.02 is made for wide models: 64 dimensions learn faster and generalise further from
# about 1/√64.
_INITIALIZER_RANGE = 0.08


def make_scratch(section: Scratch) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a freshly initialised model and its tokenizer.

    Weights depend on torch's global seed. Raises UserError if the heads do not divide hidden_size.
    """
    if section.architecture != "lstm" and section.hidden_size % section.num_heads:
        raise UserError(
            f"model.scratch: hidden_size {section.hidden_size} must be a multiple of num_heads "
            f"{section.num_heads}"
        )
    tokenizer = _tokenizer(section)
    model = _model(section, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def _tokenizer(section: Scratch) -> PreTrainedTokenizerFast:
    if section.tokenizer == "character":
        symbols = [*SPECIAL.values(), *dict.fromkeys(section.alphabet)]
        vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        # BPE without merges: each byte is a token, so every text can be written.
        symbols = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
        vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=section.max_length,
        **SPECIAL,
    )


def _model(section: Scratch, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        SmolLM3Config,
        SmolLM3ForCausalLM,
    )

    # Reverse addition was learnt with a <bos> in front of every text, and not without.
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if section.architecture == "lstm":
        return LstmForCausalLM(
            LstmConfig(
                hidden_size=section.hidden_size,
                num_hidden_layers=section.num_layers,
                initializer_range=_INITIALIZER_RANGE,
                **tokens,
            )
        )
    llama = {
        "hidden_size": section.hidden_size,
        "num_hidden_layers": section.num_layers,
        "num_attention_heads": section.num_heads,
        "num_key_value_heads": section.num_heads,
        "intermediate_size": section.intermediate_size,
        "max_position_embeddings": section.max_length,
        "initializer_range": _INITIALIZER_RANGE,
        "tie_word_embeddings": False,
        **tokens,
    }
    config: PretrainedConfig
    if section.architecture == "gpt2":
        config = GPT2Config(
            n_embd=section.hidden_size,
            n_layer=section.num_layers,
            n_head=section.num_heads,
            n_inner=section.intermediate_size,
            n_positions=section.max_length,
            # GPT-2's config has 0.1 for these; train.dropout alone sets dropout here.
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=_INITIALIZER_RANGE,
            **tokens,
        )
        return GPT2LMHeadModel(config)
    if section.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**llama))
    # `llama-nope`: SmolLM3 with rotary embedding off in every layer is a llama-like decoder whose
    # only sense of order is the causal mask, which generalises to longer inputs (2305.19466).
    return SmolLM3ForCausalLM(SmolLM3Config(no_rope_layers=[0] * section.num_layers, **llama))
