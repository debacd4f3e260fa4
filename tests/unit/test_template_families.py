"""Chat templates in the manner of public model families: what is asked is what transformers asks,
and what is learned is what the template lets the model write."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from components.contracts.rows import Conversation, OpenTurn
from components.errors import UserError
from components.modeling.encoding import Codec
from tests.unit.chat_models import CHAT, OPENING, TURN, chat_tokenizer
from tests.unit.chat_templates import SKIPS_SYSTEM, SYSTEM, TALK, learned, row


class Family(NamedTuple):
    """A template, the tokens it writes, and what of TALK the model learns by it."""

    template: str
    eos: str
    tokens: tuple[str, ...]
    answers: list[list[str]]
    hears_system: bool = True


IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
IM_TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
IM_OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
HEADERS = ("<|begin|>", "<|header|>", "<|headed|>", "<|eot|>", "<|end_of_text|>")
ALTERNATES = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}"
)
FAMILIES = {
    "llama-2": Family(
        "{% set ns = namespace(s='', ms=messages) %}{% if messages[0]['role'] == 'system' %}"
        "{% set ns.s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set ns.ms = messages[1:] %}{% endif %}{% for m in ns.ms %}"
        + ALTERNATES
        + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (ns.s if loop.first else '') }}"
        "{{ m['content'].strip() + ' [/INST]' }}{% else %}"
        "{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        ("</s>",),
        [[" hello </s>", " 4 </s>"]],
    ),
    "llama-3": Family(
        "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m['role'] + '<|headed|>\n\n' }}"
        "{{ m['content'] | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|header|>assistant<|headed|>\n\n{% endif %}",
        "<|end_of_text|>",
        HEADERS,
        [["hello<|eot|>", "4<|eot|>"]],
    ),
    "gemma": Family(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ bos_token }}{% for m in messages %}"
        + ALTERNATES
        + "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<eos>",
        (),
        [["hello<end_of_turn>", "4<end_of_turn>"]],
        hears_system=False,
    ),
    "phi-3": Family(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|>",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        [["hello<|end|>", "4<|end|>"]],
    ),
    "qwen-2.5": Family(
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
        "{% for m in messages %}" + IM_TURN + "{% endfor %}" + IM_OPENING,
        "<|im_end|>",
        IM,
        [["hello<|im_end|>", "4<|im_end|>"]],
    ),
    "qwen-3.5, without thoughts": Family(
        "{% for m in messages %}"
        + IM_TURN
        + "{% endfor %}"
        + IM_OPENING.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n"),
        "<|im_end|>",
        IM,
        [["hello<|im_end|>"], ["4<|im_end|>"]],
    ),
    "mistral": Family(
        "{% set ns = namespace(s='', ms=messages) %}{% if messages[0]['role'] == 'system' %}"
        "{% set ns.s = messages[0]['content'] + '\n\n' %}{% set ns.ms = messages[1:] %}{% endif %}"
        "{{ bos_token }}{% for m in ns.ms %}{% if m['role'] == 'user' %}[INST] "
        "{{ (ns.s if loop.last else '') + m['content'] }}[/INST]{% else %}"
        "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        ("[INST]", "[/INST]", "</s>"),
        [[" hello</s>", " 4</s>"]],
    ),
    "zephyr": Family(
        "{% for m in messages %}\n{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}",
        "</s>",
        ("</s>",),
        [["hello</s>", "4</s>"]],
    ),
    "glm-4": Family(
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        [["hello<|endoftext|>"], ["4<|endoftext|>"]],
    ),
    "chatml without its tokens": Family(
        "{% for m in messages %}" + IM_TURN + "{% endfor %}" + IM_OPENING,
        "<eos>",
        (),
        [["hello<eos>"], ["4<eos>"]],
    ),
}


def codec_of(family: Family, system_prompt: str = "") -> Codec:
    tokenizer = chat_tokenizer(
        family.template, (*chat_tokenizer().all_special_tokens, *family.tokens)
    )
    tokenizer.eos_token = family.eos
    return Codec(tokenizer, system_prompt)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_asked_and_what_is_learned(name: str) -> None:
    family = FAMILIES[name]
    codec = codec_of(family)
    rows = codec.encode(row(TALK))
    assert [learned(codec, one) for one in rows] == family.answers
    asked = codec.prompt_ids(row(TALK).asked)
    assert rows[-1].ids[: len(asked)] == asked
    assert asked == _asked_by_transformers(codec, TALK[:-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_prompt_is_learned_behind_or_refused(name: str) -> None:
    family = FAMILIES[name]
    if not family.hears_system:
        with pytest.raises(UserError, match=r"model\.system_prompt: .* refuses it"):
            codec_of(family, "Be brief")
        return
    codec = codec_of(family, "Be brief")
    ids, num_masked = codec.row_ids("hi", "hello")
    assert ids[:num_masked] == codec.prompt_ids("hi")
    assert ids[:num_masked] == _asked_by_transformers(codec, [SYSTEM, TALK[0]])
    assert codec.tokenizer.decode(ids[num_masked:]) == family.answers[0][0]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_message_of_the_user_is_begun_where_a_token_ends_it(name: str) -> None:
    codec = codec_of(FAMILIES[name])
    # Text, or a token of their own, ends it: the model would go on with the answer.
    if name in ("llama-2", "mistral", "glm-4", "chatml without its tokens"):
        with pytest.raises(UserError, match="ends a message of the user by no token"):
            codec.prompt_ids(OpenTurn())
        return
    opened = codec.prompt_ids(OpenTurn())
    assert codec.prompt_ids("hi")[: len(opened)] == opened
    asked = codec.tokenizer.decode(codec.prompt_ids("hi"))
    assert asked.startswith(f"{codec.tokenizer.decode(opened)}hi")


def test_a_template_that_never_writes_an_answer_as_it_asks_for_it_is_refused_at_once() -> (
    None
):
    hint = "{% if messages | length == 1 %}Answer this:\n{% endif %}"
    with pytest.raises(
        UserError, match="writes an answer otherwise than it has it generated"
    ):
        Codec(chat_tokenizer(hint + CHAT))


def test_a_template_that_draws_lots_draws_the_same_for_the_same_prompt() -> None:
    codec = Codec(chat_tokenizer("{{ range(1000) | random }}" + CHAT))
    assert len({tuple(codec.prompt_ids("hi")) for _ in range(3)}) == 1


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALLING: list[dict[str, Any]] = [
    TALK[2],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
    TALK[3],
]
WRITES_CALLS = TURN.replace(
    "{{ m['content'] }}", "{{ m['content'] }}{{ m.tool_calls | default([]) | tojson }}"
)


@pytest.mark.parametrize(
    ("template", "messages", "tools", "told"),
    [
        (SKIPS_SYSTEM, [SYSTEM, *TALK], (), "turns of role system"),
        (CHAT, CALLING, (), "calls of tools"),
        (
            CHAT.replace("%}<", "if m['role'] != 'tool' %}<", 1),
            CALLING[2:],
            (),
            "turns of role tool",
        ),
        (CHAT, TALK, (CALL,), "the tools that may be called"),
        (CHAT, [SYSTEM, *TALK], (), ""),
        (
            "{{ tools | tojson }}" + CHAT.replace(TURN, WRITES_CALLS),
            CALLING,
            (CALL,),
            "",
        ),
        (CHAT.replace(OPENING, "") + OPENING, [SYSTEM, TALK[0]], (), ""),
    ],
)
def test_a_turn_that_a_template_leaves_out_is_named(
    template: str,
    messages: list[dict[str, Any]],
    tools: tuple[dict[str, Any], ...],
    told: str,
) -> None:
    conversation = Conversation(messages=tuple(messages), tools=tools)
    codec = Codec(chat_tokenizer(template))
    if not told:
        codec.check_heard(conversation)
        return
    with pytest.raises(UserError, match=f"leaves out .*{told}"):
        codec.check_heard(conversation)


def _asked_by_transformers(codec: Codec, messages: list[dict[str, Any]]) -> list[int]:
    ids = codec.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    return list(ids)
