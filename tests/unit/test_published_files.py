"""What comes out fits what came in: numbers of the base's type, and the system prompt in the
template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.modeling.encoding import Codec, load_codec
from components.publish.files import copy_checkpoint, with_system_prompt
from tests.unit.chat_models import chat_tokenizer, llama, save_chat_model

SYSTEM = 'Answer "briefly":\n{{ no template }} 日本 \U0001f600 \\n'


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shards", [False, True])
def test_weights_have_the_type_of_the_base(
    tmp_path: Path, dtype: str, shards: bool
) -> None:
    source, target = tmp_path / "candidate", tmp_path / "published"
    tokenizer = chat_tokenizer()
    llama(tokenizer).save_pretrained(source, max_shard_size="40KB" if shards else "1GB")
    tokenizer.save_pretrained(source)
    target.mkdir()
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert copy_checkpoint(source, target, dtype, "") == dtype
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert len(list(target.glob("*.safetensors"))) == len(
        list(source.glob("*.safetensors"))
    )
    published = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    trained = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    assert published.dtype == published.config.dtype == getattr(torch, dtype)
    for name, tensor in published.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name].to(tensor.dtype)), name
    sizes = [
        sum(path.stat().st_size for path in one.glob("*.safetensors"))
        for one in (target, source)
    ]
    assert sizes[0] < 0.6 * sizes[1]


def test_weights_that_float16_cannot_hold_stay_as_they_are(tmp_path: Path) -> None:
    source = save_chat_model(tmp_path / "candidate")
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "published").mkdir()
    assert copy_checkpoint(source, tmp_path / "published", "float16", "") == "float32"
    assert (
        json.loads((tmp_path / "published" / "config.json").read_text())["dtype"]
        == "float32"
    )


def test_a_float32_base_is_published_byte_by_byte(tmp_path: Path) -> None:
    source = save_chat_model(tmp_path / "candidate")
    (tmp_path / "published").mkdir()
    assert copy_checkpoint(source, tmp_path / "published", "float32", "") == "float32"
    for path in source.iterdir():
        assert (tmp_path / "published" / path.name).read_bytes() == path.read_bytes()


def test_a_published_template_begins_with_the_system_prompt(tmp_path: Path) -> None:
    source, target = save_chat_model(tmp_path / "candidate"), tmp_path / "published"
    target.mkdir()
    copy_checkpoint(source, target, "float32", SYSTEM)
    question = [{"role": "user", "content": "hi"}]
    stock = AutoTokenizer.from_pretrained(target)
    ids = stock.apply_chat_template(
        question, add_generation_prompt=True, return_dict=False
    )
    assert ids == load_codec(source, SYSTEM).prompt_ids("hi")
    own = [{"role": "system", "content": "Mine"}, *question]
    assert SYSTEM not in stock.apply_chat_template(own, tokenize=False)
    # It can be a base again, with the same system prompt or another.
    assert load_codec(target, SYSTEM).prompt_ids("hi") == ids
    assert load_codec(target).prompt_ids("hi") == ids


def test_a_system_prompt_in_a_template_with_a_clock() -> None:
    clock = "{{ strftime_now('%Y') }}" + str(chat_tokenizer().chat_template)
    stopped = Codec(chat_tokenizer(clock)).template
    codec = Codec(chat_tokenizer(with_system_prompt(stopped, "Mine")))
    assert codec.prompt_ids("hi") == Codec(chat_tokenizer(clock), "Mine").prompt_ids(
        "hi"
    )
