"""The stretches of an encoded row whose words augmentation may change."""

from __future__ import annotations

from collections.abc import Sequence

from components.canonical import JsonObject
from components.contracts.rows import TrainingRow
from components.modeling.chat_template import PROBE
from components.modeling.encoding import Codec, Encoded, Span, Turns


def changeable_spans(
    row: TrainingRow,
    pieces: Sequence[Encoded],
    codec: Codec,
    turns: Turns,
    *,
    prompts: bool,
) -> list[tuple[Span, ...]]:
    """Return the stretches of each piece of a row.

    Raw text may be changed as a whole; of any other row the last message of the user, if `prompts`
    says so. Whatever the template writes is left alone, and so are answers.

    Args:
        row: the training row.
        pieces: the row, encoded.
        codec: that encoded it.
        turns: of a conversation, the assistant's turns that bear loss.
        prompts: words of prompts may be changed.
    """
    if row.is_text or not row.prompt:
        # The first token has nothing before it that it could be predicted from.
        return [((1, len(piece.ids)),) for piece in pieces]
    nothing: list[tuple[Span, ...]] = [() for _ in pieces]
    other_row = _with_other_prompt(row) if prompts else None
    if other_row is None:
        return nothing
    # What the same row has in common with one of another prompt is none of the prompt.
    other_pieces = codec.encode(other_row, turns)
    if len(other_pieces) != len(pieces):
        return nothing
    return [
        _differing_span(piece, other)
        for piece, other in zip(pieces, other_pieces, strict=True)
    ]


def _with_other_prompt(row: TrainingRow) -> TrainingRow | None:
    """Return the row with another last message of the user; None where that is no plain text."""
    changes: JsonObject = {"prompt": PROBE}
    if row.conversation is not None:
        messages = list(row.conversation.messages)
        of_user = [
            index for index, message in enumerate(messages) if message["role"] == "user"
        ]
        if not of_user or not isinstance(messages[of_user[-1]].get("content"), str):
            return None
        messages[of_user[-1]] = {**messages[of_user[-1]], "content": PROBE}
        update = {"messages": tuple(messages)}
        changes["conversation"] = row.conversation.model_copy(update=update)
    return row.model_copy(update=changes)


def _differing_span(piece: Encoded, other: Encoded) -> tuple[Span, ...]:
    """Return the stretch of a piece that another one does not have, if no token of it bears loss."""
    num_common = min(len(piece.ids), len(other.ids))
    start = _num_equal(piece.ids, other.ids)
    at_end = _num_equal(piece.ids[::-1], other.ids[::-1])
    # A token in the middle may be equal to both, and counts once.
    end = len(piece.ids) - min(at_end, num_common - start)
    in_gap = any(first <= start and end <= last for first, last in piece.gaps)
    is_masked = end <= piece.num_masked or in_gap
    return ((start, end),) if start < end and is_masked else ()


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens that two sequences have in common at their front."""
    for index, (token, other) in enumerate(zip(first, second, strict=False)):
        if token != other:
            return index
    return min(len(first), len(second))
