"""Base models: what is accepted, what is refused, and that nothing pickled or foreign is ever run."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
import torch

from components.contracts.recipe import ModelSection, Scratch
from components.errors import UserError
from components.modeling.base import BaseFacts, load_config, materialise_base
from components.modeling.load import load_model, load_tokenizer
from tests.unit.tiny import ARCHITECTURES, save_tiny, tiny_model

LLAMA_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
}


def materialise(source: str, folder: Path) -> BaseFacts:
    return materialise_base(
        ModelSection(source=source), 0, folder, {}, folder.parent / "scratch"
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tokenizer", ["character", "byte"])
def test_a_scratch_model_is_the_same_for_the_same_seed_and_reloads(
    architecture: str, tokenizer: str, tmp_path: Path
) -> None:
    section = ModelSection(
        scratch=Scratch.model_validate(
            {"architecture": architecture, "tokenizer": tokenizer, "hidden_size": 32}
        )
    )
    made = [
        materialise_base(section, seed, tmp_path / name, {}, tmp_path)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert made[0] == made[1]
    assert made[0]["digest"] != made[2]["digest"]
    model = load_model(tmp_path / "a")
    assert (
        sum(
            weight.numel() for weight in {id(w): w for w in model.parameters()}.values()
        )
        == made[0]["parameters"]
    )
    text = "123=4" if tokenizer == "character" else "naïve 日本\n\tok"
    codec = load_tokenizer(tmp_path / "a")
    assert codec.decode(codec(text, add_special_tokens=False)["input_ids"]) == text
    assert len({codec.pad_token_id, codec.bos_token_id, codec.eos_token_id}) == 3


def test_a_folder_becomes_a_clean_copy_with_the_same_function(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", "llama")
    (source / "training_args.bin").write_bytes(b"\x80\x04malicious")
    (source / "evil.py").write_text("raise SystemExit")
    materialise(f"file://{source}", tmp_path / "clean")
    assert {path.suffix for path in (tmp_path / "clean").iterdir()} <= {
        ".json",
        ".safetensors",
        ".jinja",
    }
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(
            load_model(tmp_path / "clean")(ids).logits,
            tiny_model("llama")[0](ids).logits,
        )


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source")
    (source / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(1)}, source / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model.bin\)"):
        materialise(f"file://{source}", tmp_path / "clean")


def test_remote_code_is_refused(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    )
    with pytest.raises(UserError, match="remote code"):
        materialise(f"file://{source}", tmp_path / "clean")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"model_type": "nonsense"}'
            ),
            "not a causal language model",
        ),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"model_type": ["llama"]}'
            ),
            "not a causal language model",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"garbage"),
            "not a whole safetensors file",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            "tokenizer cannot be loaded",
        ),
    ],
)
def test_a_damaged_folder_is_named_and_refused(
    damage: object, message: str, tmp_path: Path
) -> None:
    source = save_tiny(tmp_path / "source")
    damage(source)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        materialise(f"file://{source}", tmp_path / "clean")


def test_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        materialise("file:///nowhere/at/all", tmp_path / "clean")


@pytest.mark.parametrize(
    "text",
    [
        *(
            json.dumps({**LLAMA_CONFIG, **change})
            for change in (
                {"hidden_size": -1},
                {"hidden_size": 0},
                {"hidden_size": math.nan},
                {"hidden_size": 10**30},
                {"hidden_size": "x"},
                {"num_attention_heads": 0},
                {"num_hidden_layers": -3},
                {"num_hidden_layers": 10**9},
                {"vocab_size": -5},
                {"vocab_size": 1e300},
            )
        ),
        '{"a":' * 100_000,
        "\0",
        "[1]",
    ],
    ids=lambda text: text[-24:],
)
def test_a_config_that_no_model_has_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path, "m")
    assert str(caught.value).startswith("model m: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 2**40),
        b"GGUF" + b"\xff" * 200,
        b"",
    ],
    ids=("name alone", "counts", "length", "version", "empty"),
)
def test_a_malformed_gguf_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.gguf") as caught:
        materialise(path.as_uri(), tmp_path / "clean")
    assert "\n" not in str(caught.value)
