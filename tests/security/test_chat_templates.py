"""A chat template is a stranger's program: whatever it does, time and memory are bounded."""

from __future__ import annotations

from typing import Any

import pytest

from components.errors import UserError
from components.modeling.chat_template import Refused, render
from components.modeling.encoding import Codec
from tests.unit.chat_models import CHAT, chat_tokenizer

pytestmark = pytest.mark.process

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
DOUBLED = "{% set n = namespace(s=START) %}{% for i in range(60) %}{% set n.s = n.s JOIN n.s %}"
BOUND = "more than 2 s of processor time or 1024 MiB of memory"

FILLS_THE_MEMORY = (
    '{{ "x" * 10**10 }}',
    "{{ [1] * 10**10 }}",
    '{{ "x".ljust(10**11) }}',
    '{{ "x" | center(10**11) }}',
    '{{ "%099999999999d" % 1 }}',
    '{{ "{:>99999999999}".format(1) }}',
    '{{ ("a" * 99999) | replace("a", "a" * 99999) }}',
    '{{ "x\n" | indent(10**10) }}',
    "{{ dict(a=1) | tojson(indent=10**10) }}",
    "{{ range(99999) | batch(10**9, 1) | list }}",
    DOUBLED.replace("START", '"xx"').replace("JOIN", "~") + "{% endfor %}{{ n.s }}",
    DOUBLED.replace("START", "[1]").replace("JOIN", "+") + "{% endfor %}{{ n.s }}",
)
GOES_ON_FOR_EVER = ("{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3,)
IS_REFUSED_BY_ITSELF = (
    ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
    ("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "recursion"),
    ("{% if 1 %}" * 500 + "{% endif %}" * 500, "recursion"),
    ('{{ "x" * 30000000 }}', "it writes 30,000,000 characters"),
    (
        "{% for i in [1] %}" * 25 + "{% endfor %}" * 25,
        "too many statically nested blocks",
    ),
    ("{% if 1 %}" * 100 + "{% endif %}" * 100, "too many levels of indentation"),
    ("{% break %}", "'break' outside loop"),
    ("{{ f(a=1, a=2) }}", "keyword argument repeated"),
    ("{{ '\\ud800' }}", "surrogates not allowed"),
    ('{% include "/etc/passwd" %}', "no loader"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
    ("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "unsafe"),
)


@pytest.mark.parametrize("template", [*FILLS_THE_MEMORY, *GOES_ON_FOR_EVER])
def test_a_template_without_an_end_is_refused_within_a_bound(template: str) -> None:
    with pytest.raises(Refused, match=BOUND):
        render(chat_tokenizer(template), TALK)
    # The next conversation is rendered as if nothing had been.
    assert "hello" in render(chat_tokenizer(), TALK).text


@pytest.mark.parametrize(("template", "reason"), IS_REFUSED_BY_ITSELF)
def test_a_template_beyond_its_sandbox_is_refused_with_the_reason(
    template: str, reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        render(chat_tokenizer(template), TALK)


def test_a_template_that_harms_later_is_bounded_later() -> None:
    """A row of the data sets it off, after it was accepted."""
    codec = Codec(
        chat_tokenizer(
            '{% if "now" in messages[0].content %}{{ "x" * 10**10 }}{% endif %}' + CHAT
        )
    )
    assert codec.prompt_ids("hi")
    with pytest.raises(UserError, match=BOUND):
        codec.prompt_ids("now")


def test_a_long_conversation_is_no_attack() -> None:
    turns: list[dict[str, Any]] = [
        {"role": role, "content": "word " * 2000}
        for role in ("user", "assistant") * 100
    ]
    assert len(render(chat_tokenizer(), turns).text) > 2_000_000
