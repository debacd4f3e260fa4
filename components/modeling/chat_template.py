"""A model's own chat template: rendered with a clock that stands still, and with the text of people
told apart from what the template writes."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from components.errors import UserError

Message = Mapping[str, Any]
"""One turn: `role`, `content` and whatever else the template reads."""

TEMPLATE_DATE = datetime.datetime(2025, 1, 1, 12, 0, tzinfo=datetime.UTC)
"""The moment that every template sees: equal prompts have equal tokens, today and in a year."""
PROBE = "qzq"
"""Stands for an answer where only what is around it is looked at."""

_CLOCK = "strftime_now"
_MACRO = "{%- macro strftime_now(format) -%}"
_DIRECTIVES = "aAbBcdHIjmMpSUwWxXyYZzGuVDFeTRhk"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARKS = ("\U000f1000", "\U000f1001")
"""Stand before and after a control token that a message spells. For private use: no text has them."""
_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template that does not fit its messages raises."""


NOTHING = re.compile("(?!)")
"""Finds nothing."""


class Refused(UserError):
    """The template does not render these messages."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as its template writes it."""

    text: str
    """With MARKS around every control token that a message spells."""
    generated: tuple[tuple[int, int], ...] = ()
    """Where the template says that the assistant speaks ({% generation %})."""


def template_source(tokenizer: PreTrainedTokenizerBase, *, tools: bool = False) -> str:
    """Return the template that conversations are rendered by, its clock stopped; empty if the model
    has none.

    Raises UserError if it has several and none of them is the default.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        chosen = template.get("tool_use") if tools else None
        template = chosen or template.get("default")
        if template is None:
            raise UserError(
                f"the model has chat templates by name ({', '.join(sorted(tokenizer.chat_template))}) and none called "
                "default: save the tokenizer with the one to use as its chat_template"
            )
    return stopped(template or "")


def stopped(template: str) -> str:
    """Return the template with a clock that stands at TEMPLATE_DATE; one that reads no clock as it
    is."""
    if _CLOCK not in template or _MACRO in template:
        return template
    steps = "".join(
        f" | replace('%{flag}{letter}', '{_moment(letter, bare=bool(flag))}')"
        for letter in _DIRECTIVES
        for flag in ("-", "")
    )
    # A macro of the template comes before the function that transformers offers under this name.
    return f"{_MACRO}{{{{- format{steps} -}}}}{{%- endmacro -%}}{template}"


def _moment(letter: str, *, bare: bool) -> str:
    value = TEMPLATE_DATE.strftime(f"%{letter}")
    return value.lstrip("0 ") or "0" if bare else value


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    control: re.Pattern[str] = NOTHING,
    assistant_control: re.Pattern[str] = NOTHING,
    open_answer: bool = False,
) -> Rendered:
    """Render a conversation, in transformers' sandbox.

    Args:
        control: tokens that are marked where a message spells them.
        assistant_control: the same, for messages of the assistant.
        open_answer: let the assistant's next turn begin (`add_generation_prompt`).

    Raises:
        Refused: the template does not parse, or raises over these messages.
    """
    source = template_source(tokenizer, tools=bool(tools))
    conversation = [
        _marked(_plain(message), assistant_control if message["role"] == "assistant" else control)
        for message in messages
    ]
    watched = bool(_GENERATION.search(source))
    try:
        texts, spans = render_jinja_template(
            conversations=[conversation],
            tools=[_marked(_plain(tool), control) for tool in tools] or None,
            chat_template=source,
            return_assistant_tokens_mask=watched,
            add_generation_prompt=open_answer,
            **tokenizer.special_tokens_map,
        )
    except _FAILURES as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(f"the model's chat template refuses it ({said[:200]})") from None
    return Rendered(texts[0], tuple((start, end) for start, end in spans[0]) if watched else ())


def one_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of `tokens`, of those that begin alike the longest."""
    longest_first = sorted({token for token in tokens if token}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _plain(value: Any) -> Any:
    """Without None, which Parquet and APIs write for what is not there and templates would write as
    a word."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def marked(text: str, control: re.Pattern[str]) -> str:
    """Put MARKS around the control tokens that a text spells. Marks that it brings are dropped."""
    for mark in MARKS:
        text = text.replace(mark, "")
    return control.sub(lambda found: f"{MARKS[0]}{found[0]}{MARKS[1]}", text)


def _marked(value: Any, control: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return marked(value, control)
    if isinstance(value, dict):
        return {
            name: one if name == "role" else _marked(one, control) for name, one in value.items()
        }
    return [_marked(one, control) for one in value] if isinstance(value, list) else value
