"""Raw text as a campaign of its own: cut into blocks, whose stretches are divided into splits.

Neighbouring blocks are about the same things. So they go to one split in stretches, and where
taught text meets measured text a block between them is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from components.canonical import derived_seed
from components.contracts.recipe import DataSection, Fractions, TextBlocks
from components.contracts.rows import Dropped, Split, front_of
from components.prepare.examples import Block, Example
from components.prepare.splits import Assigned, Target, dropped

TAUGHT = ("train", "unlabelled")
"""Splits whose texts may stand beside each other: a model may know both."""
JOINT = "\n\n"
"""Between paragraphs that a block joins."""


@dataclass(frozen=True)
class _Piece:
    """A block on its way to a split."""

    target: Target
    example: Example
    document: int
    """Number of its source: blocks of one source in a row are neighbours."""

    @property
    def stretch(self) -> str:
        """Name of its stretch."""
        assert self.example.block is not None, "a piece is a block"
        return self.example.block.stretch


def in_blocks(
    items: Iterable[Assigned | Dropped], section: DataSection, seed: int
) -> Iterator[Assigned | Dropped]:
    """Yield examples as they come; of data that is raw text alone its blocks, each with its split.

    Unlabelled texts beside it are beginnings, which the model goes on with.

    Args:
        items: Examples with their splits, source by source, and rows that were dropped already.
        section: Sizes of blocks, and shares of the splits.
        seed: Another seed divides otherwise.
    """
    held: list[Assigned | Dropped] = []
    iterator = iter(items)
    for item in iterator:
        held.append(item)
        # One question, and it is no campaign of text: nothing more needs to be held in memory.
        if not isinstance(item, Dropped) and item[1].prompt and not _is_beginning(item):
            yield from held
            yield from iterator
            return
    assigned = [item for item in held if not isinstance(item, Dropped)]
    beginnings = [example for target, example in assigned if example.prompt]
    if len(beginnings) == len(assigned):
        # Unlabelled prompts alone: no text makes beginnings of them.
        yield from held
        return
    yield from (item for item in held if isinstance(item, Dropped))
    yield from (("unlabelled", _as_block(example)) for example in beginnings)
    pieces = list(
        _pieces([item for item in assigned if not item[1].prompt], section.text)
    )
    yield from _apart(_divided(pieces, section.fractions, seed))


def _is_beginning(item: Assigned) -> bool:
    """Return True for an unlabelled text, which is a question where there are others."""
    target, example = item
    return (
        target == "unlabelled"
        and example.completion is None
        and example.conversation is None
    )


def _as_block(example: Example) -> Example:
    """Return an unlabelled text as a block that is all beginning."""
    block = Block(
        beginning=example.prompt, stretch=f"beginning-{example.identity}", goes_on=True
    )
    return replace(example, prompt="", completion=example.prompt, block=block)


def _pieces(texts: Sequence[Assigned], sizes: TextBlocks) -> Iterator[_Piece]:
    """Yield the blocks of all sources."""
    grouped = itertools.groupby(
        texts, key=lambda item: (item[0], item[1].provenance.get("uri"))
    )
    for number, ((target, uri), group) in enumerate(grouped):
        examples = [example for _, example in group]
        for index, (example, text, goes_on) in enumerate(
            _blocks(examples, sizes.block)
        ):
            block = Block(
                beginning=front_of(text, sizes.beginning),
                stretch=f"{number}-{index // sizes.stretch}",
                goes_on=goes_on,
            )
            provenance = {"uri": uri, "place": example.provenance.get("place")}
            piece = replace(
                example, completion=text, block=block, provenance=provenance
            )
            yield _Piece(target, piece, number)


def _blocks(
    examples: Sequence[Example], size: int
) -> Iterator[tuple[Example, str, bool]]:
    """Yield (row that a block begins in, text, whether its document goes on behind it)."""
    for documents in _documents(examples):
        text = JOINT.join(example.completion or "" for example in documents)
        # Where each row begins in the text, to say where a block is from.
        starts = [0]
        for example in documents[:-1]:
            starts.append(starts[-1] + len(example.completion or "") + len(JOINT))
        position = 0
        row = 0
        while position < len(text):
            # A rest that makes less than half a block belongs to the last one.
            is_last = len(text) - position < size * 3 // 2
            # One character more tells whether a word ends there. Not all the rest: a book would be
            # copied once for every block.
            ahead = text[position : position + size + 1]
            block = text[position:] if is_last else front_of(ahead, size)
            while row + 1 < len(starts) and starts[row + 1] <= position:
                row += 1
            position += len(block)
            if block.strip():
                yield documents[row], block, position < len(text)


def _documents(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Yield the rows of each document: paragraphs of a file are one, any other row is its own."""
    for is_paragraph, group in itertools.groupby(
        examples, key=lambda one: one.is_paragraph
    ):
        if is_paragraph:
            yield list(group)
        else:
            yield from ([example] for example in group)


def _divided(pieces: Sequence[_Piece], fractions: Fractions, seed: int) -> list[_Piece]:
    """Return the blocks with a split for each of those that have none yet."""
    stretches = {piece.stretch: piece for piece in pieces if _is_undivided(piece)}
    # By a digest, which says nothing about the place in the text.
    ordered = sorted(stretches, key=lambda name: derived_seed("stretch", seed, name))
    present = {piece.target for piece in pieces}
    splits = dict(zip(ordered, _quotas(len(ordered), fractions, present), strict=True))
    return [
        replace(piece, target=splits[piece.stretch]) if _is_undivided(piece) else piece
        for piece in pieces
    ]


def _is_undivided(piece: _Piece) -> bool:
    return piece.target == "auto"


def _quotas(count: int, fractions: Fractions, present: set[Target]) -> list[Split]:
    """Return as many splits as there are stretches, each as often as its share says."""
    # Without a share of their own the beginnings of taught blocks are continued: a text has more
    # than one continuation.
    shares: dict[Split, float] = {
        "validation": fractions.validation,
        "test": fractions.test,
        "dev": fractions.dev,
        "unlabelled": fractions.unlabelled or 0.0,
    }
    quotas: list[Split] = []
    for split, share in shares.items():
        # Files of their own decide about a split that they are given for.
        if share and split not in present:
            quotas += [split] * max(1, round(share * count))
    # What rounding leaves over is not taught where nothing is to be.
    last: Split = "train" if fractions.train else "validation"
    rest: list[Split] = [last] * max(0, count - len(quotas))
    return [*quotas, *rest][:count]


def _apart(pieces: Sequence[_Piece]) -> Iterator[Assigned | Dropped]:
    """Yield the blocks, without those that stand between two splits."""
    left_out: set[int] = set()
    for index, (first, second) in enumerate(itertools.pairwise(pieces)):
        is_taught = (first.target in TAUGHT, second.target in TAUGHT)
        if (
            first.document != second.document
            or first.target == second.target
            or all(is_taught)
        ):
            continue
        if index not in left_out:
            left_out.add(index if is_taught[0] else index + 1)
    for index, piece in enumerate(pieces):
        if index in left_out:
            detail = f"it stands beside a block of another split than its own, {piece.target}"
            yield dropped("between_splits", detail, piece.example)
        else:
            yield piece.target, piece.example
