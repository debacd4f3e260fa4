"""Files as other programs write them, and the questions and answers that are read of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from components.contracts.recipe import DataSource
from components.contracts.rows import Dropped
from components.prepare.examples import Example
from components.prepare.readers import read_source


def read(path: Path, **settings: Any) -> tuple[list[Example], list[Dropped]]:
    items = list(read_source(path, DataSource(uri=str(path), **settings)))
    examples = [item for item in items if isinstance(item, Example)]
    return examples, [item for item in items if isinstance(item, Dropped)]


def pairs(path: Path, **settings: Any) -> list[tuple[str, str | None]]:
    examples, rejected = read(path, **settings)
    assert not rejected
    return [(example.prompt, example.completion) for example in examples]


def as_lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path
