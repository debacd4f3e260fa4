"""Templates of other families, those that cannot be used, and where a template ends a turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from components.contracts.recipe import ModelSection
from components.contracts.rows import Prompt
from components.errors import UserError
from components.modeling.base import materialise_base
from components.modeling.encoding import Codec, load_codec
from components.modeling.inference.answers import Answerer, load_for_answers
from components.modeling.inference.sampler import Sampling
from components.modeling.load import save_checkpoint
from tests.unit.chat_models import CHAT, chat_tokenizer, llama, save_chat_model
from tests.unit.chat_templates import (
    CLOCK,
    MERGES_SYSTEM,
    NO_HEADER,
    NO_OPENING,
    NO_SYSTEM,
    SKIPS_SYSTEM,
    SYSTEM,
    TALK,
    learned,
    row,
    whole,
)


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (MERGES_SYSTEM, ["hello<end_of_turn>", "4<end_of_turn>"]),
        (NO_HEADER, [" hello <eos>", " 4 <eos>"]),
        (NO_OPENING, ["hello<end_of_turn>", "4<end_of_turn>"]),
    ],
    ids=["merges-system", "no-header", "no-opening"],
)
def test_templates_of_other_families(template: str, answers: list[str]) -> None:
    codec = Codec(chat_tokenizer(template))
    messages = TALK if template == NO_HEADER else [SYSTEM, *TALK]
    (encoded,) = codec.encode(row(messages))
    assert codec.tokenizer.decode(encoded.ids) == whole(codec, messages)
    assert learned(codec, encoded) == answers
    asked = codec.prompt_ids(row(messages).asked)
    assert encoded.ids[: len(asked)] == asked


def test_a_template_that_refuses_the_turns_says_so() -> None:
    codec = Codec(chat_tokenizer(MERGES_SYSTEM))
    with pytest.raises(UserError, match=r"refuses it \(turns must alternate\)"):
        codec.encode(row([TALK[0], TALK[0], TALK[1]]))


def test_the_end_of_a_turn_is_the_templates_and_that_of_generation_config(
    tmp_path: Path,
) -> None:
    source = save_chat_model(tmp_path / "source")
    (source / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, -1, 3, 99999]})
    )
    section = ModelSection(source=f"file://{source}")
    materialise_base(section, 0, tmp_path / "clean", {}, tmp_path / "scratch")
    codec = load_codec(tmp_path / "clean")
    end = codec.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert codec.end_ids == (end, 1, 3)
    assert codec.generation_ends == (1, 3, end), "engines stop by the file alone"
    assert codec.row_ids("6*7", "42")[0][-1] == codec.completion_ids("42")[-1] == end
    generation = json.loads((tmp_path / "clean" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1, 3, end]


def test_sampling_stops_where_the_template_ends_a_turn(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    model = llama(tokenizer)
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    with torch.no_grad():
        # Whatever it sees, it ends its turn.
        model.lm_head.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight[end] = 1.0
    save_checkpoint(model, tokenizer, tmp_path / "model")
    loaded, codec = load_for_answers(tmp_path / "model", "")
    prompt = Prompt(id="p", text="hi", verifier="exact")
    (answer,) = Answerer(loaded, codec, Sampling(0.0, 0, 1.0, 5, 4)).answer(
        [prompt], [[0]]
    )
    assert (answer.text, answer.finished, answer.num_tokens) == ("", True, 1)


def test_a_clock_in_a_template_stands_still(tmp_path: Path) -> None:
    codec = Codec(chat_tokenizer(CLOCK))
    first = codec.prompt_ids("hi")
    assert Codec(chat_tokenizer(CLOCK)).prompt_ids("hi") == first
    assert codec.tokenizer.decode(first).startswith("Now: 01 Jan 2025 12:00:00\n")
    source = save_chat_model(tmp_path / "source", chat_tokenizer(CLOCK))
    section = ModelSection(source=f"file://{source}")
    materialise_base(section, 0, tmp_path / "clean", {}, tmp_path / "scratch")
    # What is published says the same to whoever loads it.
    stock = AutoTokenizer.from_pretrained(tmp_path / "clean")
    text = stock.apply_chat_template(
        [TALK[0]], add_generation_prompt=True, tokenize=False
    )
    assert stock(text, add_special_tokens=False)["input_ids"] == first


def test_a_clock_behind_a_default_and_with_flags_stands_still() -> None:
    asked = (
        "{% if strftime_now is defined %}{% set d = strftime_now('%-d %B, week %V') %}{% else %}"
        "{% set d = 'never' %}{% endif %}{{ d }}\n" + CHAT
    )
    codec = Codec(chat_tokenizer(asked))
    assert codec.tokenizer.decode(codec.prompt_ids("hi")).startswith(
        "1 January, week 01\n"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_SYSTEM, r"model\.system_prompt: .*refuses it \(no system role\)"),
        (SKIPS_SYSTEM, r"model\.system_prompt has no effect: .*leaves it out"),
        (None, r"model\.system_prompt has no effect: the model has no chat template"),
    ],
    ids=["refused", "skipped", "none"],
)
def test_a_system_prompt_that_would_not_be_heard_is_refused(
    template: str | None, message: str
) -> None:
    Codec(chat_tokenizer(template))
    with pytest.raises(UserError, match=message):
        Codec(chat_tokenizer(template), "Answer with a number.")


def test_a_conversation_with_its_own_system_prompt_keeps_it() -> None:
    codec = Codec(chat_tokenizer(), "Answer with a number.")
    own = codec.tokenizer.decode(codec.prompt_ids(row([SYSTEM, *TALK]).asked))
    assert "Be brief" in own
    assert "with a number" not in own
    assert "with a number" in codec.tokenizer.decode(codec.prompt_ids(row(TALK).asked))
    assert "with a number" in codec.tokenizer.decode(codec.prompt_ids("hi"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['content'] }}", "chat template refuses it"),
        ("{{ messages.no.such }}", "chat template refuses it"),
        ("{{ ''.__class__.__mro__ }}", "chat template"),
        ("Hello", "does not write what user and assistant say"),
        (
            {"rag": CHAT, "tool_use": CHAT},
            r"by name \(rag, tool_use\) and none called default",
        ),
    ],
    ids=["syntax", "undefined", "sandbox", "constant", "named"],
)
def test_a_template_that_cannot_be_used_is_refused_by_prepare(
    template: Any, message: str, tmp_path: Path
) -> None:
    tokenizer = chat_tokenizer()
    source = save_chat_model(tmp_path / "source", tokenizer)
    (source / "chat_template.jinja").unlink()
    config = json.loads((source / "tokenizer_config.json").read_text())
    if isinstance(template, dict):
        template = [{"name": name, "template": one} for name, one in template.items()]
    (source / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": template})
    )
    section = ModelSection(source=f"file://{source}")
    with pytest.raises(UserError, match=message):
        materialise_base(section, 0, tmp_path / "clean", {}, tmp_path / "scratch")


def test_a_template_in_a_processors_file_is_taken(tmp_path: Path) -> None:
    source = save_chat_model(tmp_path / "source")
    (source / "chat_template.jinja").unlink()
    (source / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))
    section = ModelSection(source=f"file://{source}")
    materialise_base(section, 0, tmp_path / "clean", {}, tmp_path / "scratch")
    assert load_codec(tmp_path / "clean").template == CHAT


def test_a_model_without_a_template_sees_a_conversation_as_text() -> None:
    codec = Codec(chat_tokenizer(None))
    one = row([SYSTEM, *TALK]).model_copy(update={"prompt": "told"})
    (encoded,) = codec.encode(one)
    assert learned(codec, encoded) == ["4<eos>"]
    assert codec.tokenizer.decode(encoded.ids) == "<bos>told4<eos>"
