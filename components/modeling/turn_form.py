"""The control tokens of a conversation, as a tokenizer and its chat template write them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from components.errors import UserError
from components.modeling.chat_template import (
    PROBE,
    Message,
    one_of,
    render,
    template_source,
)
from components.modeling.text_encoder import TextEncoder

QUESTION: Message = {"role": "user", "content": f"{PROBE}?"}
ANSWER: Message = {"role": "assistant", "content": PROBE}
"""Turns that show what a template writes around them."""


@dataclass(frozen=True)
class TurnForm:
    """Which tokens begin and end turns, and which of them a text may never become.

    It is read off what the template makes of a question and an answer. Raises UserError for a
    template that writes no answer.
    """

    tokenizer: PreTrainedTokenizerBase
    generation_ends: tuple[int, ...] = ()
    """Tokens that end an answer by generation_config.json."""

    @functools.cached_property
    def template(self) -> str:
        """The chat template that conversations are rendered by; empty if there is none."""
        return template_source(self.tokenizer)

    @functools.cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, the first of them the one that training teaches.

        They are the one that the template writes, the tokenizer's, and those of
        generation_config.json.
        """
        # Many chat models end texts with one token and turns with another: the template's is first.
        ends = [self._template_end, self.tokenizer.eos_token_id, *self.generation_ends]
        # Old configurations write -1 for none, and some name tokens of a larger tokenizer.
        ids = [
            int(end)
            for end in ends
            if end is not None and 0 <= end < len(self.tokenizer)
        ]
        # Without repeats, in order.
        return tuple(dict.fromkeys(ids))

    @functools.cached_property
    def end_tokens(self) -> tuple[str, ...]:
        """The tokens of `end_ids`, as they are written."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(self.end_ids))
        return tuple(str(token) for token in tokens if token)

    @functools.cached_property
    def header(self) -> str:
        """The beginning of an assistant's turn, if `add_generation_prompt` does not write it."""
        # Templates that take no notice of `add_generation_prompt` write the same text with it.
        question = [QUESTION]
        opened = render(self.tokenizer, question, open_answer=True).text
        before_answer, _ = self._around_answer
        if opened != render(self.tokenizer, question).text:
            return ""
        if not before_answer.startswith(opened):
            return ""
        header = before_answer[len(opened) :]
        # A blank alone belongs to the answer, as it does where answers are sampled.
        return header if header.strip() else ""

    @functools.cached_property
    def _around_answer(self) -> tuple[str, str]:
        """The text that the template writes before an answer, and after it."""
        text = render(self.tokenizer, [QUESTION, ANSWER]).text
        before_answer, answer, after_answer = text.rpartition(PROBE)
        if not answer or PROBE not in before_answer:
            raise UserError(
                "the model's chat template does not write what user and assistant say, so nothing "
                "can be trained by it"
            )
        return before_answer, after_answer

    @functools.cached_property
    def _template_end(self) -> int | None:
        """The token that the template ends the assistant's turn with; None if it writes none."""
        if not self.template:
            return None
        _, after_answer = self._around_answer
        added = self.tokenizer.added_tokens_decoder
        return next(
            (int(one) for one in self.encoder.plain(after_answer) if one in added), None
        )

    @functools.cached_property
    def end_text(self) -> str:
        """What the template ends the assistant's turn with where it is no token; mostly empty."""
        # Such as <|im_end|> for a tokenizer that has no token of this name.
        if not self.template or self._template_end is not None:
            return ""
        _, after_answer = self._around_answer
        return after_answer.strip()

    @functools.cached_property
    def assistant_control(self) -> re.Pattern[str]:
        """Tokens that no text of an assistant becomes: special ones, ends, and those around a turn.

        Others it may write: a model that says <think> or <tool_call> means the token.
        """
        added = self.tokenizer.added_tokens_decoder
        tokens = set(self.end_tokens)
        for token in added.values():
            if token.special:
                tokens.add(token.content)
        if self.template:
            question = render(self.tokenizer, [QUESTION]).text
            for token_id in self.encoder.plain(question):
                if token_id in added:
                    tokens.add(added[token_id].content)
        return one_of(token for token in tokens if not token.isspace())

    @functools.cached_property
    def control(self) -> re.Pattern[str]:
        """Tokens that no text of others becomes: also all that the template writes."""
        tokens = set(self.end_tokens)
        for added in self.tokenizer.added_tokens_decoder.values():
            token = added.content
            is_written = token in self.template and not token.isspace()
            if is_written or self.assistant_control.fullmatch(token):
                tokens.add(token)
        return one_of(tokens)

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        """Turns texts into ids."""
        return TextEncoder(self.tokenizer)
