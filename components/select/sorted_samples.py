"""The samples of a round, joined with their prompts and in order, whatever the shards.

They never have to fit into memory: each sample goes to one of a few files by the beginning of its
prompt's id, and one file at a time is sorted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from components.contracts.rows import Prompt, Sample
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.select.scored_samples import (
    BLOCK_SAMPLES,
    Block,
    ScoredSample,
    by_prompt,
    make_scored_samples,
)
from components.select.shard_rows import rows_of

BUCKET_BYTES = 8 * 2**20
"""Bytes of stored samples and prompts that are in memory at once. As Python objects they take about
five times as much."""
MAX_BUCKETS = 256
"""Every bucket has two files open at once; the usual limit is 1,024 open files."""


def gather(
    context: Context,
    shards: Iterable[Receipt],
    folder: Path,
    bucket_bytes: int = BUCKET_BYTES,
    prefix: str = "",
) -> Iterator[Block]:
    """Yield all samples of a round in blocks, ordered by prompt id and sample index.

    Args:
        context: Store of the shards.
        shards: Receipts with `prompts.jsonl` and `samples.jsonl`, or `.parquet` files of the same
            columns.
        folder: An empty folder.
        bucket_bytes: Bytes of rows that may be in memory at once.
        prefix: Beginning of the files' names.

    Raises:
        Corrupt: A row does not fit its model, or a sample has no prompt or comes twice.
    """
    files = [
        (kind, _shard_file(context, shard, prefix + name))
        for shard in shards
        for name, kind in _KINDS
    ]
    size = sum(path.stat().st_size for _, path in files)
    num_buckets = max(1, math.ceil(size / bucket_bytes))
    count = min(MAX_BUCKETS, num_buckets)
    # Most rounds fit into memory: they are sorted without a copy on disk.
    if count == 1:
        yield from _blocks(make_scored_samples(*_joined(files)))
        return
    _distribute(files, count, folder)
    for number in range(count):
        # Buckets are ranges of ids: one after the other they are in order.
        bucket = [(kind, _bucket_file(folder, name, number)) for name, kind in _KINDS]
        yield from _blocks(make_scored_samples(*_joined(bucket)))
        for _, path in bucket:
            path.unlink()


Kind = type[Prompt] | type[Sample]
"""Model of the rows of a file."""
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("prompts", Prompt),
    ("samples", Sample),
)


def _shard_file(context: Context, shard: Receipt, name: str) -> Path:
    parquet = f"{name}.parquet"
    return fetch(
        context, shard, parquet if parquet in shard.objects else f"{name}.jsonl"
    )


def _joined(
    files: Iterable[tuple[Kind, Path]],
) -> tuple[dict[str, Prompt], list[Sample]]:
    """Return (prompt id → prompt, samples) of (row model, file) pairs."""
    prompts: dict[str, Prompt] = {}
    samples: list[Sample] = []
    for kind, path in files:
        if kind is Prompt:
            prompts.update((prompt.id, prompt) for prompt in rows_of(path, Prompt))
        else:
            samples += rows_of(path, Sample)
    return prompts, samples


def _distribute(files: Iterable[tuple[Kind, Path]], count: int, folder: Path) -> None:
    """Copy rows to `count` files of prompts and `count` files of samples, by ranges of prompt ids.

    Args:
        files: (row model, file) pairs.
        count: Number of ranges.
        folder: Where the files are written.
    """
    with ExitStack() as stack:
        outputs = {
            kind: [
                stack.enter_context(_bucket_file(folder, name, number).open("wb"))
                for number in range(count)
            ]
            for name, kind in _KINDS
        }
        # By ranges alone: each file is sorted when it is read.
        for kind, path in files:
            id_field = "id" if kind is Prompt else "prompt_id"
            for row in rows_of(path, kind):
                output = outputs[kind][_bucket(getattr(row, id_field), count)]
                output.write(row.model_dump_json().encode() + b"\n")


def _bucket_file(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number}.jsonl"


def _bucket(identity: str, count: int) -> int:
    """Return the number of the file for a prompt id, in ascending order of ids."""
    try:
        # Ids are hex digits of a hash: equal ranges of ids hold about equally many prompts.
        return int(identity[:4], 16) * count >> 16
    except ValueError:
        # Ids of another kind, as in files made by hand: there are few of them.
        return 0


def _blocks(samples: list[ScoredSample]) -> Iterator[Block]:
    block: list[ScoredSample] = []
    for group in by_prompt(samples):
        block += group
        if len(block) >= BLOCK_SAMPLES:
            yield block
            block = []
    if block:
        yield block
