"""Answers in the forms of many servers: text, ends, reasoning, and answers that hold no answer."""

from __future__ import annotations

from dataclasses import dataclass

from components.canonical import JsonObject, whole_characters

CUT_OFF = frozenset(
    {
        "length",
        "max_tokens",
        "max_length",
        "max_new_tokens",
        "max_output_tokens",
        "max_completion_tokens",
        "model_length",
        "token_limit",
        "model_context_window_exceeded",
    }
)
"""Values of `finish_reason` for an answer that a limit ended, in lower case. Servers have many words
for an answer that the model ended (stop, eos, eos_token, end_turn, stop_sequence, null)."""
# Mistral: model_length. TGI: length. Gemini: MAX_TOKENS. Bedrock's gateways: max_tokens. z.AI:
# model_context_window_exceeded.
BLOCKED = frozenset(
    {
        "content_filter",
        "content_filtered",
        "safety",
        "recitation",
        "prohibited_content",
        "blocklist",
        "spii",
        "sensitive",
        "refusal",
        "guardrail_intervened",
    }
)
"""Values for an answer that a content filter took away (OpenAI, Gemini, z.AI, Bedrock)."""
FAILED = frozenset(
    {
        "error",
        "network_error",
        "abort",
        "aborted",
        "cancelled",
        "insufficient_system_resource",
    }
)
"""Values for an answer that broke off because the server failed (OpenRouter, z.AI, vLLM,
DeepSeek)."""
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")


@dataclass(frozen=True)
class ChatReply:
    """The answer of an endpoint to one request."""

    text: str
    cut_off: bool = False
    """A limit on tokens ended the answer."""
    num_tokens: int | None = None
    """Tokens of the answer as the endpoint counts them; None if it does not."""
    no_answer: str = ""
    """Reason why this is no answer to the prompt, though nothing failed; empty if it is one."""


def read_reply(document: object, max_tokens: int | None = None) -> ChatReply | None:
    """Return the answer in a chat completion; None if the document is no chat completion.

    Args:
        document: The parsed body.
        max_tokens: Tokens that were asked for: decides where an endpoint gives no finish reason.
    """
    choice = first_choice(document)
    if choice is None or not isinstance(document, dict):
        return None
    message = choice.get("message") or choice.get("delta")
    if not isinstance(message, dict):
        # The older completions have the text in the choice itself.
        if not isinstance(choice.get("text"), str):
            return None
        message = {"content": choice["text"]}
    num_tokens = _counted_tokens(document.get("usage"))
    reason = finish_reason(choice)
    text = whole_characters(_text_of(message.get("content")))
    cut_off = reason in CUT_OFF
    if not reason and num_tokens is not None and max_tokens is not None:
        cut_off = num_tokens >= max_tokens
    no_answer = ""
    if reason in BLOCKED:
        no_answer = f"refused (content policy): finish_reason {reason}"
        text = ""
    elif not text.strip() and not cut_off:
        no_answer = _why_empty(message)
    return ChatReply(
        text=text, cut_off=cut_off, num_tokens=num_tokens, no_answer=no_answer
    )


def first_choice(document: object) -> JsonObject | None:
    """Return the first choice of a chat completion; None if there is none."""
    choices = document.get("choices") if isinstance(document, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return None


def finish_reason(choice: JsonObject) -> str:
    """Return the reason why an answer ended, in lower case; empty if the endpoint gives none."""
    reason = choice.get("finish_reason") or choice.get("stop_reason")
    if isinstance(reason, dict):
        # SGLang's own form: {"type": "length", "length": 64}.
        reason = reason.get("type")
    if not isinstance(reason, str):
        return ""
    # Gateways that print an enumeration: FinishReason.MAX_TOKENS.
    return reason.rpartition(".")[2].strip().lower().replace("-", "_").replace(" ", "_")


def _text_of(content: object) -> str:
    """Return the text of a message's content: a string, a part, or a list of parts.

    Parts that hold thoughts (`{"type": "thinking", …}`) are no text of the answer.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of(part) for part in content)
    if isinstance(content, dict) and content.get("type", "text") in (
        "text",
        "output_text",
    ):
        return _text_of(content.get("text", content.get("value")))
    return ""


def _why_empty(message: JsonObject) -> str:
    """Return the reason why a message holds no text; empty if the model just said nothing."""
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return f"refused: {' '.join(refusal.split())[:200]}"
    for name in _REASONING_FIELDS:
        thoughts = message.get(name)
        if thoughts:
            return (
                f"no text but {len(str(thoughts))} characters of thoughts in `{name}`"
            )
    if isinstance(message.get("content"), list) and message["content"]:
        return "no text in the parts of its content"
    if message.get("tool_calls") or message.get("function_call"):
        return "no text but a call of a tool"
    return ""


def _counted_tokens(usage: object) -> int | None:
    """Return the tokens of the answer; None if the endpoint does not count them."""
    if not isinstance(usage, dict):
        return None
    for name in ("completion_tokens", "output_tokens"):
        count = usage.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            return count
    return None
