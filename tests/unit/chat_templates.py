"""Chat templates in the shape of real ones, a conversation for them, and what is learned of it."""

from __future__ import annotations

import itertools
from typing import Any

from components.contracts.rows import Conversation, TrainingRow
from components.modeling.encoding import Codec, Encoded
from tests.unit.chat_models import CHAT, OPENING, TURNS

SYSTEM = {"role": "system", "content": "Be brief"}
TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "2+2"},
    {"role": "assistant", "content": "4"},
]
THINK = (*TURNS, "<think>", "</think>")
OPENS_THOUGHT = CHAT.replace(
    "assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"
)
"""DeepSeek-R1 in small: thoughts are begun for the model, and left out of what was said before."""
DROPS_THOUGHTS = (
    "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% set t = c.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in c else '' %}"
    "{% set c = c.split('</think>')[-1].strip() %}<start_of_turn>assistant\n"
    "{% if loop.last %}<think>\n{{ t }}\n</think>\n\n{% endif %}{{ c }}<end_of_turn>\n"
    "{% else %}<start_of_turn>{{ m['role'] }}\n{{ c }}<end_of_turn>\n{% endif %}{% endfor %}"
    + OPENING
)
"""Qwen3 in small: the last answer has a thought, if an empty one; those before have none."""
MERGES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ (s if loop.first else '') + "
    "m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma 3 in small: the system prompt is part of the first turn, white space is trimmed."""
NO_HEADER = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""Llama 2 and Mistral in small: the answer follows a turn that ends in text."""
NO_OPENING = CHAT.removesuffix(OPENING)
MARKED = (
    "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "<end_of_turn>\n{% endfor %}" + OPENING
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHAT
)
SKIPS_SYSTEM = CHAT.replace("in messages %}", "in messages if m['role'] != 'system' %}")
CLOCK = "{{ 'Now: ' + strftime_now('%d %b %Y %H:%M:%S') + '\n' }}" + CHAT


def row(messages: list[dict[str, Any]], **fields: Any) -> TrainingRow:
    tools = tuple(fields.pop("tools", ()))
    return TrainingRow(
        id="r",
        prompt="as text",
        completion=str(messages[-1]["content"]),
        conversation=Conversation(messages=tuple(messages), tools=tools),
        **{"source": "labelled", "round": 0, **fields},
    )


def learned(codec: Codec, encoded: Encoded) -> list[str]:
    """The stretches that bear loss, as text."""
    edges = [
        (0, encoded.num_masked),
        *encoded.gaps,
        (len(encoded.ids), len(encoded.ids)),
    ]
    decode = codec.tokenizer.decode
    return [
        decode(encoded.ids[end:start])
        for (_, end), (start, _) in itertools.pairwise(edges)
    ]


def whole(codec: Codec, messages: list[dict[str, Any]]) -> str:
    """What transformers makes of a conversation, up to the last end of turn."""
    return str(codec.tokenizer.apply_chat_template(messages, tokenize=False)).rstrip(
        "\n"
    )
