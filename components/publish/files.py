"""The champion's files as they are published: numbers of the base's type, and the system prompt in
the chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

if TYPE_CHECKING:
    import torch

# Rounded to 16 bits each round, small updates of the weights would be lost.
TRAINED = "float32"
"""Type of a candidate's weights."""
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Type → its name in safetensors."""
HEADER_ALIGNMENT = 8
"""Bytes to a multiple of which the header of a safetensors file is filled."""


def copy_checkpoint(source: Path, folder: Path, dtype: str, system_prompt: str) -> str:
    """Write a clean checkpoint as it is published, and return the type that its weights have.

    Args:
        source: Folder of the checkpoint.
        folder: Empty folder for the copy.
        dtype: Type of the base's weights, which the copy has too unless weights are too large
            for it.
        system_prompt: Text with which the chat template begins wherever a conversation brings no
            system prompt; empty for none.
    """
    weights = sorted(source.glob("*.safetensors"))
    stored = dtype if _can_be(weights, dtype) else TRAINED
    for path in sorted(source.iterdir()):
        if path not in weights or stored == TRAINED:
            # Stored objects are never changed, so a link is as good as a copy of gigabytes.
            os.link(path, folder / path.name)
        else:
            convert(path, folder / path.name, stored)
    if stored != TRAINED:
        _replace(folder / "config.json", {"dtype": stored})
        _count_again(folder)
    template = folder / "chat_template.jinja"
    if system_prompt and template.is_file():
        text = with_system_prompt(template.read_text(encoding="utf-8"), system_prompt)
        # The file is a link: writing into it would change the stored object.
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
    """Write a safetensors file with its float32 tensors in another type.

    Args:
        source: The file.
        target: Path of the new file.
        dtype: The type, a key of CODES.
    """
    import torch
    from safetensors import safe_open

    # safetensors' own writer takes all tensors at once. Here one is in memory at a time, once to
    # learn its size for the header, which comes first, and once to be written.
    torch_dtype = getattr(torch, dtype)
    with safe_open(source, framework="pt") as file:
        header: dict[str, JsonValue] = {
            "__metadata__": file.metadata() or {"format": "pt"}
        }
        begin = 0
        names = list(file.keys())
        for name in names:
            tensor_slice = file.get_slice(name)
            code = tensor_slice.get_dtype()
            if code == CODES[TRAINED]:
                code = CODES[dtype]
            end = begin + _as_published(file.get_tensor(name), torch_dtype).nbytes
            header[name] = {
                "dtype": code,
                "shape": list(tensor_slice.get_shape()),
                "data_offsets": [begin, end],
            }
            begin = end
        header_bytes = json.dumps(header).encode()
        header_bytes += b" " * (-len(header_bytes) % HEADER_ALIGNMENT)
        with target.open("wb") as output:
            output.write(len(header_bytes).to_bytes(8, "little"))
            output.write(header_bytes)
            for name in names:
                tensor = _as_published(file.get_tensor(name), torch_dtype)
                # As bytes: NumPy has no bfloat16.
                output.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _as_published(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    # Integers, such as a quantisation's tables, and wider floats stay as they are.
    return (
        tensor.to(dtype).contiguous()
        if tensor.dtype == torch.float32
        else tensor.contiguous()
    )


def _can_be(weights: list[Path], dtype: str) -> bool:
    """Return True if every weight stays finite in that type."""
    # The range of bfloat16 is that of float32; float16 ends at 65504.
    if dtype != "float16":
        return dtype in CODES
    import torch
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 — not a dict
                tensor = file.get_tensor(name)
                if (
                    tensor.is_floating_point()
                    and not torch.isfinite(tensor.half()).all()
                ):
                    return False
    return True


def _count_again(folder: Path) -> None:
    """Correct the number of bytes in the index of a sharded checkpoint."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    metadata = json.loads(index.read_text(encoding="utf-8")).get("metadata", {})
    total_size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    _replace(index, {"metadata": {**metadata, "total_size": total_size}})


def _replace(path: Path, values: Mapping[str, JsonValue]) -> None:
    """Set keys of a JSON file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    # The older name of `dtype`, which some libraries read first.
    document.pop("torch_dtype", None)
    # The file may be a link to a stored object, which must not change.
    path.unlink()
    path.write_text(
        json.dumps({**document, **values}, indent=2) + "\n", encoding="utf-8"
    )
