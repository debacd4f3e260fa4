"""Models from nothing: stock transformers classes or an LSTM, and a tokenizer for their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from components.contracts.recipe import Scratch
from components.errors import UserError
from components.modeling.lstm import LstmConfig, LstmForCausalLM

SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
}
"""Special tokens, by their role."""

# The usual 0.02 is made for wide models: 64 dimensions learn faster and generalise further from
# about 1/√64.
_INITIALIZER_RANGE = 0.08


def make_scratch(
    section: Scratch, texts: Iterable[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a freshly initialised model and its tokenizer.

    Weights depend on torch's global seed.

    Args:
        section: Shape and tokenizer; `tokenizer: null` is `character` here.
        texts: What the tokenizers `bpe` and `word` are trained on.

    Raises:
        UserError: There is no text for such a tokenizer.
    """
    tokenizer = _tokenizer(section, texts)
    model = _model(section, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def _tokenizer(section: Scratch, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    match section.tokenizer:
        case "character" | None:
            tokenizer = _of_characters(section.alphabet)
        case "byte":
            tokenizer = _of_bytes([], use_words=False)
        case "word":
            tokenizer = _of_words(texts, section.vocabulary)
        case "bpe":
            tokenizer = _byte_pairs(texts, section.vocabulary)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=section.max_length,
        **SPECIAL,
    )


def _of_characters(alphabet: str) -> Tokenizer:
    symbols = [*SPECIAL.values(), *dict.fromkeys(alphabet)]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _of_bytes(words: Iterable[str], *, use_words: bool) -> Tokenizer:
    """Return a tokenizer of bytes, and of whole words where there are any."""
    # BPE without merges: each byte is a token, so every text can be written. A word of the
    # vocabulary is found before it would be merged.
    symbols = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    symbols = [*dict.fromkeys([*symbols, *words])]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=use_words))
    return _with_byte_level(tokenizer, use_regex=use_words)


def _of_words(texts: Iterable[str], size: int) -> Tokenizer:
    """Return a tokenizer of the most frequent words; other words are written in bytes.

    So are words that occur once: bytes that training never saw would make every unknown word of
    later texts improbable beyond measure.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    counts = Counter[str]()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(text))
    _require_text(counts.total(), "word")
    num_others = len(SPECIAL) + len(pre_tokenizers.ByteLevel.alphabet())
    # Of equally frequent words the order of the alphabet decides: texts come in any order.
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    words = [word for word in by_frequency if len(word) > 1 and counts[word] > 1]
    words = words[: size - num_others]
    return _of_bytes(words, use_words=True)


def _byte_pairs(texts: Iterable[str], size: int) -> Tokenizer:
    tokenizer = _with_byte_level(Tokenizer(models.BPE()), use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = [*texts]
    _require_text(len(lines), "bpe")
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _with_byte_level(tokenizer: Tokenizer, *, use_regex: bool) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=use_regex
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _require_text(amount: int, name: str) -> None:
    if not amount:
        raise UserError(
            f"model.scratch.tokenizer {name}: there is no text to train it on; give a source with "
            "split auto or train, or take `byte`"
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
                embedding_size=section.embedding_size,
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
    return SmolLM3ForCausalLM(
        SmolLM3Config(no_rope_layers=[0] * section.num_layers, **llama)
    )
