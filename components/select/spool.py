"""Candidates on disk: what a round holds never has to fit into memory.

Samples are sorted by prompt without being read whole: each goes to one of a few files by the
beginning of its prompt's id, and one file at a time is sorted in memory. Between stages candidates
lie in a spool, one JSON line per prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from components.common.context import Context
from components.common.errors import Corrupt
from components.common.receipts import Receipt, fetch
from components.common.records import Prompt, R, Sample, TrainingRow, canonical_json, read_rows
from components.select.candidates import Block, Candidate, by_prompt, make_candidates

BUCKET_BYTES = 8 * 2**20
"""Bytes of stored samples and prompts that are in memory at once, as Python objects about five
times as much."""
MAX_BUCKETS = 256
BLOCK_CANDIDATES = 2048
"""A block is closed at the first prompt after so many candidates."""
BATCH_ROWS = 8192
"""Rows of a Parquet shard that are read at once."""


def gather(
    context: Context,
    shards: Iterable[Receipt],
    folder: Path,
    bucket_bytes: int = BUCKET_BYTES,
    prefix: str = "",
) -> Iterator[Block]:
    """All candidates of a round in blocks, ordered by prompt id and sample index whatever the
    shards.

    A shard's rows are in `prompts.jsonl` and `samples.jsonl`, or of large ones in `.parquet` files
    of the same columns; the files' names begin with `prefix`. Raises Corrupt for a row that does
    not fit, a sample without a prompt, or one that comes twice.
    """
    files = [
        (kind, _shard_file(context, shard, prefix + name))
        for shard in shards
        for name, kind in _KINDS
    ]
    size = sum(path.stat().st_size for _, path in files)
    count = min(MAX_BUCKETS, max(1, math.ceil(size / bucket_bytes)))
    if count == 1:
        yield from _blocks(make_candidates(*_joined(files)))
        return
    _part(files, count, folder)
    for number in range(count):
        own = [(kind, folder / f"{name}-{number}.jsonl") for name, kind in _KINDS]
        yield from _blocks(make_candidates(*_joined(own)))
        for _, path in own:
            path.unlink()


_KINDS: tuple[tuple[str, type[Prompt] | type[Sample]], ...] = (
    ("prompts", Prompt),
    ("samples", Sample),
)


def _shard_file(context: Context, shard: Receipt, name: str) -> Path:
    return fetch(
        context, shard, f"{name}.parquet" if f"{name}.parquet" in shard.objects else f"{name}.jsonl"
    )


def rows_of(path: Path, kind: type[R]) -> Iterator[R]:
    """The rows of a JSON Lines or Parquet file of this project, told apart by their first bytes."""
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    return _parquet_rows(path, kind) if is_parquet else read_rows(path, kind)


def _parquet_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """Nested columns (`reference`, `tags`) are JSON text: their keys differ from row to row."""
    import pyarrow
    import pyarrow.parquet
    from pydantic import ValidationError

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    for name in ("reference", "tags"):
                        if isinstance(row.get(name), str):
                            row[name] = json.loads(row[name])
                    yield kind.model_validate(row)
    except (pyarrow.ArrowException, OSError, ValidationError, ValueError) as error:
        said = str(error).splitlines()[0][:200]
        raise Corrupt(f"{path}, row {number}: not a {kind.__name__} row ({said})") from None


def _joined(files: Iterable[tuple[Any, Path]]) -> tuple[dict[str, Prompt], list[Sample]]:
    prompts: dict[str, Prompt] = {}
    samples: list[Sample] = []
    for kind, path in files:
        if kind is Prompt:
            prompts.update((prompt.id, prompt) for prompt in rows_of(path, Prompt))
        else:
            samples += rows_of(path, Sample)
    return prompts, samples


def _part(files: Iterable[tuple[Any, Path]], count: int, folder: Path) -> None:
    """Copy rows to `count` files of prompts and of samples, in the order of prompt ids from file to
    file."""
    with ExitStack() as stack:
        outputs = {
            kind: [
                stack.enter_context((folder / f"{name}-{number}.jsonl").open("wb"))
                for number in range(count)
            ]
            for name, kind in _KINDS
        }
        for kind, path in files:
            key, targets = "id" if kind is Prompt else "prompt_id", outputs[kind]
            for row in rows_of(path, kind):
                targets[_bucket(getattr(row, key), count)].write(
                    row.model_dump_json().encode() + b"\n"
                )


def _bucket(identity: str, count: int) -> int:
    """Which file a prompt goes to. Ids are hex digits of a hash, so files are about equal and in
    order."""
    try:
        return int(identity[:4], 16) * count >> 16
    except ValueError:
        return 0


def _blocks(candidates: list[Candidate]) -> Iterator[Block]:
    block: list[Candidate] = []
    for own in by_prompt(candidates):
        block += own
        if len(block) >= BLOCK_CANDIDATES:
            yield block
            block = []
    if block:
        yield block


class Spool:
    """Blocks of candidates in a file: written once, in order, then read as often as needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = path.open("wb", buffering=2**20)
        self.count = 0
        """Candidates written."""
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
        """All candidates, again in blocks; ends the writing."""
        if self._file is not None:
            self._file.close()
            self._file = None
        block: list[Candidate] = []
        with self._path.open("rb", buffering=2**20) as file:
            for line in file:
                own = _decoded(line)
                if len(block) >= BLOCK_CANDIDATES and own[0].prompt.id != block[-1].prompt.id:
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
    """A line of a spool: one prompt and its candidates."""

    prompt: Prompt
    majority: str
    vote_share: float
    num_samples: int
    pass_rate: float | None
    hinted: bool = False
    members: list[_Member]


def _encoded(own: list[Candidate]) -> bytes:
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
        "num_samples": first.num_samples,
        "pass_rate": first.pass_rate,
        "members": members,
        **({"hinted": True} if first.hinted else {}),
    }
    return json.dumps(group).encode() + b"\n"


def _fields(row: BaseModel) -> dict[str, Any]:
    """The fields of a row whose values are plain JSON."""
    return row.__dict__


def _decoded(line: bytes) -> list[Candidate]:
    group = _Group.model_validate_json(line)
    return [
        Candidate(
            group.prompt,
            one.sample,
            one.sample.text.strip(),
            one.answer,
            group.majority,
            group.vote_share,
            group.num_samples,
            group.pass_rate,
            one.weight,
            one.scores,
            group.hinted,
        )
        for one in group.members
    ]


class RowFile:
    """Training rows in a file, to be gone through as often as needed."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[TrainingRow]:
        for path in self._paths:
            yield from read_rows(path, TrainingRow)


def write_line(file: BinaryIO, row: BaseModel) -> None:
    """Append one row as the canonical JSON line that `read_rows` reads."""
    file.write(canonical_json(row.model_dump(mode="json")) + b"\n")
