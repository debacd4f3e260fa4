"""The champion's files as they are published: numbers of the base's type, the system prompt in the
chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRAINED = "float32"
"""What candidates are kept in: rounded to 16 bits each round, small updates would be lost."""
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types by their name in safetensors."""


def copy_checkpoint(source: Path, folder: Path, dtype: str, system_prompt: str) -> str:
    """Write a clean checkpoint as it is published, and return the type that its weights have.

    That is `dtype`, the base's, unless weights are too large for it. With a system prompt the
    template begins with it wherever a conversation brings none.
    """
    weights = sorted(source.glob("*.safetensors"))
    stored = dtype if _can_be(weights, dtype) else TRAINED
    for path in sorted(source.iterdir()):
        if path not in weights or stored == TRAINED:
            os.link(path, folder / path.name)
        else:
            convert(path, folder / path.name, stored)
    if stored != TRAINED:
        _replace(folder / "config.json", {"dtype": stored})
        _count_again(folder)
    template = folder / "chat_template.jinja"
    if system_prompt and template.is_file():
        text = with_system_prompt(template.read_text(encoding="utf-8"), system_prompt)
        template.unlink()
        template.write_text(text, encoding="utf-8")
    return stored


def with_system_prompt(template: str, system_prompt: str) -> str:
    """Return a chat template that begins with the system prompt where a conversation has none."""
    # JSON's way to write a text is Jinja's as well.
    text = json.dumps(system_prompt, ensure_ascii=False)
    return (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': {text}}}] + messages -%}}"
        f"{{%- endif -%}}{template}"
    )


def convert(source: Path, target: Path, dtype: str) -> None:
    """Write a safetensors file with its float32 tensors in another type, one tensor in memory at a
    time."""
    import torch
    from safetensors import safe_open

    wanted = getattr(torch, dtype)
    with safe_open(source, framework="pt") as file:
        header: dict[str, Any] = {"__metadata__": file.metadata() or {"format": "pt"}}
        end = 0
        names = list(file.keys())
        for name in names:
            part = file.get_slice(name)
            code, shape = part.get_dtype(), list(part.get_shape())
            size = _as_published(file.get_tensor(name), wanted).nbytes
            header[name] = {
                "dtype": CODES[dtype] if code == CODES[TRAINED] else code,
                "shape": shape,
                "data_offsets": [end, end + size],
            }
            end += size
        written = json.dumps(header).encode()
        written += b" " * (-len(written) % 8)
        with target.open("wb") as output:
            output.write(len(written).to_bytes(8, "little") + written)
            for name in names:
                tensor = _as_published(file.get_tensor(name), wanted)
                output.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _as_published(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return tensor.to(dtype).contiguous() if tensor.dtype == torch.float32 else tensor.contiguous()


def _can_be(weights: list[Path], dtype: str) -> bool:
    """Whether every weight stays finite in that type: float16 ends at 65504."""
    if dtype != "float16":
        return dtype in CODES
    import torch
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 — not a dict
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor.half()).all():
                    return False
    return True


def _count_again(folder: Path) -> None:
    """Correct the number of bytes that the index of a sharded checkpoint tells."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        metadata = json.loads(index.read_text(encoding="utf-8")).get("metadata", {})
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        _replace(index, {"metadata": {**metadata, "total_size": size}})


def _replace(path: Path, values: Mapping[str, Any]) -> None:
    """Set keys of a JSON file, which may be a link to a kept object."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document.pop("torch_dtype", None)
    path.unlink()
    path.write_text(json.dumps({**document, **values}, indent=2) + "\n", encoding="utf-8")
