"""The recipe's sections `train.<stage>.augmentation`: noise on the rows that a stage learns from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from components.contracts.recipe.section import Section

# Beyond it hardly a word keeps its neighbours; the sources stay at 0.3 and below.
NoiseShare = Annotated[float, Field(ge=0.0, le=0.5)]
"""Share of the words that one kind of noise falls on."""


class Augmentation(Section):
    """Every time a row is drawn, its words are changed anew, by a seed of that draw.

    Answers are learned as they are: their words may be hidden from the model where it reads them,
    and stay what it is to predict. Raw text is read and predicted, but no changed word of it is.
    """

    word_dropout: NoiseShare = 0.0
    """Share of the words that the model reads as unknown, or as random other ones where its
    tokenizer has no token for that (1511.06349, 1703.02573). They are predicted all the same."""
    span_masking: NoiseShare = 0.0
    """The same of stretches of three words on average (1907.10529)."""
    word_deletion: NoiseShare = 0.0
    """Share of the words that are left out (1901.11196)."""
    word_swap: NoiseShare = 0.0
    """Share of the words that change places with the next one (1901.11196)."""
    case_noise: NoiseShare = 0.0
    """Share of the words in other letters: upper case, lower case or capitalised."""
    spacing_noise: NoiseShare = 0.0
    """Share of the words whose space before them is missing, doubled or a line break."""
    # A label survives a lost word, a sum does not.
    prompts: bool = True
    """Words of prompts are changed too, the last message of the user. Unset it where an answer
    depends on every word, as in arithmetic: only answers and raw text are noisy then."""
    max_word_dropout: NoiseShare = 0.3
    """`train.rounds`: reflection may raise `word_dropout` up to it, from 0 too."""

    @model_validator(mode="after")
    def _bounds(self) -> Augmentation:
        if self.word_dropout > self.max_word_dropout:
            raise ValueError(
                f"word_dropout ({self.word_dropout:g}) > max_word_dropout "
                f"({self.max_word_dropout:g}): raise max_word_dropout"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Some noise is not 0."""
        return self.hides_words or self.changes_words

    @property
    def hides_words(self) -> bool:
        """Words are read as others, and stay what is to be predicted."""
        return self.word_dropout > 0 or self.span_masking > 0

    @property
    def changes_words(self) -> bool:
        """Words are left out, moved or written otherwise."""
        shares = (
            self.word_deletion,
            self.word_swap,
            self.case_noise,
            self.spacing_noise,
        )
        return any(shares)
