"""The text of a conversation up to an answer, and of the answer as it is generated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.errors import UserError
from components.modeling.chat_template import Message, Rendered, Tool, marked, render
from components.modeling.text_encoder import MARKED
from components.modeling.turn_form import TurnForm

_THOUGHT = re.compile(r"<(\w+)>\s*(</\1>\s*)?\Z")
"""The end of a generation prompt that begins a thought (group 1), or closes it too (group 2)."""


@dataclass(frozen=True)
class TurnWriter:
    """Writes turns by a chat template, with marks around control tokens that a message spells."""

    form: TurnForm

    def answered(
        self, messages: Sequence[Message], reply: Message, tools: Sequence[Tool]
    ) -> tuple[str, str]:
        """Return (text before the reply's turn, that turn up to the token that ends it).

        Raises UserError for a template that writes the turn otherwise than it is generated.
        """
        opened = self.opened(messages, tools)
        rendered = self.render([*messages, reply], tools).text
        if rendered.startswith(opened):
            return opened, self._ended(rendered[len(opened) :])
        # Templates of models that think may begin a thought for the model to go on with, and leave
        # it out of the turns that are over.
        thought = _THOUGHT.search(opened)
        if thought is not None and rendered.startswith(opened[: thought.start()]):
            written = self._ended(rendered[thought.start() :])
            is_closed = bool(thought[2])
            return opened, written if is_closed else self._with_thought(
                thought[1], reply, written
            )
        return opened, self._answer_to_question(messages, reply, tools)

    def _answer_to_question(
        self, messages: Sequence[Message], reply: Message, tools: Sequence[Tool]
    ) -> str:
        """Return a reply's turn as it follows the last question, without what stands before that.

        Some templates write the turns before an answer otherwise once it is there: Mistral's put the
        system prompt into the last turn if it is a user's.
        """
        question = messages[_last_index(messages, "user") :]
        if len(question) < len(messages):
            opened = self.opened(question, tools)
            rendered = self.render([*question, reply], tools).text
            if rendered.startswith(opened):
                return self._ended(rendered[len(opened) :])
        raise UserError(
            "the model's chat template writes an answer otherwise than it has it generated, so "
            "nothing can be trained that would be sampled: mend the template "
            "(add_generation_prompt)"
        )

    def _with_thought(self, tag: str, reply: Message, written: str) -> str:
        """Return an answer whose thought comes first, an empty one if there is none.

        For a generation prompt that has opened the thought's `tag` already.
        """
        closing = f"</{tag}>"
        content = str(reply.get("content") or "")
        if closing in content:
            thought = content.strip().removeprefix(f"<{tag}>")
            thought = marked(thought.removeprefix("\n"), self.form.assistant_control)
            return thought + self.end_token_of(written)
        # Two names that templates and data sets have for it.
        reasoning = reply.get("reasoning_content") or reply.get("thinking") or ""
        thought = marked(str(reasoning).strip(), self.form.assistant_control)
        return f"{thought}\n{closing}\n\n{written}"

    def _ended(self, text: str) -> str:
        """Return a turn up to the first token that ends it; with one, if the template has none."""
        ends = "|".join(re.escape(token) for token in self.form.end_tokens)
        # A marked token is passed over: a message spells it.
        for match in re.finditer(f"{MARKED.pattern}|({ends})", text):
            if match[2]:
                return text[: match.end()]
        # What a template writes behind an answer in letters is none of it: sampled answers would
        # have to say it too.
        answer = text.rstrip("\n").removesuffix(self.form.end_text)
        return answer + self.form.end_tokens[0]

    def end_token_of(self, text: str) -> str:
        """Return the end token that a text ends with, empty if none."""
        return next(
            (token for token in self.form.end_tokens if text.endswith(token)), ""
        )

    def opened(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """Return the text of a conversation with the assistant's turn begun."""
        opened = self.render(messages, tools, open_answer=True)
        return opened.text + self.form.header

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        open_answer: bool = False,
    ) -> Rendered:
        """Return the text of a conversation, with `open_answer` up to the assistant's next turn."""
        return render(
            self.form.tokenizer,
            messages,
            tools,
            control=self.form.control,
            assistant_control=self.form.assistant_control,
            open_answer=open_answer,
        )


def _last_index(messages: Sequence[Message], role: str) -> int:
    """Return the index of the last turn of a role, 0 if there is none."""
    indices = [
        index for index, message in enumerate(messages) if message["role"] == role
    ]
    return indices[-1] if indices else 0
