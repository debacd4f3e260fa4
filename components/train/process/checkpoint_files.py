"""Files of a training checkpoint: its receipt, and tensors in files of a bounded size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue
from safetensors import safe_open
from torch import Tensor

from components.runtime.stored_files import ObjectRef

PART_BYTES = 1 << 28
"""A share is written in files of about this size; each leaves memory as soon as it is stored."""

Refs = dict[str, ObjectRef]
"""File name → digest and size."""


class ProgressReceipt(BaseModel):
    """The receipt of one checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    step: int
    """Optimizer steps done."""
    world_size: int
    zero_stage: int
    objects: Refs


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A checkpoint on this node's disk, verified."""

    receipt: ProgressReceipt
    folder: Path

    @property
    def track(self) -> dict[str, JsonValue]:
        """Return the loop's `Track` as JSON."""
        text = (self.folder / "track.json").read_text(encoding="utf-8")
        document: dict[str, JsonValue] = json.loads(text)
        return document

    def tensors(self) -> dict[str, Callable[[], Tensor]]:
        """Return name → reader of every stored tensor."""
        readers: dict[str, Callable[[], Tensor]] = {}
        for path in sorted(self.folder.glob("rank-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = file.keys()
            readers |= {name: _reader(path, name) for name in names}
        return readers


def parts_of(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors in parts of about PART_BYTES, at least one part."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        part[name] = tensor.contiguous()
        size += tensor.numel() * tensor.element_size()
        if size >= PART_BYTES:
            yield part
            part = {}
            size = 0
    yield part


def _reader(path: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            value: Tensor = file.get_tensor(name)
            return value

    return read
