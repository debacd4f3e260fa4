"""The names that public data sets give to questions, answers and turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.contracts.recipe import DataSource

Names = Mapping[str, str]
"""Name of a field, in lower case and without white space around → as its file writes it."""


@dataclass(frozen=True)
class Pair:
    """Names of the fields of a question and its answer."""

    prompt: str
    completion: str
    context: str = ""
    """Field with more of the question, set below it; empty: none."""


PAIRS = (
    Pair("prompt", "completion"),
    Pair("prompt", "response"),
    Pair("prompt", "answer"),
    Pair("prompt", "output"),
    # Alpaca, and Dolly.
    Pair("instruction", "output", "input"),
    Pair("instruction", "response", "context"),
    Pair("question", "answer", "context"),
    Pair("question", "response", "context"),
    Pair("query", "response"),
    Pair("query", "answer"),
    Pair("input", "output"),
    Pair("input", "target"),
)
"""Pairs of fields that are found without the recipe's help; the first that a row has counts."""

CLASS_FIELDS = frozenset({"label", "category", "class", "intent"})
"""Names of an answer that is a class, where the recipe names it as `completion_field`."""

TURNS = ("messages", "conversations", "conversation")
"""Fields that hold the turns of a conversation."""

SYSTEM = ("system", "system_prompt")
"""Fields that hold the system's text, which comes before all turns."""

TOOLS = ("tools", "functions")
"""Fields that hold the tools that may be called."""

SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""`from` of a turn in the form of ShareGPT, or a `role` in its words → its role."""

CALLERS = frozenset({"function_call", "tool_call"})
"""`from` of a turn of the assistant that is the JSON of its calls of tools."""

MEANINGFUL = {
    "choices": "write the choices into the text of the question",
    "options": "write the options into the text of the question",
    "history": "write all turns as `messages`",
}
"""Field that changes the question, so that it must not be left out → what helps."""


def names_of(row: Mapping[object, object]) -> dict[str, str]:
    """Return the fields of a row, by their names in lower case. A field without a name is none."""
    # Writers of data frames leave the name of the row numbers empty.
    return {str(name).strip().lower(): str(name) for name in row if str(name).strip()}


def pair_of(names: Names, source: DataSource) -> Pair | None:
    """Return the fields that hold question and answer, as the file writes them; None without.

    The recipe's names come first. Where it has names of its own, no others are guessed.
    """
    own = Pair(source.prompt_field, source.completion_field)
    written = names.values()
    if own.prompt in written and own.completion in written:
        return own
    defaults = (
        DataSource.model_fields[name].default
        for name in ("prompt_field", "completion_field")
    )
    if (own.prompt, own.completion) == tuple(defaults):
        # A question alone is a row too, but any pair that is whole tells more about its names.
        for is_answered in (True, False):
            for pair in PAIRS:
                if pair.prompt not in names or (
                    is_answered and pair.completion not in names
                ):
                    continue
                if not is_answered and source.split != "unlabelled":
                    continue
                return Pair(
                    names[pair.prompt],
                    names.get(pair.completion, ""),
                    names.get(pair.context, ""),
                )
    return own if own.prompt in written else None
