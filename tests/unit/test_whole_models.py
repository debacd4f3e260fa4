"""Base models that are not whole, or that cannot be trained: refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from components.contracts.recipe import ModelSection
from components.errors import UserError
from components.modeling.base import BaseFacts, materialise_base
from components.modeling.load import count_parameters, load_model, save_checkpoint
from components.modeling.reward import RewardModel
from tests.unit.chat_models import chat_tokenizer, llama, save_chat_model
from tests.unit.tiny import save_tiny

pytestmark = pytest.mark.process

Weights = dict[str, Tensor]


def materialise(source: Path, folder: Path) -> BaseFacts:
    section = ModelSection(source=f"file://{source}")
    return materialise_base(section, 0, folder, {}, folder.parent / "scratch")


def rewritten(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    """The checkpoint with other tensors in its one weight file."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def reconfigured(folder: Path, **settings: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def sharded(folder: Path) -> Path:
    tokenizer = chat_tokenizer()
    llama(tokenizer).save_pretrained(folder, max_shard_size="40KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {
                name: one for name, one in w.items() if name != "lm_head.weight"
            },
            "lacks lm_head.weight, which would be filled with random numbers",
        ),
        (
            lambda w: {f"base_model.model.{name}": one for name, one in w.items()},
            r"named base_model\.model\.\*, as a wrapper left them",
        ),
        (
            lambda w: {f"_orig_mod.{name}": one for name, one in w.items()},
            r"named _orig_mod\.\*",
        ),
        (
            lambda w: {f"module.{name}": one for name, one in w.items()},
            r"named module\.\*",
        ),
        (
            lambda w: {name.replace("q_proj", "query"): one for name, one in w.items()},
            r"lacks model\.layers\.0\.self_attn\.q_proj\.weight.*it has model\.layers\.0\.self_attn\.query",
        ),
        (
            lambda w: {**w, "v_head.weight": torch.zeros(2)},
            r"has v_head\.weight, for which",
        ),
        (
            lambda w: {**w, "lm_head.weight": torch.zeros(3, 32)},
            r"lm_head\.weight is \(3, 32\) in the checkpoint",
        ),
        (
            lambda w: {name: one.to(torch.float8_e4m3fn) for name, one in w.items()},
            "stored as F8_E4M3, which cannot be trained",
        ),
        (
            lambda w: {**w, "lm_head.weight": torch.zeros(3, 32, dtype=torch.int8)},
            "stored as I8, which cannot be trained",
        ),
    ],
    ids=[
        "missing",
        "peft",
        "compiled",
        "ddp",
        "renamed",
        "extra",
        "shape",
        "fp8",
        "int8",
    ],
)
def test_tensors_that_do_not_fill_the_model_are_named(
    change: Callable[[Weights], Weights], message: str, tmp_path: Path
) -> None:
    source = rewritten(save_chat_model(tmp_path / "source"), change)
    with pytest.raises(UserError, match=message):
        materialise(source, tmp_path / "clean")


@pytest.mark.parametrize(
    ("num_layers", "message"),
    [
        (3, r"lacks model\.layers\.2\..* and 6 more tensors"),
        (
            1,
            r"has model\.layers\.1\..* and 6 more tensors, for which config\.json has no place",
        ),
    ],
)
def test_a_config_of_another_depth_is_refused(
    num_layers: int, message: str, tmp_path: Path
) -> None:
    source = reconfigured(
        save_chat_model(tmp_path / "source"), num_hidden_layers=num_layers
    )
    with pytest.raises(UserError, match=message):
        materialise(source, tmp_path / "clean")


def test_a_checkpoint_that_lost_weights_later_is_not_loaded(tmp_path: Path) -> None:
    folder = rewritten(
        save_tiny(tmp_path / "model"),
        lambda w: {name: one for name, one in w.items() if name != "lm_head.weight"},
    )
    with pytest.raises(UserError, match=r"lacks lm_head\.weight"):
        load_model(folder)


def test_a_reward_model_without_its_score_head_is_refused(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    RewardModel(tmp_path / "reward")
    rewritten(
        tmp_path / "reward",
        lambda w: {name: one for name, one in w.items() if name != "score.weight"},
    )
    with pytest.raises(UserError, match=r"lacks score\.weight"):
        RewardModel(tmp_path / "reward")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_models_pass_and_their_dtype_is_known(
    tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    tokenizer = chat_tokenizer()
    model = llama(tokenizer, tie_word_embeddings=tied).to(dtype)
    save_checkpoint(model, tokenizer, tmp_path / "source")
    made = materialise(tmp_path / "source", tmp_path / "clean")
    assert made["dtype"] == str(dtype).removeprefix("torch.")
    assert made["positions"] is None


def test_the_weights_of_a_bare_body_are_taken_where_transformers_takes_them(
    tmp_path: Path,
) -> None:
    source = rewritten(
        save_chat_model(tmp_path / "source"),
        lambda w: {name.removeprefix("model."): one for name, one in w.items()},
    )
    materialise(source, tmp_path / "clean")
    whole = load_model(save_chat_model(tmp_path / "whole")).state_dict()
    for name, tensor in load_model(tmp_path / "clean").state_dict().items():
        torch.testing.assert_close(tensor, whole[name])


def test_only_what_transformers_loads_is_counted_and_copied(tmp_path: Path) -> None:
    source = save_chat_model(tmp_path / "source")
    count = count_parameters([source / "model.safetensors"])
    shutil.copyfile(source / "model.safetensors", source / "consolidated.safetensors")
    assert materialise(source, tmp_path / "clean")["parameters"] == count
    assert [path.name for path in (tmp_path / "clean").glob("*.safetensors")] == [
        "model.safetensors"
    ]
    shards = sharded(tmp_path / "shards")
    shutil.copyfile(source / "model.safetensors", shards / "consolidated.safetensors")
    shutil.copyfile(
        next(shards.glob("model-00001*")), shards / "model-00001-of-00099.safetensors"
    )
    assert materialise(shards, tmp_path / "clean-shards")["parameters"] == count
    load_model(tmp_path / "clean-shards")


def remove(pattern: str) -> Callable[[Path], object]:
    return lambda folder: sorted(folder.glob(pattern))[-1].unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("model-*"), r"model-0000\d-of-0000\d\.safetensors is missing, which"),
        (
            remove("*.index.json"),
            r"is a shard, and model\.safetensors\.index\.json is missing",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
            "is not the index of a sharded checkpoint",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"w": "../../other.safetensors"}})
            ),
            "no safetensors file of the same folder",
        ),
        (
            lambda folder: shutil.copyfile(
                sorted(folder.glob("model-*"))[0], folder / "model.safetensors"
            ),
            "the weights are there twice: remove the older set",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text(
                '{"peft_type": "LORA"}'
            ),
            "adapter_config.json is an adapter, which would not be used: merge it",
        ),
        (
            lambda folder: sorted(folder.glob("model-*"))[1].write_bytes(b"cut off"),
            "is not a whole safetensors file",
        ),
    ],
    ids=["shard", "index", "no-index", "escape", "twice", "adapter", "cut"],
)
def test_a_sharded_checkpoint_that_is_not_whole_is_refused(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    source = sharded(tmp_path / "source")
    damage(source)
    with pytest.raises(UserError, match=message):
        materialise(source, tmp_path / "clean")


def test_weights_under_another_name_are_not_guessed_at(tmp_path: Path) -> None:
    source = save_chat_model(tmp_path / "source")
    (source / "model.safetensors").rename(source / "consolidated.safetensors")
    with pytest.raises(
        UserError, match=r"consolidated\.safetensors is not where transformers"
    ):
        materialise(source, tmp_path / "clean")


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"compression_config": {"format": "pack-quantized"}},
        {"text_config": {"quantization_config": {"quant_method": "awq"}}},
    ],
)
def test_a_quantised_base_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    source = reconfigured(save_chat_model(tmp_path / "source"), **settings)
    with pytest.raises(
        UserError, match=r"is quantised .*give the model that it was quantised from"
    ):
        materialise(source, tmp_path / "clean")


def test_tokens_beyond_the_embedding_are_refused_unless_none_can_occur(
    tmp_path: Path,
) -> None:
    tokenizer = chat_tokenizer(template=None)
    num_rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    materialise(
        save_chat_model(tmp_path / "pad", tokenizer, vocab_size=num_rows),
        tmp_path / "pad-clean",
    )
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
    )
    source = save_chat_model(tmp_path / "chat", tokenizer, vocab_size=num_rows)
    said = rf"has {num_rows + 2} tokens and its embedding {num_rows} rows, so '<\|im_start\|>'"
    with pytest.raises(UserError, match=said):
        materialise(source, tmp_path / "chat-clean")


def test_a_word_without_a_row_is_refused(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    num_rows = len(tokenizer)
    tokenizer.add_tokens(["Donaudampfschiff"])
    source = save_chat_model(tmp_path / "source", tokenizer, vocab_size=num_rows)
    with pytest.raises(UserError, match="so 'Donaudampfschiff' has none"):
        materialise(source, tmp_path / "clean")


def test_learned_positions_are_known(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(template=None)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=48
    )
    save_checkpoint(GPT2LMHeadModel(config), tokenizer, tmp_path / "source")
    assert materialise(tmp_path / "source", tmp_path / "clean")["positions"] == 48
