"""R3: no corrupted byte of a receipt, an object or a cached file is consumed.

Half of the corruptions and more keep the size, and many of a receipt are valid JSON afterwards.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import RootModel

from components.errors import Corrupt, OlderReceipt
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch, read_receipt
from components.storage import keys
from components.storage.cache import Cache
from tests.promises.counting import Case

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
    return commit_once(context, task, "train", config={"steps": 200}, inputs={}, seed=7, work=_work)


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
OF_RECEIPTS: tuple[Change, ...] = (_flip_bit, _other_digit, _other_digit, _zero_block, _cut_off)
OF_BYTES: tuple[Change, ...] = (_flip_bit, _zero_block, _swap_halves, _cut_off, _append)


def cases(context: Context, store_folder: Path, per_kind: int) -> Iterator[Case]:
    """Yield corruptions of a store in a folder. They share it, so they run one after the other.

    Args:
        context: Surroundings over that store.
        store_folder: Folder of the store.
        per_kind: Cases of each way to change each of the three kinds of file.
    """
    receipt = committed(context)
    address = keys.receipt_key(receipt.step, receipt.key)
    ref = receipt.objects[FILE]
    object_path = store_folder / keys.object_key(ref.sha256)
    cached_path = fetch(context, receipt, FILE)
    targets = (
        ("receipt", store_folder / address, OF_RECEIPTS, partial(_read_it, context, receipt)),
        ("object", object_path, OF_BYTES, partial(_fetch_it, context, receipt)),
        ("cache", cached_path, OF_BYTES, partial(_use_cache, context, receipt)),
    )
    for name, path, changes, use in targets:
        for way, change in enumerate(changes):
            for number in range(per_kind):
                seed = 1_000_000 * way + number
                title = f"{name}, {change.__name__.strip('_')}, {number}"
                yield Case(title, partial(_check, path, change, seed, use))


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
        empty_cache.get(context.store, keys.object_key(ref.sha256), ref.sha256, ref.size)
    except Corrupt:
        return ""
    return "a changed object was used"


def _use_cache(context: Context, receipt: Receipt) -> str:
    # As a new process has it: nothing is known of the files yet.
    cache = Cache(context.cache.folder)
    ref = receipt.objects[FILE]
    path = cache.get(context.store, keys.object_key(ref.sha256), ref.sha256, ref.size)
    return "" if path.read_bytes() == WEIGHTS else "a changed file of the cache was used"
