"""The samples of a round, joined with their prompts and in order, whatever the shards.

They are sorted by prompt without being read whole: each goes to one of a few files by the
beginning of its prompt's id, and one file at a time is sorted in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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
"""Bytes of stored samples and prompts that are in memory at once, as Python objects about five
times as much."""
MAX_BUCKETS = 256


def gather(
    context: Context,
    shards: Iterable[Receipt],
    folder: Path,
    bucket_bytes: int = BUCKET_BYTES,
    prefix: str = "",
) -> Iterator[Block]:
    """All samples of a round in blocks, ordered by prompt id and sample index whatever the
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
        yield from _blocks(make_scored_samples(*_joined(files)))
        return
    _part(files, count, folder)
    for number in range(count):
        own = [(kind, folder / f"{name}-{number}.jsonl") for name, kind in _KINDS]
        yield from _blocks(make_scored_samples(*_joined(own)))
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


def _blocks(samples: list[ScoredSample]) -> Iterator[Block]:
    block: list[ScoredSample] = []
    for own in by_prompt(samples):
        block += own
        if len(block) >= BLOCK_SAMPLES:
            yield block
            block = []
    if block:
        yield block
