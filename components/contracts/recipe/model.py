"""The recipe's section `model`: the base model that every comparison starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.contracts.recipe.section import Positive, Section


class Scratch(Section):
    """A model made from nothing, for `source: scratch`."""

    architecture: Literal["llama", "llama-nope", "gpt2", "lstm"] = "llama-nope"
    """llama-style decoder, the same without position encoding (2305.19466), GPT-2, or an LSTM
    (which has no heads and no intermediate layer)."""
    hidden_size: Positive = 64
    embedding_size: Positive | None = None
    """Size of a token's embedding in an `lstm`; null: `hidden_size`."""
    num_layers: Positive = 3
    num_heads: Positive = 4
    intermediate_size: Positive = 256
    max_length: Positive = 256
    """Longest sequence in tokens."""
    tokenizer: Literal["byte", "bpe", "word", "character"] | None = None
    """`byte` writes every text; `bpe` and `word` are trained on the labelled rows and write the rest
    in bytes, `word` also words that occur once; `character` knows its alphabet alone. null:
    `character` where the rows have no other characters, else `byte`."""
    vocabulary: Annotated[int, Field(ge=300)] = 4096
    """Tokens of `bpe` and `word` at most, 260 of them for bytes and special tokens."""
    # The characters of the built-in tasks.
    alphabet: str = "0123456789+*-=() "
    """Characters the `character` tokenizer knows; rows with others are an error."""

    @model_validator(mode="after")
    def _embedding_fits(self) -> Scratch:
        if self.architecture != "lstm" and self.embedding_size is not None:
            raise ValueError(
                f"embedding_size is for architecture lstm: {self.architecture} takes hidden_size"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Scratch:
        if self.architecture != "lstm" and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}"
            )
        return self


class ModelSection(Section):
    """The base model every comparison starts from."""

    source: str = "scratch"
    """`scratch`, a folder, s3://bucket/prefix, hf://org/name@revision, or a .gguf file: its path or
    package://module/file.gguf (a file inside an installed Python package). release://name is the
    release of that name in force when the run begins, release://name@version a certain one; no
    prompt that it was measured on is trained on."""
    scratch: Scratch = Scratch()
    # Some templates put in one of their own where none is given.
    system_prompt: str = ""
    """System message of the chat template; empty: none is sent where the template allows it."""
