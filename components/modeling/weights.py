"""Checks that a checkpoint is whole: the weight files that transformers loads fill its model."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from components.errors import UserError, first_line

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Kinds of numbers that can be trained: safetensors' name → torch's."""
_MAX_NAMED = 3
"""Tensors that a message names; it counts the rest."""


Shape = tuple[int, ...]


class LoadingReport(TypedDict):
    """Account of transformers' `from_pretrained(output_loading_info=True)`."""

    missing_keys: Iterable[str]
    """Tensors of the model that the checkpoint lacks: filled with random numbers."""
    unexpected_keys: Iterable[str]
    """Tensors of the checkpoint that the model has no place for: left out."""
    mismatched_keys: Iterable[tuple[str, Shape, Shape]]
    """(tensor, shape in the checkpoint, shape in the model): filled with random numbers."""


def stored_dtype(files: Iterable[Path], name: str) -> str:
    """Return the type that most weights are stored in, by torch's name of it.

    Raises UserError for a file that is not whole, and for weights that are stored in other than
    floating-point numbers of 16 bits or more: they cannot be trained.
    """
    num_elements = Counter[str]()
    for path in files:
        for tensor, kind, size in _header(path, name):
            if kind in FLOATS:
                num_elements[FLOATS[kind]] += size
                continue
            # Buffers may hold integers or booleans (position ids, masks); weights may not.
            is_weight = tensor.endswith(("weight", "weight_packed", "qweight"))
            if is_weight or kind.startswith("F8"):
                raise UserError(
                    f"model {name}: {tensor} is stored as {kind}, which cannot be trained: give "
                    "the model that this one was quantised from"
                )
    return num_elements.most_common(1)[0][0] if num_elements else "float32"


def _header(path: Path, name: str) -> Iterator[tuple[str, str, int]]:
    """Yield (name, kind of number, number of elements) of every tensor; no weight is read."""
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 — not a dict
                tensor = file.get_slice(key)
                yield key, str(tensor.get_dtype()), math.prod(tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"model {name}: {path.name} is not a whole safetensors file ({error})"
        ) from None


def check_filled(folder: Path, config: PretrainedConfig, name: str) -> PreTrainedModel:
    """Return the model of a checkpoint without its weights, on the meta device.

    Raises UserError naming tensors unless every tensor has its place and every place its tensor.
    """
    # transformers itself says what it would load: headers are read, weights are not.
    try:
        with _silent():
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                device_map="meta",
                dtype="auto",
                output_loading_info=True,
                # Mismatches come into the report, which names them all, instead of an error.
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
        reason = first_line(error, 300)
        raise UserError(
            f"model {name}: transformers cannot load it ({reason})"
        ) from None
    if problem := _problem(report):
        raise UserError(f"model {name}: {problem}")
    return model


def check_report(report: LoadingReport, subject: str) -> None:
    """Raise UserError if transformers filled places of a model with random numbers.

    `subject` begins the message.
    """
    if problem := _problem({**report, "unexpected_keys": ()}):
        raise UserError(f"{subject}: {problem}")


def _problem(report: LoadingReport) -> str:
    """Return why a checkpoint does not fill its model; empty if it does."""
    missing = sorted(report["missing_keys"])
    extra = sorted(report["unexpected_keys"])
    if missing and extra and (prefix := _prefix(missing, extra)):
        return (
            f"its tensors are named {prefix}*, as a wrapper left them ({extra[0]} for "
            f"{missing[0]}): save the model without the wrapper"
        )
    if missing:
        instead = f"; it has {_listed(extra)} instead" if extra else ""
        return (
            f"the checkpoint lacks {_listed(missing)}, which would be filled with random numbers"
            f"{instead}: fetch it again, or mend config.json"
        )
    if extra:
        return (
            f"the checkpoint has {_listed(extra)}, for which config.json has no place: mend "
            "config.json, or remove them"
        )
    mismatched = sorted(report["mismatched_keys"], key=lambda shapes: str(shapes[0]))
    if mismatched:
        tensor, stored, expected = mismatched[0]
        return f"{tensor} is {tuple(stored)} in the checkpoint and {tuple(expected)} by config.json"
    return ""


def _prefix(missing: list[str], extra: list[str]) -> str:
    """Return the prefix with which every missing name is among the extra ones; empty for none."""
    first = missing[0]
    prefixed = next((name for name in extra if name.endswith(first)), "")
    prefix = prefixed.removesuffix(first)
    if all(prefix + name in extra for name in missing):
        return prefix
    return ""


def _listed(names: list[str]) -> str:
    num_more = len(names) - _MAX_NAMED
    listed = ", ".join(names[:_MAX_NAMED])
    return f"{listed} and {num_more} more tensors" if num_more > 0 else listed


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, num_rows: int, name: str
) -> None:
    """Raise UserError if a text can come to a token that the embedding has no row for.

    A special token that stands in no template and begins and ends no text never occurs: a [PAD]
    that was added without a row does no harm.
    """
    template = tokenizer.chat_template or ""
    template_text = (
        template if isinstance(template, str) else "".join(template.values())
    )
    around_texts = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    idle = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special
        and token.content not in around_texts
        and token.content not in template_text
    }
    vocabulary = tokenizer.get_vocab()
    without_row = {
        token for token, token_id in vocabulary.items() if token_id >= num_rows
    }
    needed = sorted(without_row - idle)
    if needed:
        num_tokens = max(vocabulary.values()) + 1
        raise UserError(
            f"model {name}: its tokenizer has {num_tokens} tokens and its embedding {num_rows} "
            f"rows, so {needed[0]!r} has none: resize the embedding (resize_token_embeddings), "
            "train it and save the model, or take the tokenizer it was trained with"
        )


def learned_positions(model: nn.Module) -> int | None:
    """Return the number of positions that a model has a learned embedding for.

    None if it has none (rotary positions, say): then it computes longer texts too.
    """
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for path, module in model.named_modules():
        leaf = path.rpartition(".")[2]
        # GPT-2 calls it wpe, others embed_positions or position_embeddings. OPT's has two rows more
        # than positions, so the config's number goes first.
        if isinstance(module, nn.Embedding) and ("pos" in leaf or leaf == "wpe"):
            return int(limit or module.num_embeddings)
    return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence transformers: its account of a checkpoint becomes one line of an error."""
    from transformers.utils import logging

    previous_level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(previous_level)
