"""Runs of formula tokens in a phrase: the pieces that are read as one number or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.verifiers.number_tokens import Kind, Token

_FORMULA_KINDS = frozenset(
    {
        Kind.NUMBER,
        Kind.SYMBOL,
        Kind.OPERATOR,
        Kind.EQUALS,
        Kind.COMPARISON,
        Kind.OPEN,
        Kind.CLOSE,
        Kind.FRACTION,
        Kind.PERCENT,
        Kind.SCALE,
    }
)


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of a formula, one of which begins a number."""

    phrase: Sequence[Token]
    start: int
    end: int
    """Positions in the phrase; `end` is behind the last token."""

    @property
    def tokens(self) -> Sequence[Token]:
        """The tokens of the run."""
        return self.phrase[self.start : self.end]

    @property
    def first(self) -> Token:
        """The first token."""
        return self.phrase[self.start]

    @property
    def word_before(self) -> str:
        """The word right before the run; empty if no word stands there."""
        if self.start == 0:
            return ""
        token = self.phrase[self.start - 1]
        return token.text if token.kind is Kind.WORD else ""

    @property
    def texts_before(self) -> list[str]:
        """The texts of the two tokens before the run; fewer at the beginning of the phrase."""
        begin = max(0, self.start - 2)
        return [token.text for token in self.phrase[begin : self.start]]

    @property
    def next_word(self) -> str:
        """The text of the token behind the run; empty at the end of the phrase."""
        # "5 (hours)": the word that follows may stand in brackets.
        for token in self.phrase[self.end :]:
            if token.kind is not Kind.OPEN:
                return token.text
        return ""


def runs_of(phrase: Sequence[Token]) -> Iterator[Run]:
    """Yield the runs of a phrase, in order."""
    start = 0
    depth = 0
    # None behind the last token ends the last run.
    for position, token in enumerate([*phrase, None]):
        if token is not None and _belongs(phrase, start, position, depth):
            depth += (token.kind is Kind.OPEN) - (token.kind is Kind.CLOSE)
            continue
        if any(part.begins_number for part in phrase[start:position]):
            yield _trimmed(Run(phrase, start, position))
        depth = 0
        start = position
        if token is None:
            break
        if not _belongs(phrase, position, position, 0):
            start = position + 1
        elif token.kind is Kind.OPEN:
            depth = 1


def _belongs(phrase: Sequence[Token], start: int, position: int, depth: int) -> bool:
    """Return whether a token goes on with the run that began at `start`."""
    token = phrase[position]
    # A comma inside brackets is part of a pair, and a bracket closes only what was opened.
    if token.kind in (Kind.CLOSE, Kind.COMMA):
        return depth > 0
    if token.kind not in _FORMULA_KINDS:
        return False
    if position == start:
        return True
    previous = phrase[position - 1]
    # "plan B 5 apples": a letter and a number with a space between them are no product.
    is_letter = len(previous.text) == 1 and previous.text.isalpha()
    follows_letter = is_letter and previous.kind is Kind.SYMBOL
    return not (follows_letter and token.spaced and token.begins_number)


def _trimmed(run: Run) -> Run:
    """Return the run without brackets that are closed outside of it: "(3 apples)"."""
    start = run.start
    end = run.end
    unclosed: list[int] = []
    for position, token in enumerate(run.tokens, start):
        if token.kind is Kind.OPEN:
            unclosed.append(position)
        elif token.kind is Kind.CLOSE:
            unclosed.pop()
    while unclosed and unclosed[0] == start:
        unclosed.pop(0)
        start += 1
    while unclosed and unclosed[-1] == end - 1:
        unclosed.pop()
        end -= 1
    return Run(run.phrase, start, end)
