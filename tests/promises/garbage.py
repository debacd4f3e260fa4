"""S1: whatever a data file holds, each of its rows is counted as kept or rejected."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from components.contracts.recipe import DataSource
from components.contracts.rows import Dropped
from components.prepare.readers import read_source
from tests.promises.counting import Case

TEXTS = (
    "2+2",
    "",
    " ",
    "\ud800",
    "\udfff\ud800",
    "\x00\x1b[31m",
    "\u202e\u2066",
    "a" * 5000,
    "{{$.inputs}}",
    "<|im_end|>",
    "\ufeff",
    "\u2028line\u2029",
    "'; DROP TABLE",
    "../../etc/passwd",
)
NUMBERS = (0, -1, 10**400, 1e308, float("inf"), float("nan"), -0.0, 2**63)
GOOD = b'{"prompt": "2+2", "completion": "4"}\n'
NAMES = (
    "prompt",
    "completion",
    "text",
    "label",
    "messages",
    "question",
    "answer",
    "id",
    "\ud800",
)


def cases(folder: Path, count: int, seed: int = 0) -> Iterator[Case]:
    """Yield generated files of one document each: JSON of any shape, and JSON that was damaged."""
    for number in range(count):
        yield Case(f"document {number}", partial(_check, folder, seed + number))


def _check(folder: Path, seed: int) -> str:
    draw = random.Random(seed)
    # A file without any usable row is refused as a whole, so each has one.
    content = GOOD + _document(draw)
    path = folder / f"{seed}.jsonl"
    path.write_bytes(content)
    num_lines = content.count(b"\n") + (not content.endswith(b"\n"))
    try:
        source = DataSource(uri=path.as_uri(), format="jsonl")
        items = list(read_source(path, source))
    finally:
        path.unlink()
    if len(items) != num_lines:
        return f"{len(items)} of {num_lines} rows are counted: {content[:80]!r}"
    for item in items:
        if isinstance(item, Dropped):
            if not item.reason:
                return "a row was rejected without a reason"
        else:
            # What is kept has to be writable.
            f"{item.prompt}{item.completion}".encode()
    return ""


def _document(draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return draw.randbytes(draw.randrange(1, 200)).replace(b"\n", b"") + b"\n"
        case 1:
            return b"[" * draw.randrange(1, 50_000) + b"\n"
        case _:
            text = json.dumps(_row(draw), ensure_ascii=draw.random() < 0.5)
    data = text.encode("utf-8", errors="surrogatepass")
    if draw.random() < 0.3:
        position = draw.randrange(len(data))
        data = (
            data[:position]
            + draw.randbytes(draw.randrange(1, 4))
            + data[position + 1 :]
        )
    if draw.random() < 0.1:
        data = data[: draw.randrange(1, len(data) + 1)]
    return data + b"\n" * draw.randrange(3)


def _row(draw: random.Random) -> Any:
    if draw.random() < 0.1:
        return _value(draw, 0)
    return {draw.choice(NAMES): _value(draw, 0) for _ in range(draw.randrange(5))}


def _value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(4 if depth > 3 else 7)
    if kind < 2:
        return draw.choice(TEXTS)
    if kind < 4:
        return draw.choice((*NUMBERS, None, True, False))
    if kind == 4:
        return {
            draw.choice(NAMES): _value(draw, depth + 1)
            for _ in range(draw.randrange(3))
        }
    if kind == 5:
        return [_value(draw, depth + 1) for _ in range(draw.randrange(3))]
    role = draw.choice(("user", "assistant", "system", "\ud800", "", 3))
    return [{"role": role, "content": _value(draw, depth + 1)}]
