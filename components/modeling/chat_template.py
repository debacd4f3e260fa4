"""A model's own chat template, rendered with a clock that stands still.

The text of people stays apart from the control tokens that the template writes.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from components.errors import UserError
from components.modeling.template_process import Question, Unrendered, rendered

Message = Mapping[str, object]
"""One turn: `role`, `content` and whatever else the template reads."""
Tool = Mapping[str, object]
"""JSON schema of a function that the assistant may call."""

TEMPLATE_DATE = datetime.datetime(2025, 1, 1, 12, 0, tzinfo=datetime.UTC)
"""The moment that every template sees: equal prompts have equal tokens, today and in a year."""
PROBE = "qzq"
"""A text that no template has, to find where a template writes an answer."""

_CLOCK = "strftime_now"
_MACRO = "{%- macro strftime_now(format) -%}"
_DIRECTIVES = "aAbBcdHIjmMpSUwWxXyYZzGuVDFeTRhk"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARKS = ("\U000f1000", "\U000f1001")
"""Stand before and after a control token that a message spells. Of Unicode's private use area."""
NOTHING = re.compile("(?!)")
"""A pattern without a match."""


class Refused(UserError):
    """The template does not render these messages."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as its template writes it."""

    text: str
    """With MARKS around every control token that a message spells."""
    generated: tuple[tuple[int, int], ...] = ()
    """Stretches [start, end) that the assistant speaks, where the template says so ({% generation
    %})."""


def template_source(tokenizer: PreTrainedTokenizerBase, *, tools: bool = False) -> str:
    """Return the template that conversations are rendered by, its clock stopped; empty for none.

    Of several it is the one for tools, with `tools`, or the default. Raises UserError if the model
    has several and none of them is the default.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        by_name = template
        template = by_name.get("default")
        if tools and by_name.get("tool_use"):
            template = by_name["tool_use"]
        if template is None:
            raise UserError(
                f"the model has chat templates by name ({', '.join(sorted(by_name))}) and none "
                "called default: save the tokenizer with the one to use as its chat_template"
            )
    return stopped(template or "")


def stopped(template: str) -> str:
    """Return the template with a clock that stands at TEMPLATE_DATE.

    One that reads no clock is returned as it is.
    """
    if _CLOCK not in template or _MACRO in template:
        return template
    # transformers gives templates `strftime_now(format)`, which reads the clock: equal prompts
    # would have other tokens tomorrow. The macro answers each directive by a constant.
    replacements = ""
    for letter in _DIRECTIVES:
        for flag in ("-", ""):
            moment = _moment(letter, bare=bool(flag))
            replacements += f" | replace('%{flag}{letter}', '{moment}')"
    # A macro of the template comes before the function that transformers offers under this name.
    return f"{_MACRO}{{{{- format{replacements} -}}}}{{%- endmacro -%}}{template}"


def _moment(letter: str, *, bare: bool) -> str:
    """Return TEMPLATE_DATE by a directive of strftime; `bare`: without leading zeros (`%-d`)."""
    value = TEMPLATE_DATE.strftime(f"%{letter}")
    if not bare:
        return value
    return value.lstrip("0 ") or "0"


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    control: re.Pattern[str] = NOTHING,
    assistant_control: re.Pattern[str] = NOTHING,
    open_answer: bool = False,
) -> Rendered:
    """Render a conversation, in transformers' sandbox and a process of bounded time and memory.

    Args:
        tokenizer: of the model, with its chat template and its special tokens.
        messages: the turns.
        tools: functions that the assistant may call.
        control: tokens that are marked where a message spells them.
        assistant_control: the same, for messages of the assistant.
        open_answer: let the assistant's next turn begin (`add_generation_prompt`).

    Raises:
        Refused: the template does not parse, raises over these messages, or takes too much time or
            memory.
    """
    source = template_source(tokenizer, tools=bool(tools))
    # Marked before the template sees it: in what it writes, a token that a message spells looks
    # like one of its own.
    conversation = [
        _marked(
            _plain(message),
            assistant_control if message["role"] == "assistant" else control,
        )
        for message in messages
    ]
    question = Question(
        template=source,
        messages=conversation,
        # Templates ask whether there are tools, not how many: none is None, not [].
        tools=[_marked(_plain(tool), control) for tool in tools] or None,
        marks_generation=bool(_GENERATION.search(source)),
        open_answer=open_answer,
        special_tokens=tokenizer.special_tokens_map,
    )
    try:
        text, generated = rendered(question)
    except Unrendered as error:
        raise Refused(f"the model's chat template refuses it ({error})") from None
    return Rendered(text, tuple(generated))


def one_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of `tokens`, the longest of those that begin alike."""
    # A regular expression takes the first alternative that fits.
    longest_first = sorted({token for token in tokens if token}, key=len, reverse=True)
    if not longest_first:
        return NOTHING
    return re.compile("|".join(map(re.escape, longest_first)))


def _plain(value: object) -> object:
    """Return a message as JSON types, without keys whose value is None."""
    # Parquet and APIs write None for a key that is not there; templates would write the word.
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def marked(text: str, control: re.Pattern[str]) -> str:
    """Put MARKS around the control tokens that a text spells. Marks that it brings are dropped."""
    opening, closing = MARKS
    text = text.replace(opening, "").replace(closing, "")
    return control.sub(lambda match: f"{opening}{match[0]}{closing}", text)


def _marked(value: object, control: re.Pattern[str]) -> object:
    """Mark every text of a message except its role."""
    if isinstance(value, str):
        return marked(value, control)
    if isinstance(value, dict):
        return {
            name: item if name == "role" else _marked(item, control)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_marked(item, control) for item in value]
    return value
