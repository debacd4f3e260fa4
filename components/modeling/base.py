"""Base models from anywhere, as a clean folder: safetensors, config, tokenizer, chat template.

Nothing here runs code that came with a model, and no weights are read through pickle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import JsonValue
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from components.contracts.recipe import ModelSection
from components.errors import UserError, one_line
from components.modeling.encoding import Codec, generation_ends
from components.modeling.load import (
    count_parameters,
    load_tokenizer,
    quiet,
    save_checkpoint,
)
from components.modeling.lstm import MODEL_TYPE as LSTM
from components.modeling.scratch import make_scratch
from components.modeling.weight_files import weight_files
from components.modeling.weights import (
    check_filled,
    check_vocabulary,
    learned_positions,
    stored_dtype,
)
from components.storage.sources import local_folder, local_path

CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files of a clean checkpoint, besides its weights."""
LEGACY_TEMPLATE = "chat_template.json"
"""File in which processors keep a chat template. Tokenizers do not look for it."""


MAX_SIZE = 100_000_000


class BaseFacts(TypedDict):
    """Facts of a base model."""

    parameters: int
    digest: str
    """SHA-256 over the digests of the weight files."""
    model_type: str
    dtype: str
    """Type that most weights are stored in."""
    positions: int | None
    """Positions that the model has an embedding for; None: not limited."""


def materialise_base(
    section: ModelSection,
    seed: int,
    folder: Path,
    environment: Mapping[str, str],
    scratch: Path,
    texts: Sequence[str] = (),
) -> BaseFacts:
    """Write the base model as a clean Hugging Face folder and return its facts.

    Args:
        section: `model` of the recipe.
        seed: of the weights of a model from scratch.
        folder: gets the checkpoint.
        environment: holds credentials of remote sources.
        scratch: gets what is fetched.
        texts: what a tokenizer of a model from scratch is trained on.

    Raises:
        UserError: the model cannot be found, has pickled weights only, needs its own code, has an
            architecture that this transformers release does not know as a causal LM, is not whole
            in weights or vocabulary, or is quantised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if section.source == "scratch":
        torch.manual_seed(seed)
        model, tokenizer = make_scratch(section.scratch, texts)
        save_checkpoint(model, tokenizer, folder)
    elif section.source.endswith(".gguf"):
        _convert_gguf(local_path(section.source, environment, scratch), folder)
    else:
        _copy_clean(
            local_folder(section.source, environment, scratch), section.source, folder
        )
    config = load_config(folder, section.source)
    weights = sorted(folder.glob("*.safetensors"))
    dtype = stored_dtype(weights, section.source)
    model = check_filled(folder, config, section.source)
    _settle_template(folder, section.source)
    num_rows = model.get_input_embeddings().num_embeddings
    check_vocabulary(load_tokenizer(folder), num_rows, section.source)
    return BaseFacts(
        parameters=count_parameters(weights),
        digest=hashlib.sha256(b"".join(_sha256(path) for path in weights)).hexdigest(),
        model_type=config.model_type,
        dtype=dtype,
        positions=learned_positions(model),
    )


def load_config(folder: Path, name: str) -> PretrainedConfig:
    """Return the config of a checkpoint that stock classes can run.

    Raises UserError for a missing or broken config.json, and for a model that transformers does not
    know as a causal LM, that asks for remote code, that is quantised, or that names weight files of
    its own.
    """
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"model {name}: config.json is missing or not JSON ({error})"
        ) from None
    kind = document.get("model_type") if isinstance(document, dict) else None
    if str(kind) not in (LSTM, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise UserError(
            f"model {name}: model_type {kind!r} is not a causal language model that transformers "
            "knows"
        )
    if "auto_map" in document:
        raise UserError(
            f"model {name}: config.json asks for remote code (auto_map); use a model of stock "
            "classes"
        )
    _check_sizes(document, name)
    if method := _quantisation(document):
        raise UserError(
            f"model {name}: it is quantised ({method}), which cannot be trained: give the model "
            "that it was quantised from"
        )
    # The key sends transformers to another file than the one that was checked.
    if document.get("transformers_weights"):
        raise UserError(
            f"model {name}: config.json names a weight file of its own (transformers_weights): "
            "call the file model.safetensors and remove the key"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (
        ValueError,
        TypeError,
        KeyError,
        OSError,
        ArithmeticError,
        StrictDataclassError,
    ) as error:
        raise UserError(
            f"model {name}: config.json does not fit {document['model_type']} ({one_line(error)})"
        ) from None


def _check_sizes(document: Mapping[str, object], name: str) -> None:
    """Raise UserError for sizes that no model has: not all are looked at by its own class."""
    for size_name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        size = document.get(size_name)
        if size is None:
            continue
        if not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
            raise UserError(
                f"model {name}: config.json says {size_name} {one_line(size, 40)}, which is no "
                f"whole number from 1 to {MAX_SIZE:,}; download the model again"
            )


def _quantisation(document: Mapping[str, object]) -> str:
    """Return the method by which config.json says that weights are quantised; empty if none."""
    # Models that read pictures too keep it in the section of their language model.
    for section in (document, document.get("text_config")):
        if not isinstance(section, Mapping):
            continue
        for key in ("quantization_config", "compression_config"):
            settings = section.get(key)
            if settings:
                method = (
                    settings.get("quant_method")
                    if isinstance(settings, Mapping)
                    else None
                )
                return str(method or key)
    return ""


def _convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a clean checkpoint."""
    try:
        with quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (
        ValueError,
        OSError,
        LookupError,
        ArithmeticError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise UserError(
            f"model {path.name}: transformers cannot read this GGUF file ({one_line(error)})"
        ) from None
    # Done once, for a GGUF file takes seconds to load each time (SmolLM2-135M: 11 to 13; the clean
    # checkpoint: 0.3). transformers refuses to save a model that it loaded from GGUF, so the
    # tensors move into a fresh model of the same config.
    document = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype", "torch_dtype"):
        document.pop(name, None)
    config = type(loaded.config)(**document)
    with torch.device("meta"):
        clean = type(loaded)(config)
    clean.load_state_dict(loaded.state_dict(), assign=True)
    clean.tie_weights()
    clean.generation_config.eos_token_id = tokenizer.eos_token_id
    save_checkpoint(clean, tokenizer, folder)


def _copy_clean(source: Path, name: str, folder: Path) -> None:
    """Copy the weights and CHECKPOINT_FILES of a model, and nothing else that lies beside them."""
    weights = weight_files(source, name)
    # Before gigabytes are copied.
    load_config(source, name)
    for path in weights:
        shutil.copyfile(path, folder / path.name)
    for file in (*CHECKPOINT_FILES, LEGACY_TEMPLATE):
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    count_parameters(weights, name)
    try:
        load_tokenizer(folder)
    except (
        ValueError,
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        RuntimeError,
    ) as error:
        raise UserError(
            f"model {name}: its tokenizer cannot be loaded without remote code ({error})"
        ) from None


def _settle_template(folder: Path, name: str) -> None:
    """Write into the checkpoint what it is trained and sampled by.

    That is a template whose clock stands still, and in generation_config.json the token that the
    template ends a turn with. Raises UserError for a template that cannot be used.
    """
    tokenizer = load_tokenizer(folder)
    legacy = folder / LEGACY_TEMPLATE
    if legacy.is_file():
        if not tokenizer.chat_template:
            tokenizer.chat_template = _legacy_template(legacy, name)
        legacy.unlink()
    try:
        codec = Codec(tokenizer, generation_ends=generation_ends(folder))
    except UserError as error:
        raise UserError(f"model {name}: {error}") from None
    if codec.template:
        (folder / "chat_template.jinja").write_text(codec.template, encoding="utf-8")
        _edit(folder / "tokenizer_config.json", chat_template=None)
    # Engines stop by generation_config.json alone. Many chat models name the end of a text there
    # and not the end of a turn.
    if set(codec.end_ids) != set(codec.generation_ends):
        ends: list[JsonValue] = [*sorted(codec.end_ids)]
        end_ids = ends if len(ends) > 1 else ends[0]
        _edit(folder / "generation_config.json", eos_token_id=end_ids)


def _legacy_template(path: Path, name: str) -> str:
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model {name}: {path.name} holds no chat template ({error!r})"
        ) from None
    return str(template)


def _edit(path: Path, **values: JsonValue) -> None:
    """Set keys of a JSON file; None takes a key out. A file that is not there begins empty."""
    document: dict[str, JsonValue] = {}
    if path.is_file():
        document = json.loads(path.read_text(encoding="utf-8"))
    for name, value in values.items():
        if value is None:
            document.pop(name, None)
        else:
            document[name] = value
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
