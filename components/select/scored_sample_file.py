"""Scored samples on disk between passes, one JSON line per prompt: a round never has to fit into
memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from components.contracts.rows import Prompt, Sample
from components.select.scored_samples import BLOCK_SAMPLES, Block, ScoredSample, by_prompt


class Spool:
    """Blocks of samples in a file: written once, in order, then read as often as needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = path.open("wb", buffering=2**20)
        self.count = 0
        """Samples written."""
        self.num_hinted = 0
        """How many of them had a hint."""

    def write(self, block: Block) -> None:
        """Append a block."""
        assert self._file is not None, "a spool that is being read takes no more"
        for own in by_prompt(block):
            self._file.write(_encoded(own))
            self.num_hinted += len(own) if own[0].hinted else 0
        self.count += len(block)

    def blocks(self) -> Iterator[Block]:
        """All samples, again in blocks; ends the writing."""
        if self._file is not None:
            self._file.close()
            self._file = None
        block: list[ScoredSample] = []
        with self._path.open("rb", buffering=2**20) as file:
            for line in file:
                own = _decoded(line)
                if len(block) >= BLOCK_SAMPLES and own[0].prompt.id != block[-1].prompt.id:
                    yield block
                    block = []
                block += own
        if block:
            yield block

    def remove(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.close()
        self._path.unlink()


class _Member(BaseModel):
    sample: Sample
    answer: str
    weight: float
    scores: dict[str, float]


class _Group(BaseModel):
    """A line of a spool: one prompt and its samples."""

    prompt: Prompt
    majority: str
    vote_share: float
    is_tied: bool
    num_samples: int
    pass_rate: float | None
    hinted: bool = False
    members: list[_Member]


def _encoded(own: list[ScoredSample]) -> bytes:
    first = own[0]
    # Written by hand: to build the models first would take longer than all the rest.
    members = [
        {
            "sample": _fields(one.sample),
            "answer": one.answer,
            "weight": one.weight,
            "scores": dict(one.scores),
        }
        for one in own
    ]
    group = {
        "prompt": _fields(first.prompt),
        "majority": first.majority,
        "vote_share": first.vote_share,
        "is_tied": first.is_tied,
        "num_samples": first.num_samples,
        "pass_rate": first.pass_rate,
        "members": members,
        **({"hinted": True} if first.hinted else {}),
    }
    return json.dumps(group).encode() + b"\n"


def _fields(row: BaseModel) -> dict[str, Any]:
    """The fields of a row as plain JSON."""
    if getattr(row, "conversation", None) is not None:
        return row.model_dump(mode="json")
    return row.__dict__


def _decoded(line: bytes) -> list[ScoredSample]:
    group = _Group.model_validate_json(line)
    return [
        ScoredSample(
            group.prompt,
            one.sample,
            one.sample.text,
            one.answer,
            group.majority,
            group.vote_share,
            group.is_tied,
            group.num_samples,
            group.pass_rate,
            one.weight,
            one.scores,
            group.hinted,
        )
        for one in group.members
    ]
