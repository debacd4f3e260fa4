"""The weight files of a checkpoint's folder, found without torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

from components.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the weight files that transformers loads from a folder, without their index.

    Raises UserError if there is none, if it cannot be told which of two sets is meant, if a shard
    is missing, or if an adapter lies beside the base.
    """
    # transformers would load the base alone and not say a word of the adapter.
    adapters = sorted(path.name for path in folder.glob("adapter_*"))
    if adapters:
        raise UserError(
            f"model {name}: {adapters[0]} is an adapter, which would not be used: merge it into "
            "the base (peft's merge_and_unload) and give the merged model, or remove it"
        )
    single = folder / SINGLE
    index = folder / INDEX
    if single.is_file() and index.is_file():
        raise UserError(
            f"model {name}: both {SINGLE} and {INDEX} are there, so the weights are there twice: "
            "remove the older set"
        )
    if index.is_file():
        return [_shard(folder, shard, name) for shard in _shards_of(index, name)]
    if single.is_file():
        return [single]
    raise UserError(f"model {name}: {_why_no_weights(folder)}")


def _shards_of(index: Path, name: str) -> list[str]:
    try:
        shard_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in shard_of.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"model {name}: {INDEX} is not the index of a sharded checkpoint ({error!r})"
        ) from None
    if not shards:
        raise UserError(f"model {name}: {INDEX} names no shard")
    return shards


def _shard(folder: Path, shard: str, name: str) -> Path:
    path = folder / shard
    # The index comes with the model: it must not lead out of the folder, or to a pickle.
    if Path(shard).name != shard or path.suffix != ".safetensors":
        raise UserError(
            f"model {name}: {INDEX} names {shard!r}, which is no safetensors file of the same "
            "folder"
        )
    if not path.is_file():
        raise UserError(
            f"model {name}: {shard} is missing, which {INDEX} names: fetch or upload it again"
        )
    return path


def _why_no_weights(folder: Path) -> str:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    shards = [file for file in files if _SHARD.fullmatch(file)]
    safetensors = [file for file in files if file.endswith(".safetensors")]
    pickled = [file for file in files if file.endswith(PICKLED)]
    if shards:
        return (
            f"{shards[0]} is a shard, and {INDEX} is missing: fetch or upload it again"
        )
    if safetensors:
        return (
            f"{safetensors[0]} is not where transformers looks for weights: {SINGLE}, or {INDEX} "
            "with its shards"
        )
    content = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
    return (
        f"{content}; give a folder with *.safetensors (convert it where you trust it)"
    )
