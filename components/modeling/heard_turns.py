"""Turns of conversations that a chat template leaves out without a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components.contracts.rows import Conversation
from components.errors import UserError
from components.modeling.chat_template import PROBE, Message, Refused, Tool
from components.modeling.turn_writer import TurnWriter

_MEND = "choose a model whose template writes them, or put them into the text of the user's turns"


class HeardTurns:
    """Sees to it that a template writes every kind of turn that conversations have.

    What user and assistant say is known to be written. A kind is looked for once.
    """

    def __init__(self, writer: TurnWriter) -> None:
        self._writer = writer
        self._heard = {"user", "assistant"}

    def check(self, conversation: Conversation) -> None:
        """Raise UserError if the template leaves out turns of a role, calls of tools, or tools."""
        messages = conversation.messages
        for kind, others, tools, told in _without(messages, conversation.tools):
            if kind in self._heard:
                continue
            if self._are_the_same(conversation, others, tools):
                raise UserError(f"the model's chat template leaves out {told}: {_MEND}")
            self._heard.add(kind)

    def _are_the_same(
        self,
        conversation: Conversation,
        others: Sequence[Message],
        tools: Sequence[Tool],
    ) -> bool:
        """Return whether a conversation and another of as many turns have the same text."""
        texts = self._texts(conversation.messages, conversation.tools)
        try:
            return texts == self._texts(others, tools)
        except Refused:
            # A template that cannot do without this turn has read it.
            return False

    def _texts(
        self, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> tuple[str, str]:
        """Return the text of a conversation, and that of the prompt before its answer."""
        # Of both, because some templates write a system prompt into the last turn if it is a user's.
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        return self._writer.render(messages, tools).text, self._writer.opened(
            asked, tools
        )


def _without(
    messages: Sequence[Message], tools: Sequence[Tool]
) -> Iterator[tuple[str, list[Message], Sequence[Tool], str]]:
    """Yield (kind, messages, tools, its name) with one thing of a conversation changed or left out."""
    for index, message in enumerate(messages):
        before = messages[:index]
        behind = messages[index + 1 :]
        content = message.get("content")
        if content:
            probe = f"{content}{PROBE}" if isinstance(content, str) else PROBE
            changed = {**message, "content": probe}
            role = str(message["role"])
            yield role, [*before, changed, *behind], tools, f"turns of role {role}"
        if message.get("tool_calls"):
            bare = {
                name: value for name, value in message.items() if name != "tool_calls"
            }
            yield (
                "tool_calls",
                [*before, bare, *behind],
                tools,
                "calls of tools (tool_calls)",
            )
    if tools:
        yield "tools", list(messages), (), "the tools that may be called (tools)"
