"""R3: no corrupted byte is consumed: of receipts, objects and cached files, of the ledger, people's
verdicts, and checkpoints.

Half of the corruptions and more keep the size, and many of a document are valid JSON afterwards.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import RootModel

from components.contracts.reviews import ReviewRow
from components.errors import Corrupt, OlderReceipt
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.ledger import append_line, read_lines
from components.runtime.receipts import Receipt, commit_once, fetch, read_receipt
from components.runtime.reviews import add_verdicts, read_batches
from components.storage import keys
from components.storage.cache import Cache
from tests.promises.counting import Case
from tests.promises.histories import line_of

FILE = "weights.bin"
WEIGHTS = bytes(random.Random(5).randbytes(2048))


class Scores(RootModel[dict[str, float]]):
    """A summary with numbers that a changed digit leaves valid."""


def _work(folder: Path) -> Scores:
    (folder / FILE).write_bytes(WEIGHTS)
    return Scores({"accuracy": 0.8125, "tokens": 1234567.0, "promoted": 1.0})


def committed(context: Context) -> Receipt:
    """Return the receipt of a piece of work, stored and cached."""
    task = Task(run_id="run-1", name="train-r1", round=1)
    return commit_once(
        context, task, "train", config={"steps": 200}, inputs={}, seed=7, work=_work
    )


def _flip_bit(data: bytes, draw: random.Random) -> bytes:
    position = draw.randrange(len(data))
    changed = bytes([data[position] ^ (1 << draw.randrange(8))])
    return data[:position] + changed + data[position + 1 :]


def _other_digit(data: bytes, draw: random.Random) -> bytes:
    digits = [match.start() for match in re.finditer(rb"[0-9]", data)]
    position = draw.choice(digits)
    other = draw.choice([digit for digit in b"123456789" if digit != data[position]])
    return data[:position] + bytes([other]) + data[position + 1 :]


def _zero_block(data: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(data))
    end = min(len(data), begin + draw.randrange(1, 512))
    return data[:begin] + bytes(end - begin) + data[end:]


def _cut_off(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _append(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randrange(1, 64))


def _swap_halves(data: bytes, draw: random.Random) -> bytes:
    middle = draw.randrange(1, len(data))
    return data[middle:] + data[:middle]


Change = Callable[[bytes, random.Random], bytes]
OF_DOCUMENTS: tuple[Change, ...] = (
    _flip_bit,
    _other_digit,
    _other_digit,
    _zero_block,
    _cut_off,
)
OF_BYTES: tuple[Change, ...] = (_flip_bit, _zero_block, _swap_halves, _cut_off, _append)


def cases(
    context: Context,
    store_folder: Path,
    checkpoint: Checkpoint,
    *,
    per_kind: int,
    per_other_kind: int,
) -> Iterator[Case]:
    """Yield corruptions of a store in a folder. They share it, so they run one after the other.

    Args:
        context: Surroundings over that store.
        store_folder: Folder of the store.
        checkpoint: A checkpoint in it.
        per_kind: Cases of each way to change receipts, objects and cached files.
        per_other_kind: Cases of each way to change what is written more rarely.
    """
    receipt = committed(context)
    address = keys.receipt_key(receipt.step, receipt.key)
    ref = receipt.objects[FILE]
    object_path = store_folder / keys.object_key(ref.sha256)
    cached_path = fetch(context, receipt, FILE)
    yield from _changed(
        per_kind,
        _Target(
            "receipt",
            store_folder / address,
            OF_DOCUMENTS,
            partial(_read_it, context, receipt),
        ),
        _Target("object", object_path, OF_BYTES, partial(_fetch_it, context, receipt)),
        _Target("cache", cached_path, OF_BYTES, partial(_use_cache, context, receipt)),
    )
    yield from _changed(
        per_other_kind,
        _line_of_ledger(context, store_folder),
        _batch_of_verdicts(context, store_folder),
        *checkpoint.targets(),
    )


@dataclass(frozen=True)
class _Target:
    """A file that is changed, and a use of it, which returns what is wrong: that it was believed."""

    name: str
    path: Path
    changes: tuple[Change, ...]
    use: Callable[[], str]


def _changed(per_kind: int, *targets: _Target) -> Iterator[Case]:
    for target in targets:
        for way, change in enumerate(target.changes):
            for number in range(per_kind):
                seed = 1_000_000 * way + number
                title = f"{target.name}, {change.__name__.strip('_')}, {number}"
                yield Case(
                    title, partial(_check, target.path, change, seed, target.use)
                )


def _line_of_ledger(context: Context, store_folder: Path) -> _Target:
    assert append_line(context, line_of("changed", 1, "v1"))

    def use() -> str:
        try:
            return f"a changed line was believed: {read_lines(context, 'changed')}"
        except Corrupt:
            return ""

    path = store_folder / keys.release_key("changed", 1)
    return _Target("line of the ledger", path, OF_DOCUMENTS, use)


def _batch_of_verdicts(context: Context, store_folder: Path) -> _Target:
    add_verdicts(context, "run-1", 1, [ReviewRow(id="answer", right=True)])

    def use() -> str:
        try:
            return (
                f"changed verdicts were believed: {read_batches(context, 'run-1', 1)}"
            )
        except Corrupt:
            return ""

    path = store_folder / keys.review_key("run-1", 1, 1)
    return _Target("batch of verdicts", path, OF_DOCUMENTS, use)


class Checkpoint:
    """A real checkpoint of a training that was killed behind it."""

    def __init__(self, context: Context, store_folder: Path) -> None:
        """Save it. `close` ends the process group that a training has."""
        import torch

        from components.train.process.checkpoints import Checkpoints
        from components.train.process.deepspeed_engine import join_processes

        join_processes()
        key = "c" * 64
        self._folder = store_folder / keys.progress_prefix("train", key)
        self._checkpoints = Checkpoints(context, key, zero_stage=0)
        weights = torch.arange(512, dtype=torch.float32)
        self._checkpoints.save(120, [("weight/layer", weights)], {"position": 120})
        self._checkpoints.finish()
        assert self._checkpoints.newest() is not None

    def targets(self) -> list[_Target]:
        """Return its receipt, its tensors and the place in its data."""
        [receipt] = self._folder.glob("step-*.json")
        [tensors] = self._folder.glob("step-*/rank-0-*.safetensors")
        [track] = self._folder.glob("step-*/track.json")
        return [
            _Target("receipt of a checkpoint", receipt, OF_DOCUMENTS, self._use),
            _Target("tensors of a checkpoint", tensors, OF_BYTES, self._use),
            _Target("place in the data", track, OF_DOCUMENTS, self._use),
        ]

    def close(self) -> None:
        """End it."""
        from components.train.process.deepspeed_engine import leave_processes

        self._checkpoints.close()
        leave_processes()

    def _use(self) -> str:
        found = self._checkpoints.newest()
        return (
            ""
            if found is None
            else f"a changed checkpoint was used: step {found.receipt.step}"
        )


def _check(path: Path, change: Change, seed: int, use: Callable[[], str]) -> str:
    original = path.read_bytes()
    changed = change(original, random.Random(seed))
    if changed == original:
        changed = _flip_bit(original, random.Random(seed))
    _write(path, changed)
    try:
        return use()
    finally:
        _write(path, original)


def _write(path: Path, data: bytes) -> None:
    # A new file in its place, as an editor or a restored backup leaves it.
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _read_it(context: Context, receipt: Receipt) -> str:
    try:
        read = read_receipt(context, receipt.ref)
    except (Corrupt, OlderReceipt):
        return ""
    return f"a changed receipt was believed: {read.summary}"


def _fetch_it(context: Context, receipt: Receipt) -> str:
    empty_cache = Cache(context.scratch.parent / "another-cache")
    ref = receipt.objects[FILE]
    try:
        empty_cache.get(
            context.store, keys.object_key(ref.sha256), ref.sha256, ref.size
        )
    except Corrupt:
        return ""
    return "a changed object was used"


def _use_cache(context: Context, receipt: Receipt) -> str:
    # As a new process has it: nothing is known of the files yet.
    cache = Cache(context.cache.folder)
    ref = receipt.objects[FILE]
    path = cache.get(context.store, keys.object_key(ref.sha256), ref.sha256, ref.size)
    return (
        "" if path.read_bytes() == WEIGHTS else "a changed file of the cache was used"
    )
