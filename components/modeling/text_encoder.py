"""Token ids of text, and text of token ids: a control token that a message spells stays text."""

from __future__ import annotations

import functools
import re

from transformers import PreTrainedTokenizerBase

from components.modeling.chat_template import MARKS

_OPENING, _CLOSING = MARKS
MARKED = re.compile(f"{_OPENING}([^{_OPENING}{_CLOSING}]*){_CLOSING}")
"""A marked control token: group 1 is its spelling."""
_MARK = re.compile("|".join(MARKS))


class TextEncoder:
    """A tokenizer for pieces of a conversation, without the special tokens it adds to a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def ids(self, text: str, *, continued: bool = False) -> list[int]:
        """Return the token ids of rendered text.

        Marked control tokens are spelled out. A mark that the template tore from its token is
        dropped, and the text before and behind it shares no token.

        Args:
            text: as a template wrote it, with MARKS around control tokens that a message spells.
            continued: other text stands before this one.
        """
        ids: list[int] = []
        # `split` yields text and spellings by turns, for the pattern has one group.
        for index, piece in enumerate(MARKED.split(text)):
            if index % 2 == 1:
                ids += self._spelled(piece)
                continue
            for part in filter(None, _MARK.split(piece)):
                ids += self._continued(part) if continued or ids else self.plain(part)
        return ids

    def plain(self, text: str) -> list[int]:
        """Return the token ids of a text that stands alone and has no marks."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens and otherwise untouched."""
        decode = self.tokenizer.decode
        # Decoded behind a line end: some tokenizers drop the first blank of a text.
        line_end = decode(self._line_end, skip_special_tokens=True)
        text = str(decode([*self._line_end, *ids], skip_special_tokens=True))
        if text.startswith(line_end):
            return text[len(line_end) :]
        return str(decode(ids, skip_special_tokens=True))

    @functools.cached_property
    def _line_end(self) -> list[int]:
        return self.plain("\n")

    def _continued(self, text: str) -> list[int]:
        """Return the token ids of text that other text stands before."""
        # Encoded behind a line end: some tokenizers put a blank before a text that begins.
        ids = self.plain(f"\n{text}")
        size = len(self._line_end)
        if ids[:size] == self._line_end:
            return ids[size:]
        # The tokenizer made one token of the line end and what follows.
        return self.plain(text)

    def _spelled(self, token: str) -> list[int]:
        """Return token ids of a text that spells a control token, without that token."""
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        encoded = self.tokenizer(
            token, add_special_tokens=False, split_special_tokens=True
        )
        ids = list(encoded["input_ids"])
        if token_id not in ids:
            return ids
        # An added token that is not special is not split by the tokenizer: its halves are.
        middle = len(token) // 2
        return self._continued(token[:middle]) + self._continued(token[middle:])
