"""Whether a checkpoint is whole: which weight files transformers loads, and that they fill its
model."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from components.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Kinds of numbers that can be trained: safetensors' name → torch's."""
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_NAMED = 3
"""So many tensors are named in a message; the rest are counted."""


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the weight files that transformers loads of a folder, its index not among them.

    Raises UserError where there is none, where it cannot be told which of two sets is meant, where
    a shard is missing, or where an adapter lies beside the base, which would not be used.
    """
    adapters = sorted(path.name for path in folder.glob("adapter_*"))
    if adapters:
        raise UserError(
            f"model {name}: {adapters[0]} is an adapter, which would not be used: merge it into the base "
            "(peft's merge_and_unload) and give the merged model, or remove it"
        )
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise UserError(
            f"model {name}: both {SINGLE} and {INDEX} are there, so the weights are there twice: remove the "
            "older set"
        )
    if index.is_file():
        return [_shard(folder, shard, name) for shard in _shards_of(index, name)]
    if single.is_file():
        return [single]
    raise UserError(f"model {name}: {_why_none(folder)}")


def _shards_of(index: Path, name: str) -> list[str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted({str(shard) for shard in places})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"model {name}: {INDEX} is not the index of a sharded checkpoint ({error!r})"
        ) from None
    if not shards:
        raise UserError(f"model {name}: {INDEX} names no shard")
    return shards


def _shard(folder: Path, shard: str, name: str) -> Path:
    path = folder / shard
    if Path(shard).name != shard or path.suffix != ".safetensors":
        raise UserError(
            f"model {name}: {INDEX} names {shard!r}, which is no safetensors file of the same folder"
        )
    if not path.is_file():
        raise UserError(
            f"model {name}: {shard} is missing, which {INDEX} names: fetch or upload it again"
        )
    return path


def _why_none(folder: Path) -> str:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    shards = [file for file in files if _SHARD.fullmatch(file)]
    others = [file for file in files if file.endswith(".safetensors")]
    pickled = [file for file in files if file.endswith(PICKLED)]
    if shards:
        return f"{shards[0]} is a shard, and {INDEX} is missing: fetch or upload it again"
    if others:
        return f"{others[0]} is not where transformers looks for weights: {SINGLE}, or {INDEX} with its shards"
    found = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
    return f"{found}; give a folder with *.safetensors (convert it where you trust it)"


def stored_dtype(files: Iterable[Path], name: str) -> str:
    """Return the type that most weights are stored in, by torch's name of it.

    Raises UserError for a file that is not whole, and for weights that are stored in other than
    floating-point numbers of 16 bits or more: they cannot be trained.
    """
    sizes = Counter[str]()
    for path in files:
        for tensor, kind, size in _header(path, name):
            if kind.startswith("F8") or (
                kind not in FLOATS and tensor.endswith(("weight", "weight_packed", "qweight"))
            ):
                raise UserError(
                    f"model {name}: {tensor} is stored as {kind}, which cannot be trained: give the model "
                    "that this one was quantised from"
                )
            if kind in FLOATS:
                sizes[FLOATS[kind]] += size
    return sizes.most_common(1)[0][0] if sizes else "float32"


def _header(path: Path, name: str) -> Iterator[tuple[str, str, int]]:
    """(name, kind of number, number of elements) of every tensor of a file; no weight is read."""
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 — not a dict
                part = file.get_slice(key)
                size = 1
                for length in part.get_shape():
                    size *= length
                yield key, str(part.get_dtype()), size
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"model {name}: {path.name} is not a whole safetensors file ({error})"
        ) from None


def check_filled(folder: Path, config: Any, name: str) -> PreTrainedModel:
    """Return the model of a checkpoint without its weights, after checking that every tensor has
    its place and every place its tensor.

    transformers itself says what it would load, on the meta device: headers are read, weights are
    not. Raises UserError naming tensors.
    """
    try:
        with _silent():
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                device_map="meta",
                dtype="auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
            )
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OSError,
        RuntimeError,
        ImportError,
    ) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {name}: transformers cannot load it ({said[:300]})") from None
    if problem := _problem(report):
        raise UserError(f"model {name}: {problem}")
    return model


def check_report(report: Mapping[str, Any], what: str) -> None:
    """Raise UserError if transformers filled places of a model with random numbers while loading
    it."""
    if problem := _problem({**report, "unexpected_keys": ()}):
        raise UserError(f"{what}: {problem}")


def _problem(report: Mapping[str, Any]) -> str:
    """Why a checkpoint does not fill its model; empty if it does."""
    missing, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing and extra and (prefix := _prefix(missing, extra)):
        return (
            f"its tensors are named {prefix}*, as a wrapper left them ({extra[0]} for {missing[0]}): save the "
            "model without the wrapper"
        )
    if missing:
        return (
            f"the checkpoint lacks {_listed(missing)}, which would be filled with random numbers"
            + (f"; it has {_listed(extra)} instead" if extra else "")
            + ": fetch it again, or mend config.json"
        )
    if extra:
        return (
            f"the checkpoint has {_listed(extra)}, for which config.json has no place: mend config.json, or "
            "remove them"
        )
    if report["mismatched_keys"]:
        tensor, stored, wanted = min(report["mismatched_keys"], key=lambda one: str(one[0]))
        return f"{tensor} is {tuple(stored)} in the checkpoint and {tuple(wanted)} by config.json"
    return ""


def _prefix(missing: list[str], extra: list[str]) -> str:
    """What stands before every one of the missing names among the extra ones; empty if nothing
    does."""
    first = next((one for one in extra if one.endswith(missing[0])), "")
    prefix = first.removesuffix(missing[0])
    return prefix if prefix and {prefix + one for one in missing} <= set(extra) else ""


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more tensors" if more > 0 else "")


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, num_rows: int, name: str) -> None:
    """Raise UserError if the tokenizer has tokens that a text can come to and the embedding has no
    row for.

    A special token that stands in no template and begins and ends no text never occurs: a [PAD]
    that was added without a row does no harm.
    """
    template = tokenizer.chat_template or ""
    written = template if isinstance(template, str) else "".join(template.values())
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    idle = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and token.content not in named and token.content not in written
    }
    vocabulary = tokenizer.get_vocab()
    beyond = [token for token, place in vocabulary.items() if place >= num_rows]
    needed = sorted(set(beyond) - idle)
    if needed:
        raise UserError(
            f"model {name}: its tokenizer has {max(vocabulary.values()) + 1} tokens and its embedding "
            f"{num_rows} rows, so {needed[0]!r} has none: resize the embedding "
            "(resize_token_embeddings), train it and save the model, or take the tokenizer it was trained with"
        )


def learned_positions(model: nn.Module) -> int | None:
    """Return how many positions a model has a learned embedding of; None if it has none, so that
    longer texts can be computed."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for path, module in model.named_modules():
        leaf = path.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("pos" in leaf or leaf == "wpe"):
            return int(limit or module.num_embeddings)
    return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What transformers would log of a checkpoint is said in the error, in one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
