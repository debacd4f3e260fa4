"""Base models from anywhere, as a clean folder: safetensors, config, tokenizer, chat template.

Nothing here runs code that came with a model, and no weights are read through pickle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from components.contracts.recipe import ModelSection
from components.errors import UserError
from components.modeling.encoding import Codec, generation_ends
from components.modeling.load import count_parameters, load_tokenizer, quiet, save_checkpoint
from components.modeling.lstm import MODEL_TYPE as LSTM
from components.modeling.scratch import make_scratch
from components.modeling.weights import (
    check_filled,
    check_vocabulary,
    learned_positions,
    stored_dtype,
    weight_files,
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
"""What a clean checkpoint may hold, besides its weights."""
LEGACY_TEMPLATE = "chat_template.json"


def materialise_base(
    section: ModelSection, seed: int, folder: Path, environment: Mapping[str, str], scratch: Path
) -> dict[str, Any]:
    """Write the base model as a clean Hugging Face folder and return what is known of it.

    Returns `parameters`, `digest`, `model_type`, `dtype` (that most weights are stored in) and
    `positions` (None: not limited). Raises UserError for a model that cannot be found, that has
    pickled weights only, that needs its own code, whose architecture this transformers release does
    not know as a causal LM, whose weights or vocabulary are not whole, or that is quantised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if section.source == "scratch":
        torch.manual_seed(seed)
        model, tokenizer = make_scratch(section.scratch)
        save_checkpoint(model, tokenizer, folder)
    elif section.source.endswith(".gguf"):
        _convert_gguf(local_path(section.source, environment, scratch), folder)
    else:
        _copy_clean(local_folder(section.source, environment, scratch), section.source, folder)
    config = load_config(folder, section.source)
    weights = sorted(folder.glob("*.safetensors"))
    dtype = stored_dtype(weights, section.source)
    model = check_filled(folder, config, section.source)
    _settle_template(folder, section.source)
    check_vocabulary(
        load_tokenizer(folder), model.get_input_embeddings().num_embeddings, section.source
    )
    digest = hashlib.sha256(b"".join(_sha256(path) for path in weights)).hexdigest()
    return {
        "parameters": count_parameters(weights),
        "digest": digest,
        "model_type": config.model_type,
        "dtype": dtype,
        "positions": learned_positions(model),
    }


def load_config(folder: Path, name: str) -> Any:
    """The config of a checkpoint, after checking that classes of transformers or of this package
    can run it."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model {name}: config.json is missing or not JSON ({error})") from None
    kind = document.get("model_type") if isinstance(document, dict) else None
    if str(kind) not in (LSTM, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise UserError(
            f"model {name}: model_type {kind!r} is not a causal language model that transformers knows"
        )
    if "auto_map" in document:
        raise UserError(
            f"model {name}: config.json asks for remote code (auto_map); use a model of stock classes"
        )
    if method := _quantisation(document):
        raise UserError(
            f"model {name}: it is quantised ({method}), which cannot be trained: give the model that it was quantised "
            "from"
        )
    if document.get("transformers_weights"):
        raise UserError(
            f"model {name}: config.json names a weight file of its own (transformers_weights): call the file "
            "model.safetensors and remove the key"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(
            f"model {name}: config.json does not fit {document['model_type']} ({error})"
        ) from None


def _quantisation(document: Mapping[str, Any]) -> str:
    """How config.json says that weights are quantised; empty if they are not."""
    for section in (document, document.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            settings = section.get(key) if isinstance(section, Mapping) else None
            if settings:
                method = settings.get("quant_method") if isinstance(settings, Mapping) else None
                return str(method or key)
    return ""


def _convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a clean checkpoint.

    transformers refuses to save a model it loaded from GGUF, so its tensors move into a fresh model
    of the same config.
    """
    try:
        with quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, OSError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"model {path.name}: transformers cannot read this GGUF file ({error})"
        ) from None
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
    weights = weight_files(source, name)
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
    """Let the checkpoint's files say what is trained and sampled by: a template whose clock stands
    still, and in generation_config.json the token that the template ends a turn with.

    Raises UserError for a template that cannot be used.
    """
    tokenizer = load_tokenizer(folder)
    legacy = folder / LEGACY_TEMPLATE
    if legacy.is_file():
        # Processors keep the template there; tokenizers do not look for it.
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
    if set(codec.end_ids) - set(codec.generation_ends):
        ends = sorted(codec.end_ids)
        _edit(folder / "generation_config.json", eos_token_id=ends if len(ends) > 1 else ends[0])


def _legacy_template(path: Path, name: str) -> str:
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model {name}: {path.name} holds no chat template ({error!r})") from None
    return str(template)


def _edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes a key out. A file that is not there begins empty."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    document.update(values)
    kept = {
        name: value for name, value in document.items() if value is not None or name not in values
    }
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
