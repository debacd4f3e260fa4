"""Base and adapter as one model, and the proof that it is no other.

Tensors go by the names of the plain base.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from components.contracts.recipe import LoraStructure
from components.errors import RatchetError
from components.train.process.adapters import (
    ADAPTER,
    PREFIX,
    factors,
    lora_layers,
    oriented,
    read_adapter,
)


def plain_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint of the model; a shared one under its first name only."""
    names: dict[int, str] = {}
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in names.values()}


def merged_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return W + s·B·A for every adapted weight and all other tensors unchanged.

    Under the names of the plain base (see `plain_state`), in float32, on the CPU. A tensor that was
    not adapted may be the model's own memory.
    """
    layers = lora_layers(model)
    merged: dict[str, Tensor] = {}
    for name, tensor in plain_state(model).items():
        # PEFT keeps an adapted module as `<module>.base_layer`, beside `<module>.lora_A` and B.
        if name.partition(".lora_")[0] in layers:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        value = tensor.float().cpu()
        if owner in layers and leaf == "weight":
            layer = layers[owner]
            a = layer.lora_A[ADAPTER].weight.detach().float().cpu()
            b = layer.lora_B[ADAPTER].weight.detach().float().cpu()
            product = oriented(b @ a, bool(layer.fan_in_fan_out))
            value = value + layer.scaling[ADAPTER] * product
        merged[f"{owner}.{leaf}" if owner else name] = value
    return merged


def verify_merge(
    base: Mapping[str, Tensor], adapter: Path, merged: Mapping[str, Tensor]
) -> None:
    """Raise RatchetError naming a tensor of a merged model that base and adapter do not explain.

    Args:
        base: tensors under the names of `plain_state`.
        adapter: folder of the adapter.
        merged: tensors under the names of `plain_state`.
    """
    # Checked without the trained model. A tensor that the adapter does not touch must equal the
    # base's bit by bit; one that was trained in full, the adapter's.
    parts, tensors = read_adapter(adapter)
    if missing := base.keys() - merged.keys():
        raise RatchetError(
            f"merged model: {min(missing)} is missing from the merged model"
        )
    if unknown := merged.keys() - base.keys():
        raise RatchetError(f"merged model: {min(unknown)} is unknown to the base")
    for name, value in merged.items():
        module, _, leaf = name.rpartition(".")
        if name in parts.unfrozen:
            is_right = _same_bits(value, tensors[PREFIX + name])
        elif leaf == "weight" and module in parts.adapted:
            a, b = factors(tensors, module)
            transposed = parts.adapted[module]
            is_right = _is_merged(value, base[name], a, b, parts.structure, transposed)
        else:
            is_right = _same_bits(value, base[name])
        if not is_right:
            raise RatchetError(
                f"merged model: {name} is not what base and adapter say; nothing was exported"
            )


def _same_bits(value: Tensor, expected: Tensor) -> bool:
    if value.shape != expected.shape:
        return False
    # As bytes: NaN is no equal of itself, and -0 is one of 0.
    same_type = expected.to(value.dtype)
    return bool(torch.equal(_bytes_of(value), _bytes_of(same_type)))


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


def _is_merged(
    value: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    structure: LoraStructure,
    transposed: bool,
) -> bool:
    """Return True if `value` is W + s·B·A, up to what rounding may cost."""
    if value.shape != weight.shape:
        return False
    weight = weight.cpu().double()
    expected = weight + structure.scale * oriented(b @ a, transposed)
    # (rank + 4)·ε·(|W| + s·|B|·|A|), element by element, with ε of the merged model's type: a bound
    # of the error of `rank` products, their sum, and the addition to W.
    product_size = oriented(b.abs() @ a.abs(), transposed)
    size = weight.abs() + structure.scale * product_size
    bound = (structure.rank + 4) * torch.finfo(value.dtype).eps * size
    error = (value.cpu().double() - expected).abs()
    return bool((error <= bound).all())
