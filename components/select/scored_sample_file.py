"""Scored samples on disk between passes: a round never has to fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from components.contracts.rows import Prompt, Sample
from components.select.scored_samples import (
    BLOCK_SAMPLES,
    Block,
    ScoredSample,
    by_prompt,
)


class ScoredSampleFile:
    """Blocks of samples in a file: written once, in order, then read as often as needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A large buffer: lines are small, and a large round has a million of them.
        self._file: BinaryIO | None = path.open("wb", buffering=2**20)
        self.count = 0
        """Samples written."""
        self.num_hinted = 0
        """Samples written that had a hint."""

    def write(self, block: Block) -> None:
        """Append a block. Not allowed once `blocks` was called."""
        assert self._file is not None, "a file that is being read takes no more samples"
        for group in by_prompt(block):
            self._file.write(_encoded(group))
            if group[0].hinted:
                self.num_hinted += len(group)
        self.count += len(block)

    def blocks(self) -> Iterator[Block]:
        """Yield all samples, in blocks; end the writing."""
        if self._file is not None:
            self._file.close()
            self._file = None
        block: list[ScoredSample] = []
        # Blocks are made anew: after a pass that drops much they would be small.
        with self._path.open("rb", buffering=2**20) as file:
            for line in file:
                group = _decoded(line)
                # The samples of a prompt with and without a hint are two lines, but one block.
                identity = group[0].prompt.id
                if len(block) >= BLOCK_SAMPLES and identity != block[-1].prompt.id:
                    yield block
                    block = []
                block += group
        if block:
            yield block

    def remove(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.close()
        self._path.unlink()


class _Member(BaseModel):
    """The fields of a scored sample that its group does not share."""

    sample: Sample
    answer: str
    weight: float
    scores: dict[str, float]


class _Group(BaseModel):
    """A line of the file: a prompt and its samples, all with a hint or all without."""

    prompt: Prompt
    majority: str
    vote_share: float
    is_tied: bool
    num_samples: int
    pass_rate: float | None
    hinted: bool = False
    members: list[_Member]


def _encoded(group: list[ScoredSample]) -> bytes:
    """Return the line of a `_Group`."""
    first = group[0]
    # Dicts, not the models: building those would take longer than all the rest.
    members = [
        {
            "sample": _fields(scored.sample),
            "answer": scored.answer,
            "weight": scored.weight,
            "scores": dict(scored.scores),
        }
        for scored in group
    ]
    fields = {
        "prompt": _fields(first.prompt),
        "majority": first.majority,
        "vote_share": first.vote_share,
        "is_tied": first.is_tied,
        "num_samples": first.num_samples,
        "pass_rate": first.pass_rate,
        "members": members,
        **({"hinted": True} if first.hinted else {}),
    }
    return json.dumps(fields).encode() + b"\n"


def _fields(row: BaseModel) -> dict[str, Any]:
    """Return the fields of a row as plain JSON values."""
    # A conversation is a model itself; the values of all other fields are plain already, and those
    # of `check`.
    if getattr(row, "conversation", None) is not None:
        return row.model_dump(mode="json")
    check = getattr(row, "check", None)
    if check is not None:
        return {**row.__dict__, "check": check.__dict__}
    return row.__dict__


def _decoded(line: bytes) -> list[ScoredSample]:
    group = _Group.model_validate_json(line)
    return [
        ScoredSample(
            prompt=group.prompt,
            sample=member.sample,
            text=member.sample.text,
            answer=member.answer,
            majority=group.majority,
            vote_share=group.vote_share,
            is_tied=group.is_tied,
            num_samples=group.num_samples,
            pass_rate=group.pass_rate,
            weight=member.weight,
            scores=member.scores,
            hinted=group.hinted,
        )
        for member in group.members
    ]
