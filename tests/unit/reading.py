"""Files of data as a person has them, and what the reader makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.contracts.recipe import DataSource
from components.contracts.rows import Dropped
from components.prepare.examples import Example
from components.prepare.readers import read_source

GOOD = b'{"prompt": "2+2", "completion": "4"}\n'


def read(path: Path, **settings: Any) -> tuple[list[Example], list[Dropped]]:
    source = DataSource(uri=f"file://{path}", **settings)
    items = list(read_source(path, source))
    return [item for item in items if isinstance(item, Example)], [
        item for item in items if isinstance(item, Dropped)
    ]


def write(folder: Path, content: bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def as_lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
